from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VGG
from torchvision.models.vgg import make_layers

from ldm.errors import CheckpointError
from ldm.evaluation.networks.vgg16 import WEIGHTS, VGG16Network, vgg16


def pixels(side: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator)


def small() -> VGG:
    """torchvision's VGG with few channels."""
    with torch.device("meta"):
        network = VGG(make_layers([4, "M", 4, "M"]), num_classes=5, init_weights=False)
    network.classifier = nn.Sequential(
        nn.Linear(4 * 49, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5)
    )
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return network.eval()


def test_it_stops_after_the_second_relu() -> None:
    network = small()
    got = VGG16Network(network).eval()
    assert got.outputs == {"fc2": 7}
    assert got.resize.name == "network"
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1)) * 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        y = (x / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        want = network.classifier[:5](network.avgpool(network.features(y)).flatten(1))
    features = got(x)["fc2"]
    assert torch.allclose(features, want, atol=1e-4)
    assert (features >= 0).all()
    assert features.max() > 0


def test_absent_or_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        CheckpointError,
        match=rf"{tmp_path}/checkpoints/{WEIGHTS.file}' are absent: take {WEIGHTS.file} "
        r"\(sha256 397923af...\) .* --weights PATH",
    ):
        vgg16()
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"part.pth' does not hold .* head included"):
        vgg16(tmp_path / "part.pth")


@pytest.mark.slow
def test_features_equal_those_of_torch_fidelity(tmp_path: Path) -> None:
    module = pytest.importorskip("torch_fidelity.feature_extractor_vgg16")
    from torchvision.models import vgg16 as architecture

    with torch.device("meta"):
        network = architecture()
    wave = torch.arange(1 << 16, dtype=torch.float32).mul_(0.7).sin_()
    state = {}
    for key, value in network.state_dict().items():
        fan = value[0].numel() if value.ndim > 1 else 100
        repeats = -(-value.numel() // len(wave))
        state[key] = wave.repeat(repeats)[: value.numel()].view(value.shape) * (4 / fan) ** 0.5
    torch.save(state, tmp_path / WEIGHTS.file)
    del network, state
    ours = vgg16(tmp_path / WEIGHTS.file)
    assert ours.remark.startswith("not the published weights of VGG16")
    assert ours.outputs == {"fc2": 4096}
    got = ours(pixels())["fc2"]
    del ours
    theirs = module.FeatureExtractorVGG16(
        "vgg16", ["fc2_relu"], feature_extractor_weights_path=str(tmp_path / WEIGHTS.file)
    )
    (want,) = theirs(pixels())
    assert got.std() > 0
    assert torch.allclose(got, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))
