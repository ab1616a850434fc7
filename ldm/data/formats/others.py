"""Files that are no image of a known format: what they seem to be, for messages."""

from __future__ import annotations

UNKNOWN = "it is of no known format"
_BEGINS = {
    b"\xff\x0a": "a JPEG XL image: convert it",
    b"\0\0\0\x0cJXL ": "a JPEG XL image: convert it",
    b"<svg": "an SVG drawing: convert it",
    b"<": "HTML or XML, as a failed download leaves it",
    b"{": "JSON",
    b"%PDF": "a PDF document: convert it",
    b"%!PS": "a PostScript document: convert it",
    b"\0\0\1\0": "an icon: convert it",
    b"version https://git-lfs": "a pointer of Git LFS: 'git lfs pull' gets the file itself",
    b"\0\5\x16\7": "macOS's notes on another file",
    b"PK\3\4": "a zip archive: unpack it",
    b"\x1f\x8b": "a gzip archive: unpack it",
}
_HEIF = (b"heic", b"heix", b"heif", b"hevc", b"mif1", b"msf1")
_FILMS = (b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"qt  ", b"M4V ")
_MARK = b"\xef\xbb\xbf"


def described(data: bytes) -> str:
    """What a file that no decoder knows seems to be, in a few words."""
    if not data.strip(b"\0"):
        return "it holds zeros only" if data else "it is empty"
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in _HEIF:
        return "it is a HEIC photograph: convert it to JPEG"
    if brand in _FILMS:
        return "it is a film"
    for head in (data, data[:512].removeprefix(_MARK).lstrip()):
        for begin, what in _BEGINS.items():
            if head.startswith(begin):
                return f"it is {what}"
    return UNKNOWN
