from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ldm.data.label_maps import check_label_map, pad_label_map, read_label_map, resize_label_map
from ldm.errors import DataError
from ldm.visualization.conditions import class_colours, colour_label_map

IDS = np.array([[0, 1, 200], [255, 3, 181]])


def test_every_format_gives_the_ids(tmp_path: Path) -> None:
    palette = Image.fromarray(IDS.astype(np.uint8), "P")
    palette.putpalette([7] * 768)
    palette.save(tmp_path / "palette.png")
    Image.fromarray(IDS.astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray((IDS * 100).astype(np.uint16)).save(tmp_path / "deep.png")
    np.save(tmp_path / "array.npy", (IDS - 1).astype(np.int16))
    for name, expected in [
        ("palette.png", IDS),
        ("grey.png", IDS),
        ("deep.png", IDS * 100),
        ("array.npy", IDS - 1),
    ]:
        ids = read_label_map(tmp_path / name)
        assert ids.dtype == torch.int64
        assert ids.tolist() == expected.tolist(), name


def test_what_holds_no_ids(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "colours.png")
    with pytest.raises(DataError, match=r"colours\.png: a picture of mode RGB holds colours"):
        read_label_map(tmp_path / "colours.png")
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    with pytest.raises(DataError, match="must be integers"):
        read_label_map(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array([{"a": 1}], dtype=object))  # would run code
    with pytest.raises(DataError, match="cannot be read"):
        read_label_map(tmp_path / "b.npy")
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"c\.png: cannot be read"):
        read_label_map(tmp_path / "c.png")


def test_unknown_ids_are_named() -> None:
    ids = torch.tensor([[0, 255], [7, -1]])
    check_label_map(ids, 8, (-1, 255), "map.png")
    with pytest.raises(DataError, match=r"map\.png: unknown class id 7 at row 1, column 0"):
        check_label_map(ids, 7, (-1, 255), "map.png")
    with pytest.raises(DataError, match="id 255 at row 0, column 1"):
        check_label_map(ids, 8, (-1,), "map.png")


@pytest.mark.parametrize("size", [(3, 3), (8, 4), (11, 5), (16, 12)])
def test_resizing_takes_the_nearest_pixel(size: tuple[int, int]) -> None:
    ids = torch.randint(0, 300, (8, 6), generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(ids[None, None].double(), size, mode="nearest-exact")[0, 0].long()
    assert torch.equal(resize_label_map(ids, size), expected)


def test_padding_repeats_the_last_row_and_column() -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 255]])
    padded = pad_label_map(ids, 4)
    assert padded.tolist() == [[1, 2, 3, 3], [4, 5, 255, 255], [4, 5, 255, 255], [4, 5, 255, 255]]
    assert pad_label_map(padded, 4) is padded


def test_colours_tell_classes_apart() -> None:
    colours = class_colours(40).astype(int)
    distance = np.abs(colours[:, None] - colours[None]).max(-1) + 999 * np.eye(40)
    assert distance.min() > 15
    assert len({tuple(colour) for colour in class_colours(182).tolist()}) == 182
    assert colours.max(1).min() > 100  # black means no class
    image = colour_label_map(torch.tensor([[0, 1], [-1, 255]]), 2)
    assert ((image[:, 0, 1] + 1) * 127.5).tolist() == pytest.approx(colours[1].tolist(), abs=1e-3)
    assert (image[:, 1] == -1).all()
