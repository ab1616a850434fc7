"""Odd image files, made by code: any EXIF, PNG and TIFF of any samples, damage, bombs."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

SHORT, LONG, RATIONAL, FLOAT = 3, 4, 5, 11
ORIENTATION = 0x112
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}


def field(kind: int, value: float) -> bytes:
    """Four bytes of an entry that holds one value."""
    code = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f"}.get(kind, "I")
    return struct.pack(f"<{code}", int(value) if code != "f" else value).ljust(4, b"\0")


def exif(entries: Sequence[tuple[int, int, int, float | bytes]], extra: bytes = b"") -> bytes:
    """EXIF data: entries of (tag, type, count, value or four bytes)."""
    body = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        four = value if isinstance(value, bytes) else field(kind, value)
        body += struct.pack("<HHI", tag, kind, count) + four
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + body + b"\0\0\0\0" + extra


def random_exif(rng: np.random.Generator) -> bytes:
    """EXIF data of common tags with any types, counts, offsets, sub-directories and damage."""
    tags = [0x10F, 0x110, ORIENTATION, 0x11A, 0x11B, 0x128, 0x131, 0x132, 0x213, 0x8298]
    tags += [0x8769, 0x8825, 0xA005, 0x829A, 0x9000, 0x927C, 0x9286, 0xA002, 0x501B, 0xC4A5]
    entries = []
    for tag in rng.permutation(tags)[: rng.integers(1, 12)]:
        kind = int(rng.choice([*range(14), 16, 129, 65535]))
        count = int(rng.choice([0, 1, 1, 1, 2, 3, 8, 60, 70000, 2**31, 2**32 - 1]))
        value = int(rng.choice([0, 1, 3, 6, 8, 9, 26, 38, 80, 200, 2**31, 2**32 - 1]))
        entries.append((int(tag), kind, count, struct.pack("<I", value)))
    extra = rng.integers(0, 256, int(rng.integers(0, 200)), np.uint8).tobytes()
    data = bytearray(exif(entries, rng.choice([b"", b"72 dpi\0\0", b"\0" * 64]) + extra))
    if rng.random() < 0.3:
        for at in rng.integers(6, len(data), 3):
            data[at] = rng.integers(0, 256)
    return bytes(data[: rng.integers(7, len(data))] if rng.random() < 0.15 else data)


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG file."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg(image: Image.Image, *segments: bytes, **options: object) -> bytes:
    """A JPEG file with further segments at its head."""
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 95, **options})
    data = file.getvalue()
    return data[:2] + b"".join(segments) + data[2:]


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def zipped_text(kind: bytes, size: int, keyword: bytes = b"workflow") -> bytes:
    """A chunk of text, XMP or a profile that is ``size`` bytes long when it is unpacked."""
    packed = zlib.compress(b"x" * size)
    if kind == b"iTXt":
        return chunk(kind, keyword + b"\0\1\0\0\0" + packed)
    return chunk(kind, keyword + b"\0\0" + packed)


CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
PASSES += [(0, 1, 1, 2)]
"""Of Adam7: first column, first row, steps of columns and rows."""


def png(
    samples: np.ndarray,
    colour: int,
    bits: int,
    interlaced: bool = False,
    before: Sequence[bytes] = (),
    after: Sequence[bytes] = (),
) -> bytes:
    """A PNG file of integers (H, W, C); chunks ``before`` and ``after`` its pixels."""
    height, width = samples.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    parts = [samples]
    if interlaced:
        parts = [samples[y::down, x::right] for x, y, right, down in PASSES]
    raw = b"".join(_row(row, bits) for part in parts if part.size for row in part)
    body = b"".join(before) + chunk(b"IDAT", zlib.compress(raw)) + b"".join(after)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


def _row(row: np.ndarray, bits: int) -> bytes:
    if bits == 16:
        return b"\0" + row.astype(">u2").tobytes()
    if bits == 8:
        return b"\0" + row.astype(np.uint8).tobytes()
    digits = (row.reshape(-1)[:, None] >> np.arange(bits - 1, -1, -1)) & 1
    return b"\0" + np.packbits(digits.reshape(-1).astype(np.uint8)).tobytes()


def png_kinds() -> Iterator[tuple[int, int, bool, bool]]:
    """All (colour type, bits, interlaced, with tRNS) that there are."""
    for colour, depths in DEPTHS.items():
        for bits in depths:
            for interlaced in (False, True):
                for clear in (False, True) if colour in (0, 2, 3) else (False,):
                    yield colour, bits, interlaced, clear


def png_of_kind(
    colour: int, bits: int, interlaced: bool, clear: bool, rng: np.random.Generator
) -> tuple[bytes, np.ndarray]:
    """A PNG file and the RGBA (H, W, 4) of 8 bits that the standard says it has."""
    most = (1 << bits) - 1
    samples = rng.integers(0, most + 1, (9, 11, CHANNELS[colour]))
    samples[0, 0] = most
    before, alpha = [], np.full((9, 11, 1), 255)
    if colour == 3:
        palette = rng.integers(0, 256, (most + 1, 3))
        before.append(chunk(b"PLTE", palette.astype(np.uint8).tobytes()))
        rgb = palette[samples[..., 0]]
        if clear:
            alphas = rng.integers(0, 256, most)
            before.append(chunk(b"tRNS", alphas.astype(np.uint8).tobytes()))
            alpha = np.append(alphas, 255)[samples]
    else:
        scaled = np.floor(samples * (255 / most) + 0.5).astype(int)
        if bits == 16 and colour != 0:
            scaled = samples >> 8  # of colours Pillow keeps the upper 8 bits
        rgb = np.repeat(scaled[..., :1], 3, -1) if colour in (0, 4) else scaled[..., :3]
        alpha = scaled[..., -1:] if colour in (4, 6) else alpha
        if clear:
            one = samples[4, 5]
            before.append(chunk(b"tRNS", one.astype(">u2").tobytes()))
            match = samples >> 8 == one >> 8 if colour == 2 and bits == 16 else samples == one
            alpha = np.where(match.all(-1, keepdims=True), 0, 255)
    return png(samples, colour, bits, interlaced, before), np.concatenate([rgb, alpha], -1)


def png_bomb(width: int, height: int) -> bytes:
    """A small file of many black pixels."""
    packer = zlib.compressobj(9)
    row = b"\0" * (1 + width)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff(
    array: np.ndarray,
    tags: Sequence[tuple[int, int, int, bytes]] = (),
    big_endian: bool = False,
    photometric: int = 1,
) -> bytes:
    """An uncompressed grey TIFF file of an array (H, W) of any numbers.

    Args:
        array: its samples.
        tags: further ones: tag, type, count, content.
        big_endian: order of bytes.
        photometric: 1 = 0 is black, 0 = 0 is white.
    """
    order = ">" if big_endian else "<"
    data = array.astype(array.dtype.newbyteorder(order)).tobytes()
    number = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]

    def entry(tag: int, kind: int, *values: int) -> tuple[int, int, int, bytes]:
        code = {SHORT: "H", LONG: "I"}[kind]
        return tag, kind, len(values), struct.pack(f"{order}{len(values)}{code}", *values)

    height, width = array.shape
    entries = [entry(256, LONG, width), entry(257, LONG, height)]
    entries += [entry(258, SHORT, 8 * array.itemsize), entry(259, SHORT, 1)]
    entries += [entry(262, SHORT, photometric), entry(273, LONG, 8), entry(277, SHORT, 1)]
    entries += [entry(278, LONG, height), entry(279, LONG, len(data)), entry(339, SHORT, number)]
    start = 8 + len(data) + len(data) % 2
    entries = sorted([*entries, *tags])
    place, body, rest = start + 2 + 12 * len(entries) + 4, b"", b""
    for tag, kind, count, content in entries:
        body += struct.pack(f"{order}HHI", tag, kind, count)
        if len(content) <= 4:
            body += content.ljust(4, b"\0")
        else:
            body += struct.pack(f"{order}I", place + len(rest))
            rest += content
    head = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(f"{order}I", start)
    data = data.ljust(start - 8, b"\0")
    return head + data + struct.pack(f"{order}H", len(entries)) + body + b"\0\0\0\0" + rest


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A file with bytes changed, cut off, doubled or taken out."""
    content = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(content)))
        match rng.integers(0, 5):
            case 0:
                content[at] = rng.integers(0, 256)
            case 1:
                del content[max(1, at) :]
            case 2:
                content[at:at] = content[: at % 100]
            case 3:
                del content[at : at + int(rng.integers(1, 40))]
            case _:
                early = at % 64 if len(content) > 64 else at
                content[early] = rng.choice([0, 1, 127, 128, 255])
        content = content or bytearray(b"\0")
    return bytes(content)


def half_white(width: int = 40, height: int = 20) -> Image.Image:
    """White at the left, black at the right, so that a turn shows."""
    image = Image.new("RGB", (width, height))
    image.paste((255, 255, 255), (0, 0, width // 2, height))
    return image


P3 = ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841))
"""XYZ of the primaries of Display P3, adapted to D50."""


def rgb_profile(primaries: Sequence[Sequence[float]] = P3, gamma: float = 2.2) -> bytes:
    """An ICC profile of colours by three primaries and a gamma."""

    def number(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(values: Sequence[float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(number, values))

    name = b"A wide space\0"
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + b"\0" * 79
    tags = {b"desc": description, b"wtpt": xyz((0.9642, 1, 0.8249))}
    keys = (b"rXYZ", b"gXYZ", b"bXYZ")
    tags |= {key: xyz(value) for key, value in zip(keys, primaries, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    tags[b"cprt"] = b"text\0\0\0\0none\0"
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for key, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += key + struct.pack(">II", start + len(body), len(content))
        body += content
    head = struct.pack(">I4sI", start + len(body), b"lcms", 0x02400000) + b"mntrRGB XYZ "
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + b"".join(map(number, (0.9642, 1, 0.8249)))
    return head.ljust(128, b"\0") + table + body
