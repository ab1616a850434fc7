"""Checkpoint files of PyTorch as containers of pickles: zip archives, and those before 1.6."""

from __future__ import annotations

import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ldm.files import open_regular, reason
from ldm.pickles.machine import PickleScan
from ldm.pickles.values import MOST_BYTES, RefusedError, refuse

_ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a file before PyTorch 1.6."""
_FIRST = 1 << 22
"""Bytes of such a file that are looked at first; its numbers come last."""
_END, _END_64, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), "<4sLQL"
_MOST_INDEX = 1 << 26
_MOST_BESIDE = 1 << 20
"""Bytes of a member of a zip archive that holds neither the pickle nor numbers."""
_RATIO, _MOST_MORE = 10, 1 << 24
"""How much larger, by factor and by bytes, a compressed archive may become."""


def scan_file(path: Path, see: Callable[[str], object]) -> None:
    """Refuse a checkpoint file that would take more memory, time or stack than its size is worth.

    Args:
        path: the file.
        see: called with the dotted name of every class or function that it refers to.

    Raises:
        RefusedError: it says why, without the path.
        UserError: whatever ``see`` raises.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if file.read(len(_ZIP)) == _ZIP:
                _scan_zip(file, size, see)
            else:
                _scan_legacy(file, size, see)
    except OSError as error:
        refuse(reason(error))


def _scan_zip(file: BinaryIO, size: int, see: Callable[[str], object]) -> None:
    count = _check_end(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(members, count, size)
            root = members[0].filename.partition("/")[0]
            sizes = {member.filename: member.file_size for member in members}
            if sizes.get(f"{root}/data.pkl", MOST_BYTES + 1) > MOST_BYTES:
                refuse(f"it has no data.pkl of up to {MOST_BYTES} bytes")
            scan = PickleScan(archive.read(f"{root}/data.pkl"), see)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        refuse(reason(error))
    scan.scan()
    for key, needed in scan.calls.storages.items():
        there = sizes.get(f"{root}/data/{key}")
        if there is None or there < needed:
            refuse(f"its storage {key[:80]!r} should have {needed} bytes, there are {there or 0}")
    for name, bytes_ in sizes.items():
        held = name == f"{root}/data.pkl" or name.startswith(f"{root}/data/")
        if not held and bytes_ > _MOST_BESIDE:
            refuse(f"{name[:80]!r} in it has {bytes_} bytes")


def _check_end(file: BinaryIO, size: int) -> int:
    """Number of members, of an archive that every reader sees alike: its index has one place.

    PyTorch reads archives with another library than this module; where the two could find
    different indexes, one could be judged and the other be read.
    """
    at = size - _END.size
    if at < 0:
        refuse("it is cut short")
    sign, disk, start_disk, _, count, length, offset, comment = _at(file, at, _END)
    if sign != b"PK\x05\x06" or disk or start_disk or comment:
        refuse("it is cut short, or something follows its index")
    locator = struct.Struct(_LOCATOR)
    before = at - locator.size
    if before >= 0 and (found := _at(file, before, locator))[0] == b"PK\x06\x07":
        at = before - _END_64.size
        if found[2] != at or at < 0:
            refuse("it has two indexes")
        sign, own, _, _, disk, start_disk, _, count, length, offset = _at(file, at, _END_64)
        if sign != b"PK\x06\x06" or own != _END_64.size - 12 or disk or start_disk:
            refuse("its index is damaged")
    if offset + length != at or length > _MOST_INDEX:
        refuse("its index is not where it should be")
    return int(count)


def _at(file: BinaryIO, offset: int, record: struct.Struct) -> tuple[Any, ...]:
    file.seek(offset)
    return record.unpack(file.read(record.size))


def _check_members(members: list[zipfile.ZipInfo], count: int, size: int) -> None:
    """Refuse what readers may take for different files, and what is larger than the file."""
    if not members or len(members) != count:
        refuse("its index is damaged")
    names = {member.filename.lower() for member in members}
    if len(names) < count or any(m.filename != m.orig_filename for m in members):
        refuse("two files in it have one name")
    if any(name.endswith("/constants.pkl") for name in names):
        refuse("it is a program (TorchScript), not weights")
    for member in members:
        if member.flag_bits & 1 or member.compress_type not in (0, zipfile.ZIP_DEFLATED):
            refuse("it is encrypted, or compressed in an unusual way")
        if not member.compress_type and member.file_size != member.compress_size:
            refuse("its index is damaged")
    if sum(member.compress_size for member in members) > size:
        refuse("the files in it overlap")
    whole = sum(member.file_size for member in members)
    if whole > _RATIO * size + _MOST_MORE:
        refuse(f"its {size} bytes would become {whole}")


def _scan_legacy(file: BinaryIO, size: int, see: Callable[[str], object]) -> None:
    file.seek(0)
    data = file.read(_FIRST)
    try:
        _scan_pickles(data, size, see)
    except RefusedError:
        if len(data) == size:
            raise
        file.seek(0)
        _scan_pickles(file.read(MOST_BYTES), size, see)


def _scan_pickles(data: bytes, size: int, see: Callable[[str], object]) -> None:
    """The five pickles before the numbers."""
    try:
        tarfile.TarInfo.frombuf(data[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        pass
    else:
        refuse(
            "it is a tar archive, the format of PyTorch before 0.1.10: save it anew with a later"
        )
    scan = PickleScan(data, see)
    if scan.scan() != _MAGIC:
        refuse("it does not begin like one")
    for _ in range(4):  # version, system, the content, the order of the storages
        scan.scan()
    needed, left = sum(scan.calls.storages.values()), size - scan.position
    if needed > left:
        refuse(f"its storages should have {needed} bytes, there are {left}")
