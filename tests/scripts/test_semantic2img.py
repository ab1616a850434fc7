from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ldm.load.model import load_model
from ldm.samplers.ddim import DDIM
from ldm.samplers.noise import SeededNoise
from tests.scripts.conftest import Outcome
from tests.scripts.small_runs import small_run

Script = Callable[..., Outcome]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 2 classes with f = 4 and a denoiser of three levels: sides are multiples of 16."""
    return small_run("semantic/landscapes-256", tmp_path_factory.mktemp("semantic"))


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    folder = tmp_path / "maps"
    (folder / "more").mkdir(parents=True)
    first = np.zeros((20, 30), np.uint8)
    first[10:] = 1
    first[:4, :4] = 255
    Image.fromarray(first, "P").save(folder / "first.png")
    np.save(folder / "more" / "second.npy", np.where(np.eye(16, 48) > 0, -1, 1))
    return folder


def _pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


def _expected(run: Path, ids: torch.Tensor, seeds: list[int]) -> torch.Tensor:
    model: Any = load_model(run)
    batch = {"segmentation": ids.expand(len(seeds), -1, -1)}
    size = (ids.shape[0], ids.shape[1])
    images = model.sample(batch, size, DDIM(steps=3), SeededNoise(seeds))
    return (images.clamp(-1, 1) + 1) * 127.5


def test_every_image_has_the_size_of_its_map(
    script: Script, run: Path, maps: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--steps", 3, "--per-map", 2, "--batch-size", 3, "--out", out)
    outcome = script("semantic2img.py", run, maps, *options)
    assert outcome.code == 0, outcome.err
    ids = torch.from_numpy(np.array(Image.open(maps / "first.png"))).long()
    padded = F.pad(ids[None, None].float(), (0, 2, 0, 12), mode="replicate")[0, 0].long()
    first = _expected(run, padded, [0, 1])[:, :, :20, :30]
    second = _expected(run, torch.from_numpy(np.load(maps / "more/second.npy")), [2, 3])
    for name, images in (("first", first), ("more_second", second)):
        for k, image in enumerate(images):
            pixels = _pixels(out / f"images/{name}_{k}.png")
            assert pixels.shape == image.shape
            assert (pixels - image).abs().max() < 0.51, (name, k)
    record = json.loads((out / "samples.json").read_text())
    assert record["settings"]["sides_multiple_of"] == 16
    assert [entry["map"] for entry in record["samples"]] == ["first.png"] * 2 + ["second.npy"] * 2
    assert (out / "maps.png").exists()
    assert (out / "grid.png").exists()


def test_resizing_and_one_file(script: Script, run: Path, maps: Path, tmp_path: Path) -> None:
    options = ("--steps", 3, "--resize", 32, 48, "--out", tmp_path / "out")
    outcome = script("semantic2img.py", run, maps / "first.png", *options)
    assert outcome.code == 0, outcome.err
    ids = torch.from_numpy(np.array(Image.open(maps / "first.png"))).double()
    larger = F.interpolate(ids[None, None], (32, 48), mode="nearest-exact")[0, 0].long()
    expected = _expected(run, larger, [0])[0]
    assert (_pixels(tmp_path / "out/images/first_0.png") - expected).abs().max() < 0.51


def test_a_changed_map_does_not_mix_with_the_old_images(
    script: Script, run: Path, maps: Path, tmp_path: Path
) -> None:
    options = ("--steps", 1, "--out", tmp_path / "out")
    assert script("semantic2img.py", run, maps, *options).code == 0
    Image.fromarray(np.ones((20, 30), np.uint8)).save(maps / "first.png")
    outcome = script("semantic2img.py", run, maps, *options)
    assert outcome.code == 2
    assert "holds images made with other settings" in outcome.err


def test_an_unreadable_map_is_left_out(
    script: Script, run: Path, maps: Path, tmp_path: Path
) -> None:
    (maps / "bad.png").write_bytes(b"?")
    (maps / "bad.npy.npy").write_bytes(b"?")
    outcome = script("semantic2img.py", run, maps, "--steps", 1, "--out", tmp_path / "out")
    assert outcome.code == 4, outcome.err
    assert outcome.err.count("left out: ") == 2
    made = {file.name for file in (tmp_path / "out/images").iterdir()}
    assert made == {"first_0.png", "more_second_0.png"}
    for file in (maps / "first.png", maps / "more/second.npy"):
        file.unlink()
    outcome = script("semantic2img.py", run, maps, "--steps", 1, "--out", tmp_path / "none")
    assert outcome.code == 2
    assert "error: none of the 2 inputs can be read" in outcome.err
    assert not (tmp_path / "none").exists()


def test_bad_input_is_one_line(script: Script, run: Path, maps: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        outcome = script("semantic2img.py", run, *arguments, "--out", tmp_path / "out")
        assert outcome.code == 2
        assert outcome.err.count("error: ") == 1
        assert not (tmp_path / "out").exists()
        return outcome.err

    assert "none: no such label map or folder" in refused(tmp_path / "none")
    assert "--per-map 0" in refused(maps, "--per-map", 0)
    assert "--resize 0 4" in refused(maps, "--resize", 0, 4)
    np.save(maps / "first.npy", np.zeros((4, 4), int))
    assert "would both become first.png" in refused(maps)
    (maps / "first.npy").unlink()
    np.save(maps / "wrong.npy", np.array([[0, 1], [2, 0]]))
    message = refused(maps)
    assert f"{maps / 'wrong.npy'}: unknown class id 2 at row 1, column 0" in message
    assert "0 to 1 or -1, 255 (no class)" in message
