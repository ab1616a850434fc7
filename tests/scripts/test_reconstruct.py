"""reconstruct.py as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from ldm.autoencoders.tiled import reconstruct
from ldm.config import instantiate
from ldm.data.framing import to_tensor
from ldm.data.image_io import read_image
from ldm.evaluation.metrics.reconstruction import psnr, ssim
from tests.scripts.conftest import Outcome
from tests.training import tiny

Script = Callable[..., Outcome]
NAME = "reconstruct.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model"))


def checkpoint(folder: Path, channels: int = 3) -> Path:
    """A file with weights, and its config beside it."""
    config = tiny.autoencoder()
    config.model.params.architecture.params.in_channels = channels
    config.model.params.architecture.params.channel_mult = [1, 1, 1]
    torch.manual_seed(0)
    torch.save({"state_dict": instantiate(config.model).state_dict()}, folder / "tiny.ckpt")
    OmegaConf.save(OmegaConf.create({"model": config.model}), folder / "config.yaml")
    return folder / "tiny.ckpt"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    (root / "nested").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, (width, height) in {"odd.png": (61, 47), "nested/tiny.png": (3, 9)}.items():
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / name)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (40, 20), (200, 100, 50)).save(root / "turned.jpg", exif=exif)
    return root


def assert_one_line(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 2, outcome.out + outcome.err
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in lines[0], f"{part!r} is not in {lines[0]!r}"


@torch.no_grad()
def test_pictures_of_any_size(script: Script, model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = script(NAME, model, photos, "--out", out)
    assert outcome.code == 0, outcome.err
    sizes = {"odd.png": (61, 47), "turned.png": (20, 40), "nested/tiny.png": (3, 9)}
    for name, (width, height) in sizes.items():
        assert Image.open(out / name).size == (width, height)
        assert Image.open(out / "pairs" / name).size == (2 * width, height)
        assert f"{name}: {width}x{height}  PSNR " in outcome.out
    record = json.loads((out / "reconstructions.json").read_text())["images"]
    assert set(record) == set(sizes)
    assert record["nested/tiny.png"]["ssim"] is None

    network = instantiate(OmegaConf.load(model.parent / "config.yaml").model)
    network.load_state_dict(torch.load(model)["state_dict"])
    x = to_tensor(read_image(photos / "odd.png")[0])[None]
    y = reconstruct(network.eval(), x).clamp(-1, 1)
    written = to_tensor(Image.open(out / "odd.png"))[None]
    assert (written - y).abs().max() <= 1 / 255 + 1e-6
    pair = to_tensor(Image.open(out / "pairs" / "odd.png"))[None]
    assert torch.equal(pair, torch.cat([x, written], 3))
    assert record["odd.png"]["psnr"] == pytest.approx(float(psnr(x, y)), rel=1e-5)
    assert record["odd.png"]["ssim"] == pytest.approx(float(ssim(x, y)), rel=1e-5, abs=1e-7)


def test_it_goes_on_where_it_stopped(
    script: Script, model: Path, photos: Path, tmp_path: Path
) -> None:
    call: list[Any] = [NAME, model, photos, "--out", tmp_path / "out"]
    assert script(*call).code == 0
    odd, turned = tmp_path / "out" / "odd.png", tmp_path / "out" / "turned.png"
    turned.unlink()
    odd.write_bytes(b"kept")
    outcome = script(*call)
    assert "odd.png: is there already" in outcome.out
    assert "turned.png: 20x40" in outcome.out
    assert odd.read_bytes() == b"kept"
    assert turned.exists()
    assert_one_line(script(*call, "--sample"), "other weights or options", "--overwrite")
    drawn = []
    for _ in range(2):
        assert script(*call, "--sample", "--overwrite").code == 0
        drawn.append(odd.read_bytes())
    assert drawn[0] == drawn[1]
    assert script(*call, "--overwrite").code == 0
    assert odd.read_bytes() not in (b"kept", drawn[0])


def test_long_images_can_be_shrunk_first(
    script: Script, model: Path, photos: Path, tmp_path: Path
) -> None:
    options = ("--out", tmp_path, "--max-side", 30)
    assert script(NAME, model, photos / "odd.png", *options).code == 0
    assert Image.open(tmp_path / "odd.png").size == (30, 23)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (4, "RGBA")])
def test_grey_and_transparent_pictures(
    script: Script, photos: Path, tmp_path: Path, channels: int, mode: str
) -> None:
    file = checkpoint(tmp_path, channels)
    assert script(NAME, file, photos, "--out", tmp_path / "out").code == 0
    assert Image.open(tmp_path / "out" / "odd.png").mode == mode
    assert Image.open(tmp_path / "out" / "nested" / "tiny.png").size == (3, 9)


def test_pictures_of_one_name_are_kept_apart(
    script: Script, model: Path, photos: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (12, 12)).save(photos / "odd.jpg")
    assert script(NAME, model, photos, "--out", tmp_path / "out").code == 0
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert names == {"odd.png.png", "odd.jpg.png", "turned.png"}


def test_a_damaged_picture_does_not_stop_the_others(
    script: Script, model: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "a.png").write_bytes(b"nothing")
    outcome = script(NAME, model, photos, "--out", tmp_path / "out")
    assert outcome.code == 4
    assert outcome.err.count("error: ") == 1
    assert "error: 1 of 4 images" in outcome.err
    assert "a.png: left out, cannot read image" in outcome.out
    assert (tmp_path / "out" / "odd.png").exists()
    alone = script(NAME, model, photos / "a.png", "--out", tmp_path / "alone")
    assert_one_line(alone, "none of the 1 images could be read")


def test_names_of_any_length_and_kind(
    script: Script, model: Path, photos: Path, tmp_path: Path
) -> None:
    names = ["x" * 251 + ".png", "\u00e9" * 125 + ".jpg", "x" * 249 + ".jpeg", "caf\udce9.png"]
    names += [
        "same.png",
        "SAME.png",
        "Same.jpg",
        "s/" + "y" * 250 + ".jpg",
        "s/" + "y" * 250 + ".png",
    ]
    (photos / "s").mkdir()
    for name in names:
        Image.new("RGB", (4, 4)).save(photos / name)
    outcome = script(NAME, model, photos, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    made = [file for file in (tmp_path / "out").rglob("*.png") if "pairs" not in file.parts]
    assert len({str(file).casefold() for file in made}) == len(names) + 3
    again = script(NAME, model, photos, "--out", tmp_path / "out")
    assert again.out.count("is there already") == len(names) + 3


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("{photos}/none.png",), "none.png: no such image or folder"),
        (("{model}",), "not one of .jpg"),
        (("{photos}", "{photos}"), "would both be written"),
        (("{photos}", "--max-side", "0"), "--max-side 0"),
        (("{photos}", "--checkpoint", "last"), "leave out --checkpoint"),
    ],
)
def test_wrong_input(
    script: Script, model: Path, photos: Path, tmp_path: Path, arguments: Any, part: str
) -> None:
    filled = [argument.format(photos=photos, model=model) for argument in arguments]
    assert_one_line(script(NAME, model, *filled, "--out", tmp_path / "out"), part)
    assert not (tmp_path / "out").exists()


def test_no_picture_has_twelve_channels(script: Script, photos: Path, tmp_path: Path) -> None:
    outcome = script(NAME, checkpoint(tmp_path, 12), photos, "--out", tmp_path / "out")
    assert_one_line(outcome, "12 channels", "evaluate_autoencoder.py")


@pytest.mark.parametrize("old", [False, True], ids=["moved", "of an earlier release"])
def test_what_is_done_is_known_from_elsewhere(
    script: Script,
    model: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    old: bool,
) -> None:
    world = tmp_path / "world"
    world.mkdir()
    photos.rename(world / "photos")
    monkeypatch.chdir(world)
    command = (NAME, model, "photos/turned.jpg", "--device", "cpu", "--out", "out")
    assert script(*command).code == 0
    record = world / "out" / "reconstructions.json"
    tree = json.loads(record.read_text())
    assert tree["images"]["turned.png"]["source"] == "../photos/turned.jpg"
    if old:
        tree["images"]["turned.png"]["source"] = "photos/turned.jpg"
        record.write_text(json.dumps(tree))
        assert "is there already" in script(*command).out
        return
    world.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    again = script(
        *(NAME, model, tmp_path / "moved" / "photos" / "turned.jpg"),
        *("--device", "cpu", "--out", "moved/out"),
    )
    assert "is there already" in again.out
