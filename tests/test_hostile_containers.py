"""Files that are no files, and npz files that claim what they do not hold: one line, at once."""

from __future__ import annotations

import os
import signal
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm.checkpoint import save
from ldm.containers.tensors import CHECKSUM, read_tensors, write_tensors
from ldm.errors import DamagedFileError, UserError
from ldm.evaluation.sources.npz import NpzSource
from ldm.evaluation.sources.open import open_source
from tests.test_damage import KINDS, images, outcome, weights


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """What waits for ever is ended."""
    signal.alarm(20)
    yield
    signal.alarm(0)


# -- no regular files ----------------------------------------------------------------------------


def bound_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "socket": bound_socket,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "empty device": lambda path: path.symlink_to("/dev/null"),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_file_is_refused_at_once(name: str, special: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    path = tmp_path / kind.name
    SPECIAL[special](path)
    assert outcome(kind, path, object()) in ("refused", "void")


# -- npz -----------------------------------------------------------------------------------------


def member(header: str | bytes, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() if isinstance(header, str) else header
    form = "<H" if version[0] == 1 else "<I"
    return b"\x93NUMPY" + version + struct.pack(form, len(text)) + text + data


def header(shape: Any, descr: Any = "|u1", fortran: Any = False) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape}}}\n"


PIXELS = images().tobytes()
HEADERS: dict[str, bytes] = {
    "negative": member(header("(-5, 6, 7, 3)"), PIXELS),
    "two negative": member(header("(-5, -6, 7, 3)"), PIXELS),
    "huge": member(header("(1000000000000, 6, 7, 3)"), PIXELS),
    "overflowing": member(header(f"({2**62}, {2**62}, {2**62}, 3)"), PIXELS),
    "too many": member(header("(6, 6, 7, 3)"), PIXELS),
    "too few": member(header("(4, 6, 7, 3)"), PIXELS),
    "floats as shape": member(header("(5.0, 6, 7, 3)"), PIXELS),
    "truth as shape": member(header("(True, 6, 7, 3)"), PIXELS),
    "text as shape": member(header("'abc'"), PIXELS),
    "none": member(header("None"), PIXELS),
    "objects": member(header("(5,)", "|O"), b"\x80\x04K\x00."),
    "records": member(header("(5, 6, 7, 3)", [("a", "|u1"), ("b\n", "|O")]), PIXELS),
    "nothing": member(header("(5, 6, 7, 3)", "|V0")),
    "long texts": member(header("(5,)", "<U1000000000"), PIXELS),
    "unknown type": member(header("(5, 6, 7, 3)", "?!"), PIXELS),
    "fortran": member(header("(5, 6, 7, 3)", fortran=True), PIXELS),
    "fortran is a text": member(header("(5, 6, 7, 3)", fortran="'no'"), PIXELS),
    "deep": member("(" * 9000, PIXELS),
    "deep minus": member("-" * 9000 + "1", PIXELS),
    "code": member("__import__('os').system('false')", PIXELS),
    "no text": member(b"\xff\xfe\x00" * 30, PIXELS),
    "empty": member("", PIXELS),
    "another key": member("{'descr': '|u1'}", PIXELS),
    "long header": member(" " * 200_000, PIXELS, b"\x02\x00"),
    "claimed header": b"\x93NUMPY\x02\x00" + b"\xff\xff\xff\xff" + PIXELS,
    "version": member(header("(5, 6, 7, 3)"), PIXELS, b"\x09\x00"),
    "no array": b"hello",
    "no bytes": b"",
}
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        list(open_source(str(path))._items(0, 1))  # type: ignore[union-attr]
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000
    assert path.name in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", HEADERS)
def test_a_bad_array_is_refused(name: str, method: int, tmp_path: Path) -> None:
    good = member(header("(5, 6, 7, 3)"), PIXELS)
    labels = member(header("(5,)", "<i8"), bytes(40))
    refused(archive(tmp_path / "a.npz", {"arr_0.npy": HEADERS[name]}, method))
    if name not in ("fortran",):
        both = {"arr_0.npy": good, "arr_1.npy": HEADERS[name]}
        refused(archive(tmp_path / "b.npz", both, method))
    for key in ("mu", "sigma", "count", "network", "features_pool"):
        arrays = {
            "mu.npy": member(header("(2,)", "<f8"), bytes(16)),
            "sigma.npy": member(header("(2, 2)", "<f8"), bytes(32)),
            "arr_0.npy": good,
            "arr_1.npy": labels,
        } | {f"{key}.npy": HEADERS[name]}
        path = archive(tmp_path / f"{key}.npz", arrays, method)
        with pytest.raises(UserError, match=key):
            open_source(str(path))


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, 1, 2, 3, 2**63], np.uint64),
        np.array([0, 1, 2, 3, 10**12]),
        np.array([0, 1, 2, 3, -1]),
        np.array([0.0, 1, 2, 3, 4]),
        np.array([True] * 5),
        np.array(["a"] * 5),
        np.array(3),
        np.zeros((5, 1), int),
        np.zeros(4, int),
        np.zeros(0, int),
        np.array(["2020"] * 5, "datetime64[Y]"),
    ],
)
def test_absurd_labels_are_refused(labels: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images(), labels)
    assert "arr_1" in refused(tmp_path / "a.npz")


def test_names_of_arrays_do_not_break_the_message(tmp_path: Path) -> None:
    members = {f"a\n{'b' * 300}{k}.npy": b"" for k in range(300)}
    assert "images must be called arr_0" in refused(archive(tmp_path / "a.npz", members))
    assert "nothing" in refused(archive(tmp_path / "b.npz", {}))
    assert "nothing" in refused(archive(tmp_path / "c.npz", {"arr_0": PIXELS}))


def test_bombs_are_not_unpacked(tmp_path: Path) -> None:
    """Zeros that deflate a thousandfold, in each place that is read whole."""
    side = 4000
    zeros = bytes(side * side * 8)
    mu = member(header(f"({side},)", "<f8"), bytes(side * 8))
    arrays = {"mu.npy": mu, "sigma.npy": member(header(f"({side}, {side})", "<f8"), zeros)}
    path = archive(tmp_path / "a.npz", arrays, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(UserError, match="sigma cannot be read"):
        open_source(str(path))
    one = member(header("(1, 12000, 12000, 1)"), bytes(144_000_000))
    path = archive(tmp_path / "b.npz", {"arr_0.npy": one}, zipfile.ZIP_DEFLATED)
    assert "at most 128000000 pixels" in refused(path)


def test_a_part_of_the_images_is_checked_too(tmp_path: Path) -> None:
    """The checksum of a member is that of all of it: a partial read never comes to its end."""
    path, pixels = tmp_path / "a.npz", np.random.default_rng(0).bytes(20 * 64 * 64 * 3)
    np.savez(path, np.frombuffer(pixels, np.uint8).reshape(20, 64, 64, 3))
    content = bytearray(path.read_bytes())
    content[content.index(pixels[-100:]) + 99] ^= 1
    path.write_bytes(content)
    for source, share in ((NpzSource(str(path), num=2), (0, 1)), (NpzSource(str(path)), (1, 3))):
        with pytest.raises(UserError, match=r"a\.npz' is damaged .*not what was written"):
            list(source._items(*share))


# -- safetensors ---------------------------------------------------------------------------------


def test_a_checksum_is_one_more_text_of_the_metadata(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = tmp_path / "a.safetensors"
    save(weights(), path)
    with safe_open(path, "pt") as opened:
        assert opened.metadata().keys() == {"format", CHECKSUM}
    assert load_file(path).keys() == weights().keys()
    assert read_tensors(path).metadata == {"format": "pt"}
    first = path.read_bytes()
    save(weights(), path)
    assert path.read_bytes() == first
    save_file(weights(), path)  # of another library: no checksum, no complaint
    assert torch.equal(read_tensors(path).tensors["denoiser.0"], weights()["denoiser.0"])
    write_tensors(path, {}, {"a": "b"})
    assert read_tensors(path) == ({}, {"a": "b"})


@pytest.mark.parametrize(
    "text",
    [
        b"{}" + b" " * 6,
        b"[" * 10_000,
        b"null    ",
        b'{"a": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296, 4], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"__metadata__": {"ldm_crc32": "x"}, "a": {"dtype": "U8", "shape": [4], '
        b'"data_offsets": [0, 4]}}',
        b'{"__metadata__": {"ldm_crc32": 5}}',
    ],
)
def test_bad_headers_are_refused(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for length in (len(text), 2**63, 2**64 - 1, 99_000_000):
        path.write_bytes(length.to_bytes(8, "little") + text + bytes(4))
        with pytest.raises(DamagedFileError):
            read_tensors(path)
