from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.data.scenes.dataset import SceneDataset
from tests.scripts.small_runs import small_run


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run("quickstart/text2img", tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def pixels_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without a first stage: nothing is lost by encoding."""
    return small_run("pixel/ddpm-cifar10", tmp_path_factory.mktemp("pixel"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    scene = SceneDataset(48, 3)[0]["image"]
    array = ((scene.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
    Image.fromarray(array[:32, :32]).save(tmp_path / "in" / "square.png")
    Image.fromarray(array[:37, :45]).save(tmp_path / "in" / "odd.png")
    return tmp_path / "in"


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file)).astype(int)


def test_strength(script, pixels_model, images, tmp_path) -> None:  # type: ignore[no-untyped-def]
    distances = []
    for strength in ("0.02", "0.5", "1"):
        out = tmp_path / strength
        options = ("--strength", strength, "--out", out)
        done = script("img2img.py", pixels_model, images, *options)
        assert done.code == 0, done.err
        made = pixels(out / "images" / "square.png")
        assert pixels(out / "images" / "odd.png").shape == (37, 45, 3)
        distances.append(abs(made - pixels(images / "square.png")).mean())
    assert distances == sorted(distances)
    assert distances[0] < 12
    assert distances[2] > 3 * distances[0]


def test_names_of_any_length_and_kind(script, pixels_model, images, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Results have names that fit, that differ on every file system, and that are told again."""
    names = ["x" * 251, "x" * 250 + "y", "é" * 125, "日" * 83, "caf\udce9", "a b", "n/a", "n_a"]
    names += ["m/" + "y" * 245, "same", "SAME", "\u00e9", "e\u0301", "-x", "#", "100%", "a\nb"]
    for name in names:
        (images / name).parent.mkdir(exist_ok=True)
        (images / f"{name}.png").write_bytes((images / "square.png").read_bytes())
    (images / "bad.png").write_bytes(b"?")
    options = ("--steps", "1", "--per-image", "2", "--out", tmp_path / "out")
    done = script("img2img.py", pixels_model, images, *options)
    assert done.code == 4, done.err
    made = [file.name for file in (tmp_path / "out/images").iterdir()]
    alike = {unicodedata.normalize("NFC", name).casefold() for name in made}
    assert len(alike) == len(made) == 2 * (len(names) + 2)
    again = script("img2img.py", pixels_model, images, *options)
    assert again.code == 4
    assert f"{len(made)} of {len(made)} images are there already" in again.out
    assert (tmp_path / "out/edited.png").is_file()


def test_prompts_variants_and_batches(script, text, images, tmp_path) -> None:  # type: ignore[no-untyped-def]
    common = (text, images, "--steps", "4", "--per-image", "2")
    for name, options in {
        "plain": (),
        "prompt": ("--prompt", "a red circle", "--guidance", "2"),
        "single": ("--batch-size", "1"),
    }.items():
        done = script("img2img.py", *common, *options, "--out", tmp_path / name)
        assert done.code == 0, done.err
    plain, prompt, single = (
        {f.name: pixels(f) for f in (tmp_path / name / "images").iterdir()}
        for name in ("plain", "prompt", "single")
    )
    assert set(plain) == {"odd_0.png", "odd_1.png", "square_0.png", "square_1.png"}
    assert (plain["odd_0.png"] != plain["odd_1.png"]).any()
    assert (plain["odd_0.png"] != prompt["odd_0.png"]).any()
    assert all(abs(plain[name] - single[name]).max() <= 1 for name in plain)
    assert (tmp_path / "plain" / "edited.png").exists()


def test_inversion(script, text, images, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """That it leads back is shown in tests/samplers; here, that it starts from the image."""
    made = {}
    for name, prompt in {"a": "a red circle", "b": "a red circle", "c": "a blue cross"}.items():
        options = ("--method", "inversion", "--steps", "5", "--prompt", prompt, "--guidance", "2")
        options += ("--source-prompt", "a cyan square", "--seed", str(len(made)))
        done = script("img2img.py", text, images, *options, "--out", tmp_path / name)
        assert done.code == 0, done.err
        made[name] = pixels(tmp_path / name / "images" / "odd.png")
    assert (made["a"] == made["b"]).all()  # nothing is drawn
    assert (made["a"] != made["c"]).any()
    settings = json.loads((tmp_path / "a" / "samples.json").read_text())["settings"]
    assert settings["method"] == "inversion"
    assert settings["sampler"]["spacing"] == "logsnr"


def test_an_image_guides(script, pixels_model, images, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """That it pulls the right way is shown in tests/diffusion/test_image_guidance.py."""
    made = []
    for colour in ("red", "blue"):
        guide, out = tmp_path / f"{colour}.png", tmp_path / colour
        Image.new("RGB", (40, 40), colour).save(guide)
        options = ("--guide-image", guide, "--guide-scale", "0.5", "--guide-factor", "4")
        command = (pixels_model, images, "--strength", "1", "--steps", "4", *options)
        done = script("img2img.py", *command, "--out", out)
        assert done.code == 0, done.err
        made.append(pixels(out / "images" / "odd.png"))
    assert made[0].shape == (37, 45, 3)
    assert (made[0] != made[1]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--strength", "0"), "--strength 0: must be above 0 and at most 1"),
        (("--strength", "1.2"), "--strength 1.2: must be above 0"),
        (("--label", "1"), "--label 1: "),
        (("--guidance", "3"), "--guidance 3 has no effect: give --prompt"),
        (("--method", "inversion", "--eta", "1"), "goes with --sampler ddim and --eta 0"),
        (("--method", "inversion", "--per-image", "2"), "inversion is deterministic"),
        (("--source-prompt", "a cross"), "go with --method inversion"),
        (("--guide-scale", "1"), "--guide-image and --guide-scale go together"),
        (("--size", "0", "32"), "--size 0 32: must be positive"),
    ],
)
def test_errors(script, text, images, tmp_path, options, message) -> None:  # type: ignore[no-untyped-def]
    outcome = script("img2img.py", text, images, *options, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
