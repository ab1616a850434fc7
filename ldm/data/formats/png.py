"""PNG files: texts, profiles, dates and animation are left out, wherever they stand."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from typing import BinaryIO

from ldm.data.formats.encoded import MOST_METADATA, Encoded

MAGIC = b"\x89PNG\r\n\x1a\n"
_XMP, _RAW_EXIF = b"XML:com.adobe.xmp", b"Raw profile type exif"
_LONGEST_KEYWORD = 79
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_GREY, _COLOUR, _PALETTE = 0, 2, 3


def take_apart(file: BinaryIO, whole: bool) -> Encoded:
    """A PNG file without what its pixels do not need.

    Args:
        file: at its begin.
        whole: False: pixels are passed over.
    """
    file.seek(len(MAGIC))
    kept, found, header = [MAGIC], Encoded(), b""
    while len(start := file.read(8)) == 8:
        length, kind = int.from_bytes(start[:4], "big"), start[4:]
        here = file.tell()
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND") and whole:
            # what a length promises and the file does not hold is not asked for
            kept += [start, file.read(length + 4)]
        if kind == b"IHDR" and not header:
            file.seek(here)
            header = file.read(min(length, 13))
        elif kind == b"tRNS":
            kept.append(_transparency(_content(file, kind, length), header))
        else:
            found = _noted(found, file, kind, length)
        if kind == b"IEND":
            break
        file.seek(here + length + 4)
    if len(header) < 13:
        return replace(found, data=b"".join(kept) if whole else b"")
    width, height, bits = struct.unpack_from(">IIB", header)
    data = b"".join(kept) if whole else b""
    return replace(found, data=data, size=(width, height), bits=bits)


def _noted(found: Encoded, file: BinaryIO, kind: bytes, length: int) -> Encoded:
    """What is known so far and what a chunk adds: how the image is turned, its profile."""
    if kind == b"eXIf":
        return replace(found, exif=_content(file, kind, length) or found.exif)
    if kind == b"iCCP":
        _, _, profile = _content(file, kind, length).partition(b"\0")
        return replace(found, profile=profile[1:], compressed=True)
    if kind not in _TEXTS:
        return found
    start = file.read(min(length, _LONGEST_KEYWORD + 1))
    keyword, _, text = start.partition(b"\0")
    # each only once: small chunks may unpack to large texts
    if keyword == _XMP and not found.xmp:
        text += file.read(min(length - len(start), MOST_METADATA))
        return replace(found, xmp=_unpacked(kind, text) or b" ")
    if keyword == _RAW_EXIF and not found.exif:
        text += file.read(min(length - len(start), MOST_METADATA))
        return replace(found, exif=_from_hexadecimal(_unpacked(kind, text)) or b" ")
    return found


def _content(file: BinaryIO, kind: bytes, length: int) -> bytes:
    """Of a chunk; empty if it is too long, not whole or does not fit its checksum."""
    if length > MOST_METADATA:
        return b""
    body = file.read(length)
    stored = int.from_bytes(file.read(4), "big")
    return body if len(body) == length and zlib.crc32(kind + body) == stored else b""


def _unpacked(kind: bytes, text: bytes) -> bytes:
    """What follows the keyword of a chunk of text, at most ``MOST_METADATA`` bytes."""
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
    elif packed:
        text = text[1:]
    if not packed:
        return text
    try:
        return zlib.decompressobj().decompress(text, MOST_METADATA)
    except zlib.error:
        return b""


def _from_hexadecimal(text: bytes) -> bytes:
    """Bytes that ImageMagick wrote as digits, below a name and a number; empty if they are none."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def _transparency(body: bytes, header: bytes) -> bytes:
    """The chunk of transparency in units of Pillow's samples; nothing if it is damaged.

    Pillow widens grey of 1, 2 and 4 bits to 8 and cuts colours of 16 bits to 8, but compares them
    with the number as it is stored.
    """
    if len(header) < 13:
        return b""
    bits, colour = header[8], header[9]
    if colour == _GREY and len(body) == 2:
        value = int.from_bytes(body, "big") & ((1 << bits) - 1)
        body = struct.pack(">H", value * {1: 255, 2: 85, 4: 17}.get(bits, 1))
    elif colour == _COLOUR and len(body) == 6:
        values = struct.unpack(">3H", body)
        body = struct.pack(">3H", *(value >> 8 if bits == 16 else value & 255 for value in values))
    elif colour != _PALETTE or not 0 < len(body) <= 256:
        return b""
    chunk = b"tRNS" + body
    return len(body).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
