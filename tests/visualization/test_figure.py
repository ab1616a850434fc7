from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.visualization import figure


@pytest.fixture
def sheet() -> Any:
    return figure


@pytest.fixture
def drawn(sheet: Any, tmp_path: Path) -> Callable[..., np.ndarray]:
    def call(*arguments: Any) -> np.ndarray:
        rows, *others = arguments
        sheet.save_rows(rows, tmp_path / "sheet.png", *others)
        assert [path.name for path in tmp_path.glob("*heet*")] == ["sheet.png"]
        return np.asarray(Image.open(tmp_path / "sheet.png"))

    return call


def _where(picture: np.ndarray, colour: tuple[int, int, int]) -> list[int]:
    """First row, first column, last row, last column of a colour."""
    places = np.argwhere((picture == colour).all(-1))
    return [*places.min(0).tolist(), *places.max(0).tolist()]


def _plain(sheet: Any, level: float, height: int, width: int, text: str = "") -> Any:
    return sheet.Cell(torch.full((1, height, width), level), text)


def test_small_images_are_enlarged_by_whole_pixels(
    sheet: Any, drawn: Callable[..., np.ndarray]
) -> None:
    rows = [sheet.Row("", [_plain(sheet, -1.0, 32, 32), _plain(sheet, 0.0, 16, 32)])]
    picture = drawn(rows)
    assert picture.shape == (128 + 12, 2 * 134 + 6, 3)
    assert _where(picture, (0, 0, 0)) == [6, 6, 133, 133]
    assert _where(picture, (128, 128, 128)) == [6, 140, 69, 267]


def test_large_images_are_shrunk_also_where_there_are_many(
    sheet: Any, drawn: Callable[..., np.ndarray]
) -> None:
    picture = drawn([sheet.Row("", [_plain(sheet, -1.0, 300, 900)])])
    assert picture.shape == (171 + 12, 512 + 12, 3)
    picture = drawn([sheet.Row("", [_plain(sheet, -1.0, 64, 512)] * 40)])
    assert picture.shape[1] <= 4096 + 6


def test_words_take_their_place(sheet: Any, drawn: Callable[..., np.ndarray]) -> None:
    images = [_plain(sheet, 0.0, 112, 112, "below"), sheet.Cell(text="in place of " * 99)]
    plain, titled, headed = (
        drawn([sheet.Row(title, images)], heads)
        for title, heads in (("", ()), ("title", ()), ("", ("one\ntwo", "three")))
    )
    assert plain.shape[0] == 112 + 12 + 17
    assert titled.shape[0] == plain.shape[0] + 17
    assert headed.shape[0] == plain.shape[0] + 34
    ink = plain.min(-1) < 100
    assert ink[:118, 124:].any()
    assert ink[118:, 6:118].any()
    assert not ink[118:, 124:].any()


def test_a_file_is_an_image_too(
    sheet: Any, drawn: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    Image.new("RGB", (112, 112), (9, 99, 199)).save(tmp_path / "a.png")
    picture = drawn([sheet.Row("", [sheet.Cell(tmp_path / "a.png")])])
    assert _where(picture, (9, 99, 199)) == [6, 6, 117, 117]
