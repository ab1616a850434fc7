from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.errors import CheckpointError
from ldm.evaluation.networks.dinov2 import WEIGHTS, dinov2, positions


def pixels(n: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, 224, 224), dtype=torch.uint8, generator=generator)


def original(side: int = 224) -> nn.Module:
    """The network of the original's file, small, from an independent library."""
    timm = pytest.importorskip("timm.models.vision_transformer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.VisionTransformer(
            img_size=side,
            patch_size=14,
            embed_dim=128,
            depth=2,
            num_heads=2,
            init_values=1.0,
            num_classes=0,
        )
        for parameter in network.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def saved(network: nn.Module, path: Path) -> Path:
    torch.save(network.state_dict() | {"mask_token": torch.zeros(1, 128)}, path)
    return path


def test_equals_an_independent_library_and_its_own_copy_of_transformers(tmp_path: Path) -> None:
    network = original()
    got = dinov2(saved(network, tmp_path / WEIGHTS.file))
    assert got.outputs == {"cls": 128}
    assert got.weights_file.endswith(WEIGHTS.file)
    assert len(got.weights_sha256) == 64
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        x = (pixels().float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        want = network(x)
    features = got(pixels())["cls"]
    assert torch.allclose(features, want, atol=1e-4)
    assert features.std(0).mean() > 0.01
    got.network.save_pretrained(tmp_path / "folder")
    again = dinov2(tmp_path / "folder")
    assert torch.equal(again(pixels())["cls"], features)


def test_files_of_other_image_sizes_are_read(tmp_path: Path) -> None:
    network = original(side=518)
    got = dinov2(saved(network, tmp_path / "large.pth"))
    embeddings = network.state_dict()["pos_embed"]
    assert embeddings.shape[1] == 1 + 37**2
    own = got.network.embeddings.position_embeddings
    assert torch.equal(own, positions(embeddings, 16))


def test_positions_are_scaled_as_the_original_scales_them() -> None:
    places = torch.arange(37.0)
    ramp = places.expand(37, 37).reshape(1, -1, 1)  # the column of each patch
    token = torch.full((1, 1, 1), -5.0)
    got = positions(torch.cat([token, ramp], 1), 16)
    assert got.shape == (1, 257, 1)
    assert got[0, 0, 0] == -5
    rows = got[0, 1:, 0].reshape(16, 16)[:, 1:-1]
    for grid, near in ((16.1, True), (16.0, False)):  # torch's cubic bends a ramp by 0.05
        want = (torch.arange(1.0, 15.0) + 0.5) / (grid / 37) - 0.5
        assert torch.allclose(rows, want.expand(16, 14), atol=0.06, rtol=0) == near
    plain = F.interpolate(ramp.reshape(1, 1, 37, 37), (16, 16), mode="bicubic")[0, 0, :, 1:-1]
    assert (plain - rows).abs().max() > 0.15
    assert torch.equal(positions(got, 16), got)


def test_it_resizes_outside() -> None:
    from transformers import Dinov2Config, Dinov2Model

    from ldm.evaluation.networks.dinov2 import DINOv2Network

    model = Dinov2Model(Dinov2Config(hidden_size=64, num_hidden_layers=1, num_attention_heads=1))
    network = DINOv2Network(model)
    assert (network.resize.name, network.resize.size) == ("pil-bicubic", 224)
    assert DINOv2Network(model, "clean").resize.name == "clean"


def test_wrong_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        CheckpointError, match=rf"{tmp_path}/checkpoints/{WEIGHTS.file}' are absent"
    ):
        dinov2()
    with pytest.raises(CheckpointError, match=r"holds no model.safetensors"):
        dinov2(tmp_path)
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other.pth' does not hold the weights of a DINOv2"):
        dinov2(tmp_path / "other.pth")
    state = original().state_dict()
    state.pop("blocks.1.mlp.fc1.bias")
    state["mask_token"] = torch.zeros(1, 128)
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"1 weights missing or surplus, first .*fc1.bias"):
        dinov2(tmp_path / "part.pth")
    torch.save(state | {"register_tokens": torch.zeros(1, 4, 128)}, tmp_path / "registers.pth")
    with pytest.raises(CheckpointError, match="with registers"):
        dinov2(tmp_path / "registers.pth")
