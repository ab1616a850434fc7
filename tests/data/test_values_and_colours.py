"""Images of more than 8 bits, of unusual modes, and with colour profiles."""

from __future__ import annotations

import io
import logging
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from ldm.data import FileList, FramedImages, Framing, ImageFolder, Reading
from ldm.data.formats.values import to_grey, to_rgb, to_rgba
from ldm.data.image_io import decode_image, reading_as
from ldm.data.label_maps import read_label_map
from ldm.errors import DataError
from tests.data import odd_images as odd

RAMP = np.linspace(0, 1, 12).reshape(3, 4)


def grey(data: bytes, **reading: object) -> np.ndarray:
    with reading_as(Reading(**reading)):  # type: ignore[arg-type]
        rgb = np.asarray(decode_image(data, "a")[0]).astype(int)
        exact = np.asarray(decode_image(data, "a", mode="L")[0])
    assert np.abs(rgb[..., 0] - exact).max() <= 0.5001
    assert (rgb[..., 0] == rgb[..., 2]).all()
    return exact


UNKNOWN = {
    "fractions 0 to 1": RAMP.astype(np.float32),
    "double fractions": RAMP.astype(np.float64),
    "fractions to 4095": (RAMP * 4095).astype(np.float32),
    "12 bits": (RAMP * 4095).astype(np.uint16),
    "10 bits": (RAMP * 1023).astype(np.uint16),
    "32 bits": (RAMP * (2**32 - 1)).astype(np.uint32),
    "32 bits, few": (RAMP * 2000).astype(np.uint32),
    "16 bits with a sign": (RAMP * 60000 - 30000).astype(np.int16),
    "32 bits with a sign": (RAMP * 60000 - 30000).astype(np.int32),
    "8 bits with a sign": (RAMP * 200 - 100).astype(np.int8),
}


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("name", UNKNOWN)
def test_numbers_whose_range_is_unknown_are_never_black(name: str, big_endian: bool) -> None:
    array = UNKNOWN[name]
    data = odd.tiff(array, big_endian=big_endian)
    with pytest.raises(DataError, match=r"value_range|with a sign|identify"):
        decode_image(data, "a")
    if array.itemsize == 1 or array.dtype in (np.uint32, np.float64):
        return  # of which Pillow makes nothing
    bounds = [float(array.min()), float(array.max())]
    assert np.abs(grey(data, value_range=bounds) - RAMP * 255).max() < 0.3


@pytest.mark.parametrize("tags", [(281,), (280, 281), (340, 341)])
@pytest.mark.parametrize("most", [1023, 4095, 16383, 65535])
def test_a_tiff_may_state_its_range(tags: tuple[int, ...], most: int) -> None:
    values = dict(zip(tags, ((most,) if len(tags) == 1 else (0, most)), strict=True))
    entries = [(tag, 3, 1, value.to_bytes(2, "little")) for tag, value in values.items()]
    data = odd.tiff((RAMP * most).astype(np.uint16), entries)
    assert np.abs(grey(data) - RAMP * 255).max() < 0.3


def test_a_tiff_of_fractions_may_state_its_range() -> None:
    bounds = [(340, 11, 1, np.float32(-1).tobytes()), (341, 11, 1, np.float32(1).tobytes())]
    data = odd.tiff((RAMP * 2 - 1).astype(np.float32), bounds)
    assert np.abs(grey(data) - RAMP * 255).max() < 1e-3


@pytest.mark.parametrize("array", [(RAMP * 65535).astype(np.uint16), np.zeros((3, 4), np.uint16)])
def test_full_16_bits_and_black_are_read_by_their_type(array: np.ndarray) -> None:
    for data in (
        odd.tiff(array),
        odd.tiff(array, big_endian=True),
        odd.png(array[..., None], 0, 16),
    ):
        assert np.allclose(grey(data), array / 257, atol=1e-4)


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_12_bits_in_a_png_are_refused(colour: int) -> None:
    channels = odd.CHANNELS[colour]
    samples = np.repeat((RAMP * 4095).astype(int)[..., None], channels, -1)
    if colour in (4, 6):
        samples[..., -1] = 65535
    data = odd.png(samples, colour, 16)
    with pytest.raises(DataError, match=r"value_range"):
        decode_image(data, "a")
    dark = Reading(value_range=[0, 65535])
    with reading_as(dark):
        assert np.asarray(decode_image(data, "a")[0]).max() in (15, 16)
    if colour == 0:
        assert np.abs(grey(data, value_range=[0, 4095]) - RAMP * 255).max() < 0.3


def test_0_may_be_white() -> None:
    full = (RAMP * 65535).astype(np.uint16)
    assert np.abs(grey(odd.tiff(full, photometric=0)) - (1 - RAMP) * 255).max() < 0.3
    part = odd.tiff(RAMP.astype(np.float32), photometric=0)
    assert np.abs(grey(part, value_range=[0, 1]) - (1 - RAMP) * 255).max() < 0.3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_number_is_no_pixel(bad: float) -> None:
    array = RAMP.astype(np.float32)
    array[1, 2] = bad
    for reading in (Reading(), Reading(value_range=[0, 1])):
        with reading_as(reading), pytest.raises(DataError, match="NaN or infinity"):
            decode_image(odd.tiff(array), "a")


def test_values_beyond_the_range_are_cut_and_8_bits_have_one_of_their_own() -> None:
    assert grey(odd.tiff(RAMP.astype(np.float32)), value_range=[0.25, 0.5]).max() == 255
    eight = odd.tiff((RAMP * 255).astype(np.uint8))
    assert (grey(eight) == grey(eight, value_range=[0, 1])).all()


@pytest.mark.parametrize("bad", [[1, 0], [0], [0, 1, 2], "ab", [0, float("nan")], 5, [0, None]])
def test_a_range_that_is_none_is_an_error(bad: object) -> None:
    with pytest.raises(DataError, match="value_range"):
        Reading(value_range=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"colour": "srgb"}, {"color": "rgb"}, {"most_pixels": 0}, [1]])
def test_options_are_checked(tmp_path: Path, bad: object) -> None:
    odd.half_white().save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"reading|color|most_pixels"):
        ImageFolder(tmp_path, 8, split="all", reading=bad)  # type: ignore[arg-type]


def test_a_list_of_deep_images_is_read_by_the_option(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(odd.tiff(RAMP.astype(np.float32)))
    (tmp_path / "list.txt").write_text("a.tif\n")
    source, framing = FileList(tmp_path, tmp_path / "list.txt"), Framing(3, 4)
    images = FramedImages(source, framing, reading={"value_range": [0, 1]})
    assert np.abs((images[0]["image"][0].numpy() + 1) / 2 - RAMP).max() < 0.003
    with pytest.raises(DataError, match="value_range"):
        FramedImages(source, framing)[0]


MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_8_bits(mode: str) -> None:
    white = Image.new("RGB", (4, 3), "white")
    if mode in ("La", "PA"):
        image = white.convert("L").convert("LA" if mode == "La" else "PA").convert(mode)
    else:
        image = white.convert("RGBA").convert(mode) if mode == "RGBa" else white.convert(mode)
    for convert, channels in ((to_rgb, 3), (to_grey, 1), (to_rgba, 4)):
        result = convert(image)
        assert len(result.getbands()) == channels
        assert (np.asarray(result) == 255).all()


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4", "<f4"])
def test_every_deep_mode(dtype: str) -> None:
    image = Image.fromarray((RAMP * 65535).astype(dtype))
    assert np.abs(np.asarray(to_rgb(image, (0.0, 65535.0)))[..., 0] - RAMP * 255).max() <= 0.51
    assert (np.asarray(to_rgba(image, (0.0, 65535.0)))[..., 3] == 255).all()


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def test_lab_becomes_the_colours_it_means() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = Image.new("RGB", (4, 3), (200, 60, 30))
    stored = ImageCms.buildTransform(srgb, lab, "RGB", "LAB").apply(image)
    got = np.asarray(decode_image(saved(stored, "TIFF"), "a")[0]).astype(int)
    assert np.abs(got - [200, 60, 30]).max() <= 4


PURE = Image.new("RGB", (16, 16), (40, 200, 60))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_profiles_count_only_when_asked_for(form: str) -> None:
    lossless = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    data = saved(PURE, form, icc_profile=odd.rgb_profile(), **lossless.get(form, {}))
    stored = np.asarray(decode_image(data, "a")[0]).astype(int)
    assert np.abs(stored - [40, 200, 60]).max() <= 2
    with reading_as(Reading(color="srgb")):
        wide = np.asarray(decode_image(data, "a")[0]).astype(int)
        grey = np.asarray(decode_image(data, "a", mode="L")[0])
        plain = np.asarray(decode_image(saved(PURE, "PNG"), "a")[0])
    assert wide[8, 8, 0] < 20  # green of P3 is beyond that of sRGB
    assert wide[8, 8, 1] > 200
    assert grey.shape == (16, 16)
    assert (plain == [40, 200, 60]).all()


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "L", "1"])
def test_transparency_and_other_modes_survive_a_conversion(mode: str) -> None:
    image = PURE.convert(mode)
    if mode == "RGBA":
        image.putalpha(7)
    data = saved(image, "PNG", icc_profile=odd.rgb_profile())
    with reading_as(Reading(color="srgb")):
        got = np.asarray(decode_image(data, "a", mode="RGBA")[0])
    assert (got[..., 3] == (7 if mode == "RGBA" else 255)).all()


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile",
        odd.rgb_profile()[:200],
        odd.rgb_profile().replace(b"RGB ", b"CMYK"),
        b"\0" * 999,
    ],
)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_profile_that_cannot_be_used_is_said_once(
    profile: bytes, form: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldm.data.image_io._warned", set())
    data = saved(PURE, form, icc_profile=profile)
    plain = np.asarray(decode_image(data, "first")[0])
    with reading_as(Reading(color="srgb")), caplog.at_level(logging.WARNING):
        for name in ("first", "second"):
            assert (np.asarray(decode_image(data, name)[0]) == plain).all()
    assert len(caplog.records) == 1
    assert "first" in caplog.text


def test_a_profile_that_unpacks_without_end_is_not_used() -> None:
    bomb = odd.chunk(b"iCCP", b"x\0\0" + zlib.compress(b"\0" * (1 << 26)))
    data = odd.png(np.asarray(PURE), 2, 8, before=[bomb])
    with reading_as(Reading(color="srgb")):
        assert (np.asarray(decode_image(data, "a")[0]) == np.asarray(PURE)).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_ids_of_any_depth_are_those_of_the_file(tmp_path: Path, bits: int) -> None:
    ids = np.arange(12).reshape(3, 4) % (1 << bits)
    turned = odd.chunk(b"eXIf", odd.exif([(0x112, 3, 1, 6)])[6:])
    for colour in (0, 3) if bits < 16 else (0,):
        palette = [odd.chunk(b"PLTE", bytes(3 << bits))] if colour == 3 else []
        for after in ([], [turned]):
            path = tmp_path / "map.png"
            path.write_bytes(odd.png(ids[..., None], colour, bits, before=palette, after=after))
            want = np.rot90(ids, -1) if after else ids
            assert (read_label_map(path).numpy() == want).all()
