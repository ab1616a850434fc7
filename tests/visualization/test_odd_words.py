"""Names and captions of any kind in pictures, and files of any name."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.layouts.boxes import Box
from ldm.data.layouts.reading import Layout
from ldm.errors import UserError
from ldm.visualization.conditions import draw_layout
from ldm.visualization.figure import Cell, Row, save_rows
from ldm.visualization.images import read_png, save_grid, save_png
from ldm.visualization.video import write_film

WORDS = [
    *(
        "caf\udce9.jpg",
        "a\nb\r\n\tc",
        "\0",
        "\ud800",
        "$\\frac{1}{2$",
        "%s%d{}",
        "\u202e\u05d0",
        "😀",
    ),
    *("", " ", "x" * 100_000, "a " * 50_000, "\u0301" * 300),
]
PICTURE = torch.zeros(3, 16, 16)


@pytest.mark.parametrize("word", WORDS)
def test_any_words(tmp_path: Path, word: str) -> None:
    begin = time.process_time()
    rows = [Row(word, [Cell(PICTURE, word), Cell(text=word), Cell(tmp_path / "absent.png", word)])]
    save_rows(rows, tmp_path / "rows.png", heads=[word, word])
    box = Layout("", (Box(0, 0.1, 0.1, 0.9, 0.9),))
    assert draw_layout(box, (32, 32), [word]).shape == (3, 32, 32)
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    "name", ["caf\udce9.png", "a:b.png", "a\nb.png", "-x.png", "pipe:y.png", "%d.png"]
)
def test_grids_of_any_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_png(PICTURE, Path(name))
    save_grid([Path(name)] * 2, 2, Path(f"grid-{name}"))
    assert Image.open(f"grid-{name}").size == (68 * 2 - 2, 68) or Path(f"grid-{name}").is_file()
    assert read_png(Path(name)).shape == (3, 16, 16)


@pytest.mark.parametrize("content", [b"", b"x", None])
def test_a_grid_of_what_is_no_picture_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "\udce9.png"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"\\xe9\.png: cannot be read"):
        save_grid([file], 1, tmp_path / "grid.png")


@pytest.mark.parametrize(
    "name", ["a:b", "caf\udce9", "-i", "%03d", "pipe:1", "file:x", "a\nb", "x" * 240]
)
@pytest.mark.parametrize("ending", ["gif", "mp4"])
def test_films_of_any_name(
    tmp_path: Path, name: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ending == "mp4":
        pytest.importorskip("imageio_ffmpeg")
    monkeypatch.chdir(tmp_path)
    frames = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), np.uint8)
    write_film(frames, Path(f"{name}.{ending}"), 10)
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.{ending}"]
    assert (tmp_path / f"{name}.{ending}").stat().st_size > 100


def test_random_words(tmp_path: Path) -> None:
    draw = random.Random(0)
    for _ in range(30):
        word = "".join(
            chr(draw.choice([draw.randrange(0x300), draw.randrange(0x110000)])) for _ in range(40)
        )
        save_rows([Row(word, [Cell(PICTURE, word), Cell(text=word)])], tmp_path / "rows.png")
