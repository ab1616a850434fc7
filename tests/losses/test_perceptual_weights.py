"""LPIPS from files: what is read, and what is said when it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.config import instantiate
from ldm.errors import CheckpointError
from ldm.losses.perceptual import LPIPS, VGG16, lpips

TARGET = "ldm.losses.lpips"
with torch.device("meta"):
    SHAPES = {key: value.shape for key, value in LPIPS().state_dict().items()}
VGG_KEYS = [key for key in SHAPES if key.startswith("net.")]


def numbered(key: str) -> str:
    return key.split(".", 2)[2]


def vgg16(prefix: str = "features.", **changes: Tensor) -> dict[str, Tensor]:
    """State dict of VGG16 with one value per tensor, in a file of a few kilobytes."""
    state = {
        prefix + numbered(key): torch.tensor(0.001 * i).expand(SHAPES[key])
        for i, key in enumerate(VGG_KEYS)
    }
    return state | {"classifier.0.weight": torch.zeros(2, 2)} | changes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("prefix", ["features.", ""])
@pytest.mark.parametrize("new_format", [True, False])
def test_weights_reach_their_places(tmp_path: Path, prefix: str, new_format: bool) -> None:
    file = tmp_path / "vgg.pth"
    torch.save(vgg16(prefix), file, _use_new_zipfile_serialization=new_format)
    network = lpips(file, channels="repeat")
    assert network.channels == "repeat"
    assert not any(p.requires_grad for p in network.parameters())
    state = network.state_dict()
    for i, key in enumerate(VGG_KEYS):
        assert (state[key] == torch.tensor(0.001 * i)).all(), key
    # sums of the heads of version 0.1 of the package lpips
    sums = [state[f"lin{i}.model.1.weight"].sum().item() for i in range(5)]
    assert sums == pytest.approx([6.92599, 8.85833, 17.51501, 51.52132, 47.03486], rel=1e-5)


def test_default_place_and_config(cache: Path) -> None:
    torch.save(vgg16(), cache / "vgg16-397923af.pth")
    network = instantiate({"target": TARGET, "params": {"channels": [2, 1, 0]}})
    assert network.channels == [2, 1, 0]
    assert network.net.slice1[0].bias.eq(torch.tensor(0.001)).all()


def test_torchvision_has_these_names_and_shapes() -> None:
    from torchvision.models import VGG16_Weights
    from torchvision.models import vgg16 as torchvision_vgg16

    weights = VGG16_Weights["IMAGENET1K_V1"]
    assert weights.url.endswith(f"/{VGG16}")
    assert round(weights.meta["_file_size"]) == 528
    with torch.device("meta"):
        theirs = torchvision_vgg16(weights=None).state_dict()
    features = {key: value.shape for key, value in theirs.items() if key.startswith("features.")}
    assert features == {f"features.{numbered(key)}": SHAPES[key] for key in VGG_KEYS}


def test_absent_weights(cache: Path, tmp_path: Path) -> None:
    default = cache / "vgg16-397923af.pth"
    for params, path in (({}, default), ({"vgg_weights": str(tmp_path / "x.pth")}, None)):
        with pytest.raises(CheckpointError) as error:
            instantiate({"target": TARGET, "params": params}, "task.params.perceptual")
        message = str(error.value)
        assert message.startswith(f"task.params.perceptual: {path or tmp_path / 'x.pth'}: no such")
        for part in (
            "vgg16-397923af.pth, 528 MB",
            "vgg_weights",
            "python -c \"import torchvision; torchvision.models.vgg16(weights='IMAGENET1K_V1')\"",
            f"fetches it into {cache}",
            "perceptual: null and perceptual_weight: 0",
        ):
            assert part in message
        assert "\n" not in message


def test_absent_heads(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(vgg16(), cache / "vgg16-397923af.pth")
    with pytest.raises(CheckpointError, match=r"heads\.pth: no such file; lin_weights names"):
        lpips(lin_weights=tmp_path / "heads.pth")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(CheckpointError, match="pip install lpips"):
        lpips()


def test_damaged_file(tmp_path: Path) -> None:
    file = tmp_path / "vgg.pth"
    for new_format in (True, False):
        torch.save(vgg16(), file, _use_new_zipfile_serialization=new_format)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(CheckpointError, match=r"vgg\.pth is damaged"):
            lpips(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no dict of weights"),
        ({"state": 3}, r"does not hold torchvision's VGG16: it has no 0\.weight"),
        (
            vgg16(**{"features.2.weight": torch.zeros(1).expand(64, 3, 3, 3)}),
            r"2\.weight has shape \(64, 3, 3, 3\), not \(64, 64, 3, 3\)",
        ),
    ],
)
def test_file_of_something_else(tmp_path: Path, content: Any, message: str) -> None:
    file = tmp_path / "other.pth"
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=message):
        lpips(file)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(vgg16() | {"x": Harmful()}, "vgg.pth")
    with pytest.raises(CheckpointError, match="UnpicklingError"):
        lpips("vgg.pth")
    assert not Path("harm").exists()


def test_a_dry_run_needs_no_file() -> None:
    with torch.device("meta"):
        network = lpips("nowhere.pth", "nowhere.pth", channels="each")
    assert {p.device.type for p in network.parameters()} == {"meta"}
    with pytest.raises(CheckpointError):
        lpips("nowhere.pth")
