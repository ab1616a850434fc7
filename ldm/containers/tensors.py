"""Safetensors files with a checksum, of weights and of everything that is kept for later.

The format has none. Here its metadata, texts by name, hold one more: two CRC-32 as hex digits, of
what the header says and of the bytes of all tensors. Other libraries pass over it, and files of
others, which have none, are read unchecked.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from torch import Tensor

from ldm.containers.zips import crc_of
from ldm.errors import DamagedFileError
from ldm.files import open_regular, reason, shown, write_atomically

CHECKSUM = "ldm_crc32"
"""Name of the checksum in the metadata."""
_METADATA = "__metadata__"
_LENGTH = 8
"""Bytes before the header, which tell its length; the tensors begin at a multiple of them."""


class Content(NamedTuple):
    """What a file holds.

    Attributes:
        tensors: by name, on the CPU; their memory is the file until they are changed.
        metadata: texts by name, without the checksum.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def serialised(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, memoryview]:
    """The two parts of a file, one after the other; the same content always makes the same bytes.

    Args:
        tensors: by name; their memory is copied once.
        metadata: texts by name.
    """
    from safetensors.torch import save

    whole = {name: value.detach().contiguous() for name, value in tensors.items()}
    content = memoryview(save(whole, dict(metadata or {})))
    begin = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    header = json.loads(bytes(content[_LENGTH:begin]))
    texts = dict(sorted((metadata or {}).items()))
    texts[CHECKSUM] = f"{_crc_of_header(header):08x} {zlib.crc32(content[begin:]):08x}"
    entries = {name: entry for name, entry in header.items() if name != _METADATA}
    text = json.dumps({_METADATA: texts, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)
    return len(text).to_bytes(_LENGTH, "little") + text, content[begin:]


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file with its checksum, complete or not at all; see ``serialised``."""
    parts = serialised(tensors, metadata)
    write_atomically(path, lambda file: file.writelines(parts))


def read_tensors(path: Path, check: bool = True, values: bool = True) -> Content:
    """What a safetensors file holds.

    Args:
        path: the file.
        check: compare it with its checksum, if it has one; that takes a second for several GB.
        values: False: look at the header only, where what is read later has checksums of its own.

    Raises:
        DamagedFileError: cut short, no such file, or a byte is not what was written.
        OSError: it is absent, cannot be read, or is no regular file.
    """
    from safetensors import safe_open

    with open_regular(path) as file:
        try:
            with safe_open(path, framework="pt") as opened:
                metadata = dict(opened.metadata() or {})
                if check:
                    _check(file, metadata.get(CHECKSUM), values)
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except OSError:
            raise
        except Exception as error:  # a damaged file can raise anything at all
            raise DamagedFileError(f"{shown(path)} is damaged: {reason(error)}") from error
    metadata.pop(CHECKSUM, None)
    return Content(tensors, metadata)


_ABOUT = "about"


def write_table(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and what is known of them, with a checksum, complete or not at all.

    Args:
        path: the file.
        tensors: what it holds.
        about: what is known of them, as values of JSON. It becomes a tensor of bytes: a header of
            safetensors is too short for a million names.
    """
    import torch

    packed = torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8)
    write_tensors(path, {**tensors, _ABOUT: packed})


def read_table(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What ``write_table`` wrote.

    Raises:
        DamagedFileError: it is damaged.
        OSError: see ``read_tensors``.
        ValueError: it is another safetensors file.
    """
    tensors = read_tensors(path).tensors
    packed = tensors.pop(_ABOUT, None)
    if packed is None:
        raise ValueError("it does not say what its tensors are")
    try:
        about = json.loads(bytes(packed.numpy()).decode())
    except (TypeError, ValueError, RecursionError, RuntimeError) as error:
        raise ValueError(f"it does not say what its tensors are: {reason(error)}") from error
    if not isinstance(about, dict):
        raise ValueError("it does not say what its tensors are")
    return tensors, about


def _check(file: BinaryIO, checksum: str | None, values: bool) -> None:
    """Raises ValueError where a file is not what its checksum says."""
    if checksum is None:
        return
    length = int.from_bytes(file.read(_LENGTH), "little")
    header = json.loads(file.read(length))
    expected, _, of_values = checksum.partition(" ")
    if expected != f"{_crc_of_header(header):08x}":
        raise ValueError("its header is not what was written")
    if not values:
        return
    entries = (entry for name, entry in header.items() if name != _METADATA)
    size = max((entry["data_offsets"][1] for entry in entries), default=0)
    crc = crc_of(file, size)
    if crc is None or of_values != f"{crc:08x}":
        raise ValueError("its tensors are not what was written")


def _crc_of_header(header: Mapping[str, Any]) -> int:
    """Of all that the header says but the checksum, in whatever order it says so."""
    metadata = {k: v for k, v in (header.get(_METADATA) or {}).items() if k != CHECKSUM}
    return zlib.crc32(json.dumps({**header, _METADATA: metadata}, sort_keys=True).encode())
