"""Small files of JSON with a checksum: what is remembered of files, for the next time."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from ldm.errors import DamagedFileError
from ldm.files import read_json, shown, write_text

CHECKSUM = "crc32"
_CONTENT = "content"


def write_note(path: Path, content: Any) -> None:
    """Write values of JSON, complete or not at all."""
    write_text(path, json.dumps({CHECKSUM: checksum(content), _CONTENT: content}) + "\n")


def read_note(path: Path) -> Any:
    """What ``write_note`` wrote.

    Raises:
        DamagedFileError: it is something else.
        FileNotFoundError: there is none.
    """
    path.lstat()
    found = read_json(path, DamagedFileError, table=True)
    if found.get(CHECKSUM) != checksum(found.get(_CONTENT)):
        raise DamagedFileError(f"{shown(path)} is damaged: it is not what was written")
    return found.get(_CONTENT)


def checksum(content: Any) -> str:
    """CRC-32 of values of JSON, whatever the order of names, in hex digits."""
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"
