from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ldm.errors import CheckpointError, UserError
from ldm.evaluation.networks.base import features_of
from ldm.evaluation.networks.inception import WEIGHTS_FILE, inception
from ldm.evaluation.networks.registry import network
from ldm.evaluation.networks.resizing import to_uint8
from ldm.files import file_sha256


def test_absent_weights_are_named_with_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torch_fidelity(monkeypatch)
    with pytest.raises(CheckpointError, match=r"nowhere.pth' are absent: take weights-inception"):
        inception(tmp_path / "nowhere.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(CheckpointError, match=f"{tmp_path}/checkpoints/{WEIGHTS_FILE}"):
        inception()
    with pytest.raises(CheckpointError, match=r"\(sha256 6726825d...\) .* --weights PATH"):
        network("inception")


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
        inception(path)
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
        inception()


def test_the_package_is_asked_for_its_features_and_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torch_fidelity(monkeypatch)
    torch.save({}, tmp_path / WEIGHTS_FILE)
    found = inception(tmp_path / WEIGHTS_FILE)
    assert found.network.features == ["2048", "logits_unbiased"]
    assert found.network.options["feature_extractor_weights_path"] == str(tmp_path / WEIGHTS_FILE)


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


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch:
        return random_network(module, patch)


@pytest.fixture(scope="module")
def weights(theirs: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / WEIGHTS_FILE
    torch.save(theirs.state_dict(), path)
    return path


def noise(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.slow
def test_network_equals_torch_fidelity(theirs: torch.nn.Module, weights: Path) -> None:
    ours = network("inception", weights)
    pixels = noise(2, 40, 32)
    pool, logits = theirs(pixels)
    got = ours(pixels)
    assert {name: x.shape[1] for name, x in got.items()} == ours.outputs
    assert torch.equal(got["pool"], pool)
    assert torch.equal(got["logits"], logits)
    assert got["pool"].std(0).mean() > 1e-3
    assert pool.max() > 0.1
    alone = features_of(ours, list(pixels))
    assert torch.allclose(alone["pool"], pool, rtol=1e-3, atol=1e-5)
    assert ours.weights_sha256 == file_sha256(weights)
    assert ours.remark == (
        f"not the published weights of Inception: sha256 {ours.weights_sha256[:8]}, not 6726825d"
    )


@pytest.mark.slow
def test_spatial_features_are_those_of_adm(theirs: torch.nn.Module, weights: Path) -> None:
    """mixed_6/conv of TensorFlow is the 1x1 branch of Mixed_6d; ADM flattens (h, w, channels)."""
    seen = []
    hook = theirs.Mixed_6d.branch1x1.register_forward_hook(lambda *call: seen.append(call[2]))
    pixels = noise(1, 64, 64)
    theirs(pixels)
    hook.remove()
    got = network("inception", weights)(pixels)["spatial"]
    assert seen[0].shape == (1, 192, 17, 17)
    adm = seen[0].numpy().transpose(0, 2, 3, 1)[..., :7].reshape(1, -1)
    assert torch.equal(got, torch.from_numpy(adm.copy()))
    assert got.std() > 0


@pytest.mark.slow
def test_clean_images_reach_the_network_as_clean_fid_gives_them(
    theirs: torch.nn.Module, weights: Path
) -> None:
    cleanfid = pytest.importorskip("cleanfid.resize")
    ours = network("inception", weights, "clean")
    (image,) = noise(1, 50, 70)
    resized = cleanfid.build_resizer("clean")(image.permute(1, 2, 0).numpy())
    seen = []
    hook = ours.network.Conv2d_1a_3x3.register_forward_hook(lambda *call: seen.append(call[1][0]))
    got = features_of(ours, [image])
    hook.remove()
    want = (torch.from_numpy(resized.copy()).permute(2, 0, 1)[None] - 128) / 128
    assert torch.equal(seen[0], want)
    plain = features_of(network("inception", weights), [image])
    assert not torch.allclose(got["pool"], plain["pool"], rtol=1e-4)


@pytest.mark.slow
def test_images_in_floats_reach_the_network_as_rounded_bytes(
    theirs: torch.nn.Module, weights: Path
) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(12).reshape(1, 3, 32, 32)
    images = pixels.float() / 127.5 - 1
    assert torch.equal(to_uint8(images), pixels)
    got = features_of(network("inception", weights), list(to_uint8(images * 1.001)))
    assert got["pool"].std() > 0
    assert torch.equal(got["pool"], theirs(pixels)[0])
    assert torch.equal(got["logits"], theirs(pixels)[1])


def random_network(module, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """torch-fidelity's network with random weights, made without its download."""
    kind = module.FeatureExtractorInceptionV3
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(kind, "load_state_dict", lambda *_: None)
        for name in ("kaiming_uniform_", "uniform_"):  # the slow part of building it
            patch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
        network = kind("inception-v3-compat", ["2048", "logits_unbiased"])
    generator = torch.Generator().manual_seed(0)
    for key, value in network.state_dict().items():
        if value.ndim > 1:
            value.normal_(generator=generator).mul_((2 / value[0].numel()) ** 0.5)
        elif "running_var" in key or key.endswith("bn.weight"):
            value.fill_(1)
        else:
            value.zero_()
    return network
