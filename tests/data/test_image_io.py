from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.data.image_io import decode_image, read_image
from ldm.errors import DataError


def pixels(path: Path) -> np.ndarray:
    image, _ = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def write_png(path: Path, rows: np.ndarray, colour_type: int) -> None:
    """Write a 16-bit PNG of uint16 values (H, W, C): Pillow cannot write colour ones."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = rows.shape[:2]
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def test_grey_and_bilevel(tmp_path: Path) -> None:
    Image.new("L", (4, 3), 77).save(tmp_path / "a.png")
    Image.new("1", (4, 3), 1).save(tmp_path / "b.png")
    assert (pixels(tmp_path / "a.png") == 77).all()
    assert (pixels(tmp_path / "b.png") == 255).all()


def test_palette(tmp_path: Path) -> None:
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png") == [10, 20, 30]).all()


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 3), (200, 0, 100, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (4, 3), (200, 0, 100, 128)).save(tmp_path / "half.webp", lossless=True)
    Image.new("LA", (4, 3), (0, 0)).save(tmp_path / "grey.png")
    palette = Image.new("P", (4, 3), 0)
    palette.save(tmp_path / "palette.png", transparency=0)
    assert (pixels(tmp_path / "clear.png") == 255).all()
    half = pixels(tmp_path / "half.webp")[0, 0].astype(int)
    assert np.abs(half - [227, 127, 177]).max() <= 1
    assert (pixels(tmp_path / "grey.png") == 255).all()
    assert (pixels(tmp_path / "palette.png") == 255).all()


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red = pixels(tmp_path / "a.jpg")[8, 8].astype(int)
    assert np.abs(red - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("value", [0, 257, 30_000, 65_535])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, value: int) -> None:
    grey = np.full((3, 4), value, np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    write_png(tmp_path / "rgb.png", np.full((3, 4, 3), value, np.uint16), 2)
    assert (pixels(tmp_path / "grey.png") == round(value / 257)).all()
    assert np.abs(pixels(tmp_path / "rgb.png").astype(int) - round(value / 257)).max() <= 1


def test_grey_keeps_sixteen_bits_and_takes_the_luma_of_colours(tmp_path: Path) -> None:
    deep = np.arange(0, 65536, 1000, dtype=np.uint16)[None]
    Image.fromarray(deep).save(tmp_path / "deep.png")
    image, _ = read_image(tmp_path / "deep.png", mode="L")
    assert np.allclose(np.asarray(image), deep / 257, atol=1e-4)
    Image.new("RGB", (4, 3), (250, 20, 90)).save(tmp_path / "colour.png")
    image, _ = read_image(tmp_path / "colour.png", mode="L")
    assert image.mode == "L"
    assert abs(int(np.asarray(image)[0, 0]) - (0.299 * 250 + 0.587 * 20 + 0.114 * 90)) <= 1
    Image.new("LA", (4, 3), (0, 0)).save(tmp_path / "clear.png")
    assert (np.asarray(read_image(tmp_path / "clear.png", mode="L")[0]) == 255).all()


def test_rgba_keeps_transparency_and_makes_the_rest_opaque(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 3), (200, 0, 100, 7)).save(tmp_path / "glass.png")
    Image.new("RGB", (4, 3), (1, 2, 3)).save(tmp_path / "solid.png")
    Image.fromarray(np.full((3, 4), 257, np.uint16)).save(tmp_path / "deep.png")
    want = {"glass": [200, 0, 100, 7], "solid": [1, 2, 3, 255], "deep": [1, 1, 1, 255]}
    for name, pixel in want.items():
        image, _ = read_image(tmp_path / f"{name}.png", mode="RGBA")
        assert (np.asarray(image) == pixel).all()


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    upright, size = read_image(tmp_path / "a.jpg")
    assert upright.size == size == (20, 40)
    array = np.asarray(upright)
    assert array[:16].min() > 200
    assert array[24:].max() < 50


def test_a_large_jpeg_is_reduced_while_decoding_but_keeps_its_size(tmp_path: Path) -> None:
    Image.new("RGB", (640, 480), (10, 100, 200)).save(tmp_path / "a.jpg")
    image, size = read_image(tmp_path / "a.jpg", at_least=32)
    assert size == (640, 480)
    assert 64 <= min(image.size) < 480


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match=rf"cut.{suffix}.*remove it"):
        read_image(path)


def test_other_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("not an image")
    for name in ("empty.jpg", "text.png", "absent.jpg"):
        with pytest.raises(DataError, match=name):
            read_image(tmp_path / name)


def test_bytes_are_called_by_their_name() -> None:
    with pytest.raises(DataError, match=r"^cannot read image 'shard:7': cannot identify"):
        decode_image(b"no image", "shard:7")
