from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.inpainting.blending import paste_seamlessly
from ldm.programs.sampling.inpaint import _pairs
from tests.scripts.small_runs import small_run

FAST = ("--steps", "3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run("inpainting/places-ldm-4-kl", tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run("quickstart/text2img", tmp_path_factory.mktemp("text"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of other, odd sizes with their masks, and one without."""
    noise = np.random.default_rng(0)
    for name, height, width in (("a", 32, 48), ("b", 37, 41), ("lonely", 32, 32)):
        pixels = noise.integers(0, 255, (height, width, 3), np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
        mask = np.zeros((height, width), np.uint8)
        mask[5:20, 7:30] = 255
        if name != "lonely":
            Image.fromarray(mask).save(tmp_path / "in" / f"{name}_mask.png")
    return tmp_path / "in"


class Session:
    """What pairing needs of a session."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, message: str) -> None:
        self.said.append(message)


def test_a_mask_is_the_mask_of_an_image(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    names = {
        "0.JPG": "0_mask.PNG",
        "1.png": "1_MASK.png",
        f"{composed}.png": f"{decomposed}_mask.png",
    }
    for name in (*names, *names.values(), "surgical_mask.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, format="PNG")
    session = Session()
    pairs = _pairs(session, tmp_path, None)  # type: ignore[arg-type]
    assert {work.image.name: work.mask.name for work in pairs.values()} == names
    (line,) = session.said
    assert "surgical_mask.jpg: left out, it has no mask surgical_mask_mask.png" in line


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file)).astype(int)


@pytest.mark.parametrize("kind", ["trained", "text"])
def test_known_pixels_stay_and_the_hole_is_filled(script, kind, folder, tmp_path, request) -> None:  # type: ignore[no-untyped-def]
    model, out = request.getfixturevalue(kind), tmp_path / "out"
    done = script("inpaint.py", model, folder, *FAST, "--out", out)
    assert done.code == 0, done.err
    assert "lonely.png: left out, it has no mask lonely_mask.png" in done.err
    assert ("not trained to fill holes" in done.out) == (kind == "text")
    assert sorted(file.name for file in (out / "images").iterdir()) == ["a.png", "b.png"]
    for name in ("a", "b"):
        made, given = pixels(out / "images" / f"{name}.png"), pixels(folder / f"{name}.png")
        hole = pixels(folder / f"{name}_mask.png") > 0
        assert made.shape == given.shape
        assert (made[~hole] == given[~hole]).all()
        assert abs(made[hole] - given[hole]).mean() > 5
    record = json.loads((out / "samples.json").read_text())
    assert record["settings"]["method"].startswith("inpainting" if kind == "trained" else "known")
    raw = script("inpaint.py", model, folder, *FAST, "--no-paste", "--out", tmp_path / "raw")
    assert raw.code == 0
    bare = pixels(tmp_path / "raw" / "images" / "a.png")
    hole = pixels(folder / "a_mask.png") > 0
    assert (bare[hole] == pixels(out / "images" / "a.png")[hole]).all()
    assert (bare[~hole] != pixels(folder / "a.png")[~hole]).any()


@pytest.mark.parametrize("joined", [(), ("--seamless",)])
def test_known_pixels_stay_where_fractions_are_dropped(
    script, text, folder, tmp_path, joined
) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "out"
    done = script("inpaint.py", text, folder, *FAST, *joined, "--bytes", "truncate", "--out", out)
    assert done.code == 0, done.err
    for name in ("a", "b"):
        made, given = pixels(out / "images" / f"{name}.png"), pixels(folder / f"{name}.png")
        hole = pixels(folder / f"{name}_mask.png") > 0
        assert (made[~hole] == given[~hole]).all()
    plain = tmp_path / "plain"
    assert script("inpaint.py", text, folder, *FAST, *joined, "--out", plain).code == 0
    less = pixels(plain / "images" / "a.png") - pixels(out / "images" / "a.png")
    assert set(np.unique(less)) == {0, 1}  # in the hole fractions are dropped


def test_unreadable_pairs_are_left_out(script, text, folder, tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name in ("bad_image", "bad_hole"):
        for end in ("", "_mask"):
            (folder / f"{name}{end}.png").write_bytes((folder / f"a{end}.png").read_bytes())
    (folder / "bad_image.png").write_bytes(b"?")
    (folder / "bad_hole_mask.png").write_bytes(b"?")
    done = script("inpaint.py", text, folder, *FAST, "--out", tmp_path / "out")
    assert done.code == 4, done.err
    assert "error: 2 of 4 inputs could not be read" in done.err
    made = {file.name for file in (tmp_path / "out/images").iterdir()}
    assert made == {"a.png", "b.png"}


def test_pairs_whose_results_would_have_one_name(script, text, folder, tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name in ("n/a", "n_a", "A"):
        for end in ("", "_mask"):
            (folder / "n").mkdir(exist_ok=True)
            (folder / f"{name}{end}.png").write_bytes((folder / f"a{end}.png").read_bytes())
    done = script("inpaint.py", text, folder, *FAST, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    made = {file.name.casefold() for file in (tmp_path / "out/images").iterdir()}
    assert len(made) == 5
    assert "b.png" in made


def test_what_is_hidden_makes_no_difference(script, trained, text, folder, tmp_path) -> None:  # type: ignore[no-untyped-def]
    for model in (trained, text):
        results = []
        for attempt in range(2):
            out = tmp_path / f"{model.name}-{attempt}"
            done = script("inpaint.py", model, folder, *FAST, "--out", out)
            assert done.code == 0
            results.append(pixels(out / "images" / "a.png"))
            image = pixels(folder / "a.png").astype(np.uint8)
            image[pixels(folder / "a_mask.png") > 0] = 17 + attempt
            Image.fromarray(image).save(folder / "a.png")
        assert (results[0] == results[1]).all()


def test_masks_of_another_folder(script, trained, folder, tmp_path) -> None:  # type: ignore[no-untyped-def]
    beside, apart = tmp_path / "beside", tmp_path / "apart"
    assert script("inpaint.py", trained, folder, *FAST, "--out", beside).code == 0
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}_mask.png").rename(masks / f"{name}.png")
    done = script("inpaint.py", trained, folder, *FAST, "--masks", masks, "--out", apart)
    assert done.code == 0, done.err
    assert "lonely.png: left out, it has no mask lonely.png" in done.err
    for name in ("a", "b"):
        files = [out / "images" / f"{name}.png" for out in (beside, apart)]
        assert (pixels(files[0]) == pixels(files[1])).all()
    done = script("inpaint.py", trained, folder, *FAST, "--masks", tmp_path / "none")
    assert done.code == 2
    assert "no such folder" in done.err


def test_seamless(script, trained, folder, tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name, options in (("plain", ()), ("raw", ("--no-paste",)), ("seamless", ("--seamless",))):
        done = script("inpaint.py", trained, folder, *FAST, *options, "--out", tmp_path / name)
        assert done.code == 0, done.err
    raw, given = pixels(tmp_path / "raw/images/a.png"), pixels(folder / "a.png")
    mask = torch.from_numpy(pixels(folder / "a_mask.png") > 0)[None].float()
    parts = [torch.from_numpy(part / 127.5 - 1).permute(2, 0, 1) for part in (raw, given)]
    expected = (paste_seamlessly(*parts, mask).permute(1, 2, 0).numpy() + 1) * 127.5
    made = pixels(tmp_path / "seamless/images/a.png")
    assert np.abs(made - expected).max() < 2  # the raw one was rounded before
    assert np.abs(made - pixels(tmp_path / "plain/images/a.png")).max() > 5
    done = script(
        "inpaint.py", trained, folder, "--seamless", "--no-paste", "--out", tmp_path / "x"
    )
    assert done.code == 2


def test_variants_and_conditions(script, text, folder, tmp_path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "out"
    options = ("--per-image", "2", "--prompt", "a red circle", "--guidance", "2", "--eta", "1")
    assert script("inpaint.py", text, folder, *FAST, *options, "--out", out).code == 0
    names = sorted(file.name for file in (out / "images").iterdir())
    assert names == ["a_0.png", "a_1.png", "b_0.png", "b_1.png"]
    assert (pixels(out / "images" / "a_0.png") != pixels(out / "images" / "a_1.png")).any()
    assert json.loads((out / "samples.json").read_text())["samples"][0]["prompt"] == "a red circle"
    assert (out / "inpainted.png").exists()


def test_errors(script, trained, folder, tmp_path) -> None:  # type: ignore[no-untyped-def]
    def refused(*arguments: object) -> str:
        outcome = script("inpaint.py", *arguments, *FAST, "--out", tmp_path / "out")
        assert outcome.code == 2
        return outcome.err.strip().splitlines()[-1]

    assert "nowhere: no such folder" in refused(trained, tmp_path / "nowhere")
    assert "--prompt: " in refused(trained, folder, "--prompt", "a dog")
    Image.new("L", (48, 31)).save(folder / "a_mask.png")
    message = refused(trained, folder)
    assert "a_mask.png has 48 x 31 pixels" in message
    assert "a.png has 48 x 32: a mask must have the size of its image" in message
    for file in folder.glob("*_mask.png"):
        file.unlink()
    assert "no image with a mask; give NAME.png and NAME_mask.png" in refused(trained, folder)


def test_guidance_towards_nothing(script, text, folder, tmp_path) -> None:  # type: ignore[no-untyped-def]
    done = script("inpaint.py", text, folder, *FAST, "--guidance", "3", "--out", tmp_path / "out")
    assert done.code == 2
    assert "--guidance 3 has no effect: give --prompt" in done.err


def test_an_empty_mask_is_told(script, trained, folder, tmp_path) -> None:  # type: ignore[no-untyped-def]
    Image.new("L", (48, 32)).save(folder / "a_mask.png")
    done = script("inpaint.py", trained, folder, *FAST, "--out", tmp_path / "out")
    assert done.code == 0
    assert "a_mask.png: nothing is white" in done.err
    assert (pixels(tmp_path / "out/images/a.png") == pixels(folder / "a.png")).all()
