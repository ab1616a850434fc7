"""``--most-pixels`` of the programs that read pictures."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ldm.cli.app import parse, run
from ldm.data.image_io import MOST_PIXELS, allow_pixels, read_image
from ldm.errors import DataError, UserError
from tests.data import odd_images as odd

ARGUMENTS = {
    "img2img": ["model", "FILE"],
    "superres": ["model", "FILE"],
    "inpaint": ["model", "FOLDER"],
    "walk": ["model", "--images", "FILE", "FILE"],
    "reconstruct": ["model", "FILE"],
    "evaluate": ["FOLDER", "--judge"],
}
FAMILIES = dict.fromkeys(ARGUMENTS, "sampling") | dict.fromkeys(
    ("reconstruct", "evaluate"), "evaluation"
)


@pytest.fixture(autouse=True)
def _back() -> Iterator[None]:
    yield
    allow_pixels(MOST_PIXELS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_program_takes_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "a.png"
    odd.half_white(10, 10).save(picture)
    places = {"FILE": str(picture), "FOLDER": str(tmp_path)}
    arguments = [places.get(word, word) for word in ARGUMENTS[name]]
    program = importlib.import_module(f"ldm.programs.{FAMILIES[name]}.{name}")
    monkeypatch.setattr(program, "run", lambda _: read_image(picture))
    run(name, parse(name, arguments))
    run(name, parse(name, [*arguments, "--most-pixels", "100"]))
    with pytest.raises(DataError, match="--most-pixels"):
        run(name, parse(name, [*arguments, "--most-pixels", "99"]))
    for bad in ("0", "-5"):
        with pytest.raises(UserError, match="most_pixels"):
            run(name, parse(name, [*arguments, "--most-pixels", bad]))
