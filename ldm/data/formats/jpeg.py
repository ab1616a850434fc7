"""JPEG files: segments of metadata are left out, but for the two that say how colours are coded."""

from __future__ import annotations

from typing import BinaryIO

from ldm.data.formats.encoded import MOST_METADATA, Encoded, rest_of

MAGIC = b"\xff\xd8\xff"
_JFIF, _ADOBE, _COMMENT = 0xE0, 0xEE, 0xFE
_LAST = (0xDA, 0xD9)
"""Begin of a scan, end of the image: what follows has no more segments."""
_ALONE = {0x01, *range(0xD0, 0xD9)}
"""Markers without a length."""
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_EXIF, _XMP, _PROFILE = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"


def take_apart(file: BinaryIO, whole: bool) -> Encoded:
    """A JPEG file without its metadata.

    Args:
        file: at its begin.
        whole: False: only as far as the first scan.
    """
    kept, size = [file.read(2)], None
    exif, xmp, profile = b"", b"", {}
    while True:
        marker, raw = _marker(file)
        if marker is None or marker in _LAST:
            kept.append(raw)
            break
        if marker in _ALONE:
            kept.append(raw)
            continue
        length = file.read(2)
        body = file.read(max(0, int.from_bytes(length, "big") - 2))
        if marker in _FRAMES and len(body) >= 5:
            size = int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")
        if marker == 0xE1 and body.startswith(_EXIF) and len(exif) < MOST_METADATA:
            exif += body[len(_EXIF) :]
        elif marker == 0xE1 and body.startswith(_XMP):
            xmp = xmp or body[len(_XMP) :]
        elif marker == 0xE2 and body.startswith(_PROFILE) and len(body) > 14:
            profile[body[12]] = body[14:]
        if _needed(marker, body):
            kept += [raw, length, body]
    data = b"".join([*kept, rest_of(file, whole)]) if whole else b""
    joined = b"".join(profile[number] for number in sorted(profile))
    return Encoded(data, size, exif, xmp, joined, bits=8)


def _marker(file: BinaryIO) -> tuple[int | None, bytes]:
    """The next marker and how it is stored; None: there is none, as the decoder shall see."""
    raw = file.read(1)
    if raw != b"\xff":
        return None, raw
    byte = file.read(1)
    while byte == b"\xff":
        byte = file.read(1)
    return (byte[0] if byte and byte != b"\0" else None), raw + byte


def _needed(marker: int, body: bytes) -> bool:
    if marker == _JFIF:
        return body.startswith(b"JFIF\0") and len(body) >= 14
    if marker == _ADOBE:
        return body.startswith(b"Adobe") and len(body) >= 12
    return not (_JFIF < marker <= 0xEF or marker == _COMMENT)
