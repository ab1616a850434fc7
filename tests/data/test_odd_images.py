"""Images as they are found: odd metadata, every PNG, damage, bombs, pipes."""

from __future__ import annotations

import io
import os
import threading
import warnings
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldm.data import ImageFolder, Reading
from ldm.data.formats.encoded import orientation
from ldm.data.image_io import (
    allow_pixels,
    decode_image,
    read_format,
    read_ids,
    read_image,
    read_size,
    reading_as,
)
from ldm.errors import DataError
from tests.data import odd_images as odd

SHAPES = {"RGB": (20, 40, 3), "L": (20, 40), "RGBA": (20, 40, 4)}


def with_exif(suffix: str, exif: bytes) -> bytes:
    """The picture that is white at the left, in a format, with EXIF data as they are."""
    image, file = odd.half_white(), io.BytesIO()
    if suffix == "jpg":
        return odd.jpeg(image, odd.segment(0xE1, exif))
    if suffix == "png":
        data = odd.png(np.asarray(image), 2, 8, after=[odd.chunk(b"eXIf", exif[6:])])
        return data
    image.save(file, "WEBP", lossless=True, exif=exif)
    return file.getvalue()


def read_alike(tmp_path: Path, data: bytes) -> np.ndarray:
    """The pixels of a file, whose size must be the same by all ways of reading it."""
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    image, size = read_image(path)
    assert image.size == size == read_size(path) == decode_image(data, "a")[1]
    assert read_image(path, at_least=4)[1] == size
    assert read_ids(path)[1].size == size
    return np.asarray(image)


def is_turned(pixels: np.ndarray) -> bool:
    return pixels.shape[0] > pixels.shape[1]


NAMED_EXIF = {
    "text as resolution": odd.exif([(0x112, 3, 1, 6), (0x11A, 2, 8, 38)], b"72 dpi\0\0"),
    "resolution 0/0": odd.exif([(0x112, 3, 1, 6), (0x11A, 5, 1, 38), (0x128, 3, 1, 2)], b"\0" * 8),
    "text as unit": odd.exif([(0x112, 3, 1, 6), (0x128, 2, 4, b"cm\0\0")]),
    "a float as a short": odd.exif([(0x112, 3, 1, 6), (0xA002, 11, 1, 1.5)]),
    "a number as a name": odd.exif([(0x10F, 3, 1, 7), (0x112, 3, 1, 6)]),
    "a directory in itself": odd.exif([(0x112, 3, 1, 6), (0x8769, 4, 1, 8)]),
    "a directory beyond the end": odd.exif([(0x112, 3, 1, 6), (0x8825, 4, 1, 2**31)]),
    "an endless list": odd.exif([(0x112, 3, 1, 6), (0x927C, 5, 2**32 - 1, 20)]),
    "an unknown type": odd.exif([(0x112, 3, 1, 6), (0x132, 77, 1, 20)]),
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("name", NAMED_EXIF)
def test_metadata_beside_the_orientation_decide_nothing(
    tmp_path: Path, name: str, suffix: str
) -> None:
    assert is_turned(read_alike(tmp_path, with_exif(suffix, NAMED_EXIF[name])))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("kind", [1, 3, 4, 6, 8, 9])
def test_every_integer_gives_the_orientation(tmp_path: Path, kind: int, suffix: str) -> None:
    for value in range(10):
        pixels = read_alike(tmp_path, with_exif(suffix, odd.exif([(0x112, kind, 1, value)])))
        assert is_turned(pixels) == (5 <= value <= 8)
    upside_down = read_alike(tmp_path, with_exif(suffix, odd.exif([(0x112, kind, 1, 3)])))
    assert upside_down[:, :16].max() < 60
    assert upside_down[:, 24:].min() > 200


@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [
        *[(2, 2, b"6\0\0\0"), (5, 1, 8), (11, 1, 6.0), (7, 1, 6), (3, 0, 6)],
        *[(3, 2, b"\6\0\6\0"), (3, 1, 0), (3, 1, 9), (4, 1, 2**31), (9, 1, -6)],
        *[(200, 1, 6), (12, 1, 6)],
    ],
)
def test_any_other_orientation_is_upright(
    tmp_path: Path, kind: int, count: int, value: float | bytes
) -> None:
    data = odd.exif([(0x112, kind, count, value)])
    assert orientation(data) == 1
    for suffix in ("jpg", "png", "webp"):
        assert not is_turned(read_alike(tmp_path, with_exif(suffix, data)))


@pytest.mark.parametrize("order", ["II*\0", "MM\0*"])
def test_orientation_of_both_orders_of_bytes(order: str) -> None:
    small = order.startswith("I")
    number = (6).to_bytes(2, "little" if small else "big")
    entry = b"\x12\x01\x03\0\1\0\0\0" if small else b"\x01\x12\0\3\0\0\0\1"
    start, one = (b"\x08\0\0\0", b"\1\0") if small else (b"\0\0\0\x08", b"\0\1")
    data = order.encode() + start + one + entry + number + b"\0" * 6
    assert orientation(data) == orientation(b"Exif\0\0" + data) == 6


@pytest.mark.parametrize("text", ['tiff:Orientation="6"', "<tiff:Orientation>6</tiff:Orientation>"])
def test_orientation_of_xmp_counts_without_exif(tmp_path: Path, text: str) -> None:
    xmp = text.encode()
    one = odd.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)
    assert is_turned(read_alike(tmp_path, odd.jpeg(odd.half_white(), one)))
    for packed in (b"\0\0\0\0", b"\1\0\0\0"):
        body = zlib.compress(xmp) if packed[0] else xmp
        chunk = odd.chunk(b"iTXt", b"XML:com.adobe.xmp\0" + packed + body)
        data = odd.png(np.asarray(odd.half_white()), 2, 8, after=[chunk])
        assert is_turned(read_alike(tmp_path, data))
    upright = odd.segment(0xE1, odd.exif([(0x112, 3, 1, 1)]))
    assert not is_turned(read_alike(tmp_path, odd.jpeg(odd.half_white(), one, upright)))


def test_orientation_in_the_digits_of_imagemagick(tmp_path: Path) -> None:
    data = odd.exif([(0x112, 3, 1, 8)])
    text = f"\nexif\n{len(data):8}\n{data.hex()}\n".encode()
    chunk = odd.chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
    png = odd.png(np.asarray(odd.half_white()), 2, 8, before=[chunk])
    assert is_turned(read_alike(tmp_path, png))


@pytest.mark.parametrize("value", [1, 3, 5, 6, 8, 9, 700])
@pytest.mark.parametrize("big_endian", [False, True])
def test_orientation_of_tiff(tmp_path: Path, value: int, big_endian: bool) -> None:
    grey = np.asarray(odd.half_white().convert("L"))
    order = "big" if big_endian else "little"
    tags = [(0x112, 3, 1, value.to_bytes(2, order)), (0x11A, 2, 8, b"72 dpi\0\0")]
    assert is_turned(read_alike(tmp_path, odd.tiff(grey, tags, big_endian))) == (5 <= value <= 8)


def check_exif(tmp_path: Path, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    for number in range(count):
        data = with_exif(("jpg", "png", "webp")[number % 3], odd.random_exif(rng))
        assert read_alike(tmp_path, data).size == 2400


@pytest.mark.parametrize("seed", range(3))
def test_any_exif_leaves_the_pixels(tmp_path: Path, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_exif(tmp_path, seed, 100)


@pytest.mark.slow
def test_thousands_of_exif_blocks(tmp_path: Path) -> None:
    check_exif(tmp_path, 99, 6000)


def test_a_folder_takes_the_size_of_what_it_reads(tmp_path: Path) -> None:
    for number, name in enumerate(NAMED_EXIF):
        (tmp_path / f"{number}.jpg").write_bytes(with_exif("jpg", NAMED_EXIF[name]))
    images = ImageFolder(tmp_path, (40, 20), split="all", small="leave_out", broken="error")
    assert len(images) == len(NAMED_EXIF)
    assert all(images[i]["image"].shape == (3, 40, 20) for i in range(len(images)))


@pytest.mark.parametrize("kind", list(odd.png_kinds()), ids=lambda kind: "-".join(map(str, kind)))
def test_every_kind_of_png(kind: tuple[int, int, bool, bool]) -> None:
    data, want = odd.png_of_kind(*kind, np.random.default_rng(0))
    got = np.asarray(decode_image(data, "a", mode="RGBA")[0]).astype(int)
    shown = want[..., 3:] > 0
    assert (got[..., 3:] == want[..., 3:]).all()
    assert (got[..., :3] == want[..., :3])[np.repeat(shown, 3, -1)].all()
    white = (want[..., :3] * want[..., 3:] + 255.0 * (255 - want[..., 3:])) / 255
    rgb = np.asarray(decode_image(data, "a")[0])
    assert np.abs(rgb - white).max() <= 1
    grey = np.asarray(decode_image(data, "a", mode="L")[0])
    assert np.abs(grey - white @ [0.299, 0.587, 0.114]).max() <= 1.6


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("keyword", [b"workflow", b"XML:com.adobe.xmp", b"Raw profile type exif"])
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP", b"tEXt", b"eXIf", b"prVt"])
def test_large_metadata_are_passed_over(
    tmp_path: Path, kind: bytes, keyword: bytes, place: str
) -> None:
    size = 5_000_000
    chunk = odd.zipped_text(kind, size, keyword)
    if kind in (b"tEXt", b"eXIf", b"prVt"):
        chunk = odd.chunk(kind, keyword + b"\0" + b"x" * size)
    samples = np.asarray(odd.half_white())
    data = odd.png(samples, 2, 8, **{place: [chunk]})
    assert (read_alike(tmp_path, data) == samples).all()


def test_many_texts_and_damaged_ones_are_passed_over(tmp_path: Path) -> None:
    samples = np.asarray(odd.half_white())
    broken = odd.chunk(b"tEXt", b"a\0b")[:-1] + b"?"
    texts = [odd.zipped_text(b"zTXt", 900_000, b"XML:com.adobe.xmp")] * 2000
    odd_ones = [odd.chunk(b"iTXt", b""), odd.chunk(b"zTXt", b"\0\7"), odd.chunk(b"gAMA", b"")]
    odd_ones += [odd.chunk(b"acTL", b""), odd.chunk(b"fcTL", b"?"), odd.chunk(b"iCCP", b"x")]
    odd_ones += [odd.chunk(b"tRNS", b"x"), odd.chunk(b"cHRM", b"?"), odd.chunk(b"sRGB", b"")]
    data = odd.png(samples, 2, 8, before=[broken, *texts, *odd_ones], after=[broken, *odd_ones])
    assert (read_alike(tmp_path, data) == samples).all()


def sound_files() -> list[bytes]:
    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 255, (23, 31, 3), np.uint8))
    files = [odd.jpeg(noise, odd.segment(0xE1, odd.random_exif(rng)), progressive=True)]
    files += [odd.png_of_kind(*kind, rng)[0] for kind in odd.png_kinds()]
    files += [odd.tiff(rng.integers(0, 60000, (9, 8), np.uint16))]
    for name in ("WEBP", "GIF", "BMP", "PPM", "TGA", "DDS", "PCX", "SGI", "JPEG2000"):
        noise.save(file := io.BytesIO(), name)
        files.append(file.getvalue())
    for name in ("tiff_lzw", "tiff_deflate", "packbits"):
        noise.save(file := io.BytesIO(), "TIFF", compression=name)
        files.append(file.getvalue())
    return files


def outcome(read: Callable[[], tuple[Any, Any]]) -> Any:
    """The second of what a function returns; None: it refuses the image in one line."""
    try:
        return read()[1]
    except DataError as error:
        complaint = str(error)
    assert "odd.png" in complaint
    assert "\n" not in complaint
    return None


def check_damage(tmp_path: Path, seed: int, count: int) -> None:
    rng, files, path = np.random.default_rng(seed), sound_files(), tmp_path / "odd.png"
    for number in range(count):
        data = odd.damaged(files[number % len(files)], rng)
        path.write_bytes(data)
        for mode in ("RGB", "L"):
            size = outcome(partial(read_image, path, mode=mode))
            assert size in (None, read_size(path))
        outcome(partial(read_ids, path))
        read_format(data)


@pytest.mark.parametrize("seed", range(3))
def test_any_damage_is_one_error(tmp_path: Path, seed: int) -> None:
    check_damage(tmp_path, seed, 120)


@pytest.mark.slow
def test_thousands_of_damaged_files(tmp_path: Path) -> None:
    check_damage(tmp_path, 77, 8000)


ERRORS = [TypeError, AttributeError, KeyError, IndexError, ZeroDivisionError, NotImplementedError]
ERRORS += [OverflowError, MemoryError, RecursionError, AssertionError, RuntimeError, UnicodeError]


@pytest.mark.parametrize("kind", ERRORS)
def test_whatever_a_decoder_raises_is_one_error(
    kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise kind

    path = tmp_path / "a.webp"
    odd.half_white().save(path)
    monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile.load", fail)
    with pytest.raises(DataError, match=rf"a\.webp' \({kind.__name__}\)"):
        read_image(path)
    monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile._open", fail)
    with pytest.raises(DataError, match=r"a\.webp"):
        read_image(path)
    assert read_size(path) is None
    assert read_format(path.read_bytes()) is None


def test_an_interruption_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    odd.half_white().save(tmp_path / "a.webp")
    monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile.load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_image(tmp_path / "a.webp")


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", None)
    data = odd.png_bomb(13_000, 13_000)
    with pytest.raises(DataError, match=r"13000 x 13000 pixels, more than the 128000000"):
        decode_image(data, "a")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_a_limit_of_pixels_holds_for_all_formats(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.png"
    odd.half_white(100, 50).save(path, form)
    for limit, possible in ((5000, True), (4999, False)):
        with reading_as(Reading(most_pixels=limit)):
            for read in (read_image, read_ids):
                if possible:
                    read(path)
                else:
                    with pytest.raises(DataError, match="most_pixels"):
                        read(path)


def test_the_limit_is_of_what_is_decoded_and_not_that_of_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    odd.half_white(640, 480).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with reading_as(Reading(most_pixels=100_000)):
        assert read_image(path, at_least=32)[1] == (640, 480)
        with pytest.raises(DataError, match="most_pixels"):
            read_image(path)
    odd.half_white(640, 480).save(path, "WEBP")
    allow_pixels(400_000)
    try:
        assert read_image(path)[1] == (640, 480)
    finally:
        allow_pixels(128_000_000)


def test_parts_that_are_larger_than_the_image_count() -> None:
    one = (60_000).to_bytes(4, "little")
    data = odd.tiff(np.zeros((16, 16), np.uint8), [(322, 4, 1, one), (323, 4, 1, one)])
    with pytest.raises(DataError, match="60000 x 60000"):
        decode_image(data, "a")


def test_formats_that_start_programs_or_hide_their_size_are_not_decoded(tmp_path: Path) -> None:
    for form in ("EPS", "ICO", "ICNS", "PDF"):
        path = tmp_path / "a.jpg"
        odd.half_white(64, 64).save(path, form)
        with pytest.raises(DataError, match="cannot identify"):
            read_image(path)
        assert read_size(path) is None


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_frames(tmp_path: Path, form: str) -> None:
    frames = [Image.new("RGB", (40, 20), colour) for colour in ("red", "blue", "white")]
    path = tmp_path / "a.png"
    more = {"lossless": True} if form == "WEBP" else {}
    frames[0].save(path, form, save_all=True, append_images=frames[1:], **more)
    assert (np.asarray(read_image(path)[0]) == [255, 0, 0]).all()


def test_two_pictures_in_one_jpeg(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (40, 20), "red"), Image.new("RGB", (40, 20), "blue")
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert read_alike(tmp_path, (tmp_path / "a.jpg").read_bytes())[..., 0].min() > 200


def test_a_named_pipe_is_an_error_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    done = threading.Event()

    def read() -> None:
        assert read_size(tmp_path / "pipe.jpg") is None
        with pytest.raises(DataError, match=r"pipe\.jpg.*named pipe"):
            read_image(tmp_path / "pipe.jpg")
        with pytest.raises(DataError, match=r"pipe\.jpg.*named pipe"):
            read_ids(tmp_path / "pipe.jpg")
        done.set()

    threading.Thread(target=read, daemon=True).start()
    assert done.wait(20)


def test_memory_is_bounded_by_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    for kind in odd.png_kinds():
        data, _ = odd.png_of_kind(*kind, rng)
        for mode in SHAPES:
            whole = np.asarray(decode_image(data, "a", mode=mode)[0])
            with monkeypatch.context() as patch:
                patch.setattr("ldm.data.formats.values._STRIP", 25)
                assert (np.asarray(decode_image(data, "a", mode=mode)[0]) == whole).all()


def test_warnings_of_pillow_are_no_errors(tmp_path: Path) -> None:
    grey = np.asarray(odd.half_white().convert("L"))
    data = odd.tiff(grey, [(305, 2, 60, b"cut"), (282, 5, 2, b"\0" * 8), (296, 3, 3, b"\1\0")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (read_alike(tmp_path, data)[..., 0] == grey).all()
        assert read_size(tmp_path / "a.jpg") == (40, 20)
