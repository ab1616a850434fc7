"""Pickles and archives that somebody made up, and a process in which they may do their worst."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[1]
MEMORY, SECONDS = 1 << 30, 20
"""What reading one file may take beyond the interpreter itself."""
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)


def zipped(
    path: Path,
    pickled: bytes,
    storages: Mapping[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
) -> Path:
    """An archive as ``torch.save`` writes it, with this pickle and these storages in it."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/byteorder", "little")
        for key, content in (storages or {}).items():
            archive.writestr(f"a/data/{key}", content)
        archive.writestr("a/version", "3\n")
    return path


def old(path: Path, pickled: bytes, storages: bytes = b"", keys: Any = ()) -> Path:
    """A file as ``torch.save`` wrote it before 1.6."""
    system = pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2)
    parts = (MAGIC, pickle.dumps(1001, 2), system, pickled, pickle.dumps(list(keys), 2), storages)
    path.write_bytes(b"".join(parts))
    return path


def text(value: str) -> bytes:
    """Pushes a text."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    """Pushes a whole number."""
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(dotted: str) -> bytes:
    """Pushes a class or function."""
    module, _, last = dotted.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def storage(count: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    """Pushes a storage."""
    return (
        b"(" + text("storage") + name(f"torch.{kind}") + text(key) + text("cpu") + number(count)
    ) + b"tQ"


def tensor(
    size: tuple[int, ...], stride: tuple[int, ...], count: int, offset: int = 0, key: str = "0"
) -> bytes:
    """Pushes a tensor."""
    dimensions = b"".join(b"(" + b"".join(map(number, each)) + b"t" for each in (size, stride))
    hooks = name("collections.OrderedDict") + b")R"
    return (
        (name("torch._utils._rebuild_tensor_v2") + b"(" + storage(count, key) + number(offset))
        + dimensions
        + b"\x89"
        + hooks
        + b"tR"
    )


def state(*entries: bytes) -> bytes:
    """A whole pickle: a dict of weights w0, w1, ..."""
    items = b"".join(text(f"w{k}") + entry for k, entry in enumerate(entries))
    return b"\x80\x02}(" + items + b"u."


@dataclass(frozen=True)
class Outcome:
    """What became of reading a file.

    Attributes:
        error: name of the class of what was raised; "": nothing was; "killed": by a signal.
        message: of the error, or which signal.
        seconds: that it took.
        memory: bytes that it took at most, beyond what was taken before.
    """

    error: str
    message: str
    seconds: float
    memory: int


class Reader:
    """A process that reads each file in a fork of itself, with limits of memory and time."""

    def __enter__(self) -> Reader:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def read(self, *paths: Path, function: str = "read_state") -> list[Outcome]:
        """Let a function of ``ldm.checkpoint`` read files, one after the other."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = json.dumps([[str(path) for path in paths], function])
        print(request, file=self._process.stdin, flush=True)
        return [Outcome(*found) for found in json.loads(self._process.stdout.readline())]


def _serve() -> None:
    import ldm.checkpoint

    with tempfile.TemporaryDirectory() as folder:  # what the first reading imports
        ldm.checkpoint.read_state(
            zipped(Path(folder) / "good.pt", state(tensor((1,), (1,), 1)), {"0": bytes(4)})
        )
    for line in sys.stdin:
        paths, function = json.loads(line)
        print(json.dumps(_in_fork(getattr(ldm.checkpoint, function), paths)), flush=True)


def _in_fork(read: Any, paths: list[str]) -> list[Any]:
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        try:
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
            for path in paths:
                os.write(sending, json.dumps(_outcome(read, path)).encode() + b"\n")
        finally:
            os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        found = [json.loads(line) for line in pipe]
    _, status = os.waitpid(child, 0)
    lost = ["killed", f"by signal {status & 0x7F}", 0.0, 0]
    return found + [lost] * (len(paths) - len(found))


def _outcome(read: Any, path: str) -> tuple[str, str, float, int]:
    signal.alarm(SECONDS)
    before, start = _peak(), time.monotonic()
    error, message = "", ""
    try:
        read(path)
    except BaseException as raised:
        error, message = type(raised).__name__, str(raised)[:2000]
    return error, message, time.monotonic() - start, _peak() - before


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def overlapping(path: Path, times: int) -> Path:
    """An archive in which many names share one compressed file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", state(b"N"))
        archive.writestr("a/data/0", bytes(1 << 20))
        big = archive.infolist()[1]
        for k in range(times):
            twin = zipfile.ZipInfo(f"a/data/{k + 1}")
            for attribute in ("compress_type", "CRC", "compress_size", "file_size"):
                setattr(twin, attribute, getattr(big, attribute))
            twin.header_offset = big.header_offset
            archive.filelist.append(twin)
    path.write_bytes(buffer.getvalue())
    return path


if __name__ == "__main__":
    _serve()
