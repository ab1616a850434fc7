from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ldm.errors import CheckpointError, UserError
from ldm.evaluation.inception import WEIGHTS_FILE, InceptionFeatures


def test_absent_weights_are_named_with_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torch_fidelity(monkeypatch)
    with pytest.raises(CheckpointError, match=r"nowhere.pth' are absent: take weights-inception"):
        InceptionFeatures(tmp_path / "nowhere.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(CheckpointError, match=f"{tmp_path}/checkpoints/{WEIGHTS_FILE}"):
        InceptionFeatures()


@pytest.mark.parametrize("kind", ["text", "code", "other"])
def test_damaged_weights_are_named_and_no_code_runs(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("torch_fidelity")
    path = tmp_path / "weights.pth"
    if kind == "text":
        path.write_text("<html>not found</html>")
    elif kind == "code":
        torch.save({"x": Trap(str(tmp_path / "sprung"))}, path)
    else:
        torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"weights.pth' does not hold the Inception weights"):
        InceptionFeatures(path)
    assert not (tmp_path / "sprung").exists()


class Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.path),)


def test_without_torch_fidelity_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch_fidelity", "torch_fidelity.feature_extractor_inceptionv3"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="pip install torch-fidelity"):
        InceptionFeatures()


def test_images_reach_the_network_as_rounded_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torch_fidelity(monkeypatch)
    torch.save({}, tmp_path / WEIGHTS_FILE)
    extractor = InceptionFeatures(tmp_path / WEIGHTS_FILE)
    levels = torch.arange(256).reshape(1, 1, 16, 16)
    assert extractor.network.features == ["2048", "logits_unbiased"]
    seen, logits = extractor.features_and_logits((levels / 127.5 - 1).clone())
    assert torch.equal(seen, extractor((levels / 127.5 - 1).clone()))
    assert torch.equal(logits, seen.float() / 2)
    assert seen.dtype == torch.uint8
    assert torch.equal(seen, levels.to(torch.uint8))
    assert extractor(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
    assert extractor.network.options["feature_extractor_weights_path"] == str(
        tmp_path / WEIGHTS_FILE
    )


def fake_torch_fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package may be absent: what is tested is how it is used."""
    name = "torch_fidelity.feature_extractor_inceptionv3"
    module = ModuleType(name)
    module.FeatureExtractorInceptionV3 = Echo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, name, module)


class Echo(torch.nn.Module):
    def __init__(self, name: str, features: list[str], **options: str) -> None:
        super().__init__()
        self.features, self.options = features, options

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return pixels, pixels.float() / 2


@pytest.mark.slow
def test_features_equal_those_of_torch_fidelity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    network = random_network(module, monkeypatch)
    torch.save(network.state_dict(), tmp_path / WEIGHTS_FILE)
    features = InceptionFeatures(tmp_path / WEIGHTS_FILE)
    pixels = torch.arange(256, dtype=torch.uint8).repeat(12).reshape(1, 3, 32, 32)
    images = pixels.float() / 127.5 - 1
    got, logits = features.features_and_logits(images)
    assert got.shape == (1, features.dim)
    assert logits.shape == (1, 1008)
    assert got.std() > 0
    assert logits.std() > 0
    assert torch.equal(got, network(pixels)[0])
    assert torch.equal(logits, network(pixels)[1])
    assert torch.equal(got, features(images))


def random_network(module, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """torch-fidelity's network with formula weights, made without its download."""
    kind = module.FeatureExtractorInceptionV3
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(kind, "load_state_dict", lambda *_: None)
        for name in ("kaiming_uniform_", "uniform_"):  # the slow part of building it
            patch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
        network = kind("inception-v3-compat", ["2048", "logits_unbiased"])
    for key, value in network.state_dict().items():
        if value.ndim > 1:
            wave = torch.arange(value.numel(), dtype=torch.float32).mul_(0.7).sin_()
            value.copy_(wave.reshape(value.shape) * (2 * value[0].numel()) ** -0.5)
        elif "running_var" in key or key.endswith("bn.weight"):
            value.fill_(1)
        else:
            value.zero_()
    return network
