"""Files that would take memory, time or the interpreter: they are refused before they do."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import random
import struct
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ldm.checkpoint import read_state
from ldm.errors import CheckpointError
from ldm.pickles.files import scan_file
from ldm.pickles.machine import PickleScan
from tests.hostile import (
    MAGIC,
    MEMORY,
    Outcome,
    Reader,
    name,
    number,
    old,
    overlapping,
    state,
    storage,
    tensor,
    text,
    zipped,
)

MILLION = 1_000_000
HUGE = 10**12


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    if sys.platform != "linux":
        pytest.skip("limits of memory, and how much was taken, as Linux has them")
    with Reader() as process:
        yield process


def lists_from_outside(depth: int) -> bytes:
    """[[[...]]], each list empty when it is put into the one around it."""
    return b"\x80\x02]q\x02q\x00" + b"]q\x01a0h\x01q\x00" * depth + b"h\x02."


def doubled(pair: bytes, times: int) -> bytes:
    return b"\x80\x04)" + (b"2" + pair) * times


ENCODED = name("_codecs.encode") + b"(" + text("ab" * 8)
COLLIDING = b"".join(number(k * (2**61 - 1) * 2**61) + b"N" for k in range(1, 60_000))

PICKLES: dict[str, bytes] = {
    "memo": b"\x80\x02}r\x00\x00\x00\x10.",
    "memo, larger": b"\x80\x02}r\xff\xff\xff\xff.",
    "memo, after others": b"\x80\x02}q\x00q\x01q\x02r\x00\x00\x00\x08.",
    "memo in words": b"\x80\x02}p268435456\n.",
    "memo below zero": b"\x80\x02}p-1\n.",
    "tuples as a key": b"\x80\x02})" + b"\x85" * MILLION + b"Ns.",
    "tuples as a value": b"\x80\x02}N)" + b"\x85" * MILLION + b"s.",
    "tuples in a tuple": b"\x80\x02}(((N" + b"N\x86" * MILLION + b"ttts.",
    "tuples by marks": b"\x80\x02}" + b"(" * MILLION + b"t" * MILLION + b"Ns.",
    "frozen sets": b"\x80\x04}(\x91" + b"\x940(h\x00\x91" * 20_000 + b"Ns.",
    "tuples left on the stack": b"\x80\x02)" + b"\x85" * MILLION + b"0}.",
    "tuples in a set": b"\x80\x04\x8f()" + b"\x85" * MILLION + b"\x90.",
    "tuples given to a class": b"\x80\x02"
    + name("collections.OrderedDict")
    + b"(](()"
    + b"\x85" * MILLION
    + b"Nlatetatec.",
    "lists": b"\x80\x02" + b"]" * MILLION + b"a" * (MILLION - 1) + b".",
    "lists from outside": lists_from_outside(MILLION // 20),
    "dicts": b"\x80\x02" + b"}N" * (MILLION // 2) + b"}" + b"s" * (MILLION // 2) + b".",
    "doubling tuples": b"\x80\x02}" + doubled(b"\x86", 60)[2:] + b"Ns.",
    "doubling tuples as a value": b"\x80\x02}N" + doubled(b"\x86", 60)[2:] + b"s.",
    "doubling lists": b"\x80\x02]" + b"q\x00]h\x00ah\x00a" * 60 + b".",
    "doubling by marks": b"\x80\x02)" + b"q\x00(h\x00h\x00h\x00h\x00t" * 30 + b"}h\x00Ns.",
    "length of a text": b"\x80\x04}\x8d" + struct.pack("<Q", 2**60) + b"ab.",
    "length of a text, shorter": b"\x80\x04}X\xff\xff\xff\xff.",
    "length of bytes": b"\x80\x04}\x8e" + struct.pack("<Q", 2**40) + b"ab.",
    "length of an array": b"\x80\x05}\x96" + struct.pack("<Q", 2**40) + b"ab.",
    "length of an old text": b"\x80\x02}T\xff\xff\xff\x7f.",
    "length of a number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "digits": b"\x80\x02L" + b"9" * MILLION + b"L\n.",
    "a frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
    "sets": b"\x80\x04" + b"\x8f" * 5_000_000 + b".",
    "steps": b"\x80\x04}" + b"N0" * 3_000_000 + b".",
    "keys of one hash": b"\x80\x02}(" + COLLIDING + b"u.",
    "an array of bytes": state(name("builtins.bytearray") + number(HUGE) + b"\x85R"),
    "of Python 2": state(name("__builtin__.bytearray") + number(HUGE) + b"\x85R"),
    "an array by a list": state(name("builtins.bytearray") + b"]" + number(HUGE) + b"aR"),
    "a new storage": state(name("torch.FloatStorage") + number(HUGE) + b"\x85R"),
    "a new storage, as an object": state(name("torch.FloatStorage") + number(HUGE) + b"\x85\x81"),
    "an untyped storage": state(name("torch.storage.UntypedStorage") + number(HUGE) + b"\x85R"),
    "a new tensor": state(name("torch.FloatTensor") + number(HUGE) + b"\x85R"),
    "no storage at all": state(
        name("torch._utils._rebuild_meta_tensor_no_storage") + b"(" + number(HUGE) + b"tR"
    ),
    "an encoding that doubles": state(ENCODED + text("hex") + b"tR"),
    "a call many times": b"\x80\x02("
    + b"".join(number(k) for k in range(9_000))
    + b"tq\x00"
    + (name("torch.Size") + b"h\x00\x85R") * 50_000
    + b".",
    "an old name of a class": b"\x80\x02"
    + name("UserDict.OrderedDict")
    + b")R"
    + (b"N" + name("UserDict.OrderedDict") + b")R") * 500
    + b"s" * 500
    + b".",
}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_out_of_all_bounds_is_refused(kind: str, reader: Reader, tmp_path: Path) -> None:
    files = [zipped(tmp_path / "a.ckpt", PICKLES[kind]), old(tmp_path / "b.ckpt", PICKLES[kind])]
    long = kind in ("sets", "steps", "keys of one hash", "lists", "dicts")
    check(reader.read(*files[: 1 if long else 2]), files)
    if not long:
        check(reader.read(files[0], function="load_training_checkpoint"), files)


def check(outcomes: list[Outcome], files: list[Path]) -> None:
    for done, path in zip(outcomes, files, strict=False):
        assert done.error in ("CheckpointError", "DamagedCheckpointError"), done
        assert str(path) in done.message
        assert "\n" not in done.message
        assert done.memory < MEMORY // 2
        assert done.seconds < 10


def in_zip(pickled: bytes, numbers: int = 4, key: str = "0") -> Callable[[Path], Path]:
    return lambda path: zipped(path, pickled, {key: bytes(numbers)})


def one(size: tuple[int, ...], stride: tuple[int, ...], count: int = 1, **kwargs: Any) -> bytes:
    return state(tensor(size, stride, count, **kwargs))


def bomb(path: Path, member: str, megabytes: int) -> Path:
    zipped(path, one((1,), (1,)), {"0": bytes(4)})
    archive = zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED)
    with archive, archive.open(member, "w") as file:
        for _ in range(megabytes):
            file.write(bytes(1 << 20))
    return path


def compressed(path: Path) -> Path:
    """A pickle of many values that takes little space."""
    return zipped(path, b"\x80\x02](" + b"N" * (1 << 27) + b"e.", method=zipfile.ZIP_DEFLATED)


def patched(path: Path, change: Callable[[bytearray], object]) -> Path:
    content = bytearray(zipped(path, one((1,), (1,)), {"0": bytes(4)}).read_bytes())
    change(content)
    path.write_bytes(content)
    return path


def in_index(content: bytearray, member: bytes) -> int:
    """Where the index has the entry of a member."""
    return content.rfind(member) - 46


def claim(content: bytearray) -> None:
    """The storage claims a terabyte, in the index."""
    at = in_index(content, b"a/data/0")
    struct.pack_into("<LL", content, at + 20, 0xFFFFFFF0, 0xFFFFFFF0)


def encrypted(content: bytearray) -> None:
    content[in_index(content, b"a/data.pkl") + 8] |= 1


def tar(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return path


def like_tar(path: Path) -> Path:
    """Begins like a file of pickles and like a tar archive."""
    block = bytearray(512)
    block[: len(MAGIC)] = MAGIC
    block[100:108], block[124:136], block[148:156] = b"0000644\0", b"00000000000\0", b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    path.write_bytes(bytes(block) + bytes(1024))
    return path


def twice(path: Path, second: str) -> Path:
    zipped(path, one((1,), (1,)), {"0": bytes(4)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(second, PICKLES["memo"])
    return path


def holding(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


FILES: dict[str, Callable[[Path], Path]] = {
    "a tensor larger than its storage": in_zip(one((HUGE,), (1,))),
    "a tensor a little larger": in_zip(one((2,), (1,))),
    "behind its storage": in_zip(one((1,), (1,), offset=1)),
    "strides": in_zip(one((2, 2), (HUGE, 1), 4), 16),
    "strides backwards": in_zip(one((2,), (-1,), 2), 8),
    "before its storage": in_zip(one((1,), (1,), offset=-1)),
    "a size below zero": in_zip(one((-1,), (1,))),
    "repeated": in_zip(one((HUGE,), (0,))),
    "dimensions": in_zip(one((1,) * 100, (1,) * 100)),
    "sizes without strides": in_zip(one((1, 1), (1,))),
    "a storage larger than its file": in_zip(one((1,), (1,), HUGE)),
    "a storage a little larger": in_zip(one((1,), (1,), 2)),
    "a storage that is absent": in_zip(one((1,), (1,)), key="1"),
    "a storage of two sizes": in_zip(state(tensor((1,), (1,), 1), tensor((2,), (1,), 2)), 8),
    "a storage by another case": in_zip(one((1,), (1,), key="W"), key="w"),
    "a storage below zero": in_zip(state(storage(-1))),
    "a tensor by a list": in_zip(
        state(tensor((HUGE,), (1,), 1)[:-2].replace(b"(", b"](", 1) + b"eR")
    ),
    "a changed tensor": in_zip(
        state(
            tensor((1,), (1,), 1)
            + b"("
            + storage(1)
            + b"K\x00"
            + b"("
            + number(HUGE)
            + b"t(K\x01ttb"
        )
    ),
    "an old storage": lambda path: old(path, one((1,), (1,), HUGE), keys=["0"]),
    "an old storage, no numbers": lambda path: old(path, one((1,), (1,), 1000), bytes(8), ["0"]),
    "a compressed pickle": compressed,
    "a compressed storage": lambda path: bomb(path, "a/data/1", 300),
    "a compressed something": lambda path: bomb(path, "a/.data/serialization_id", 300),
    "a plain something": lambda path: twice(path, "a/version2") and bomb(path, "a/extra", 2),
    "overlapping files": lambda path: overlapping(path, 20_000),
    "claimed sizes": lambda path: patched(path, claim),
    "encrypted": lambda path: patched(path, encrypted),
    "text behind": lambda path: patched(path, lambda content: content.extend(b"hello")),
    "text before": lambda path: patched(
        path, lambda content: content.__setitem__(slice(0, 0), b"PK\x03\x04")
    ),
    "two pickles": lambda path: twice(path, "a/DATA.pkl"),
    "two pickles of one name": lambda path: twice(path, "a/data.pkl"),
    "a program": lambda path: twice(path, "a/constants.pkl"),
    "a tar": tar,
    "a tar that begins like pickles": like_tar,
    "a pipe": fifo,
    "nothing": lambda path: holding(path, b""),
    "four bytes": lambda path: holding(path, b"PK\x03\x04"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_claims_what_it_does_not_have(
    kind: str, reader: Reader, tmp_path: Path
) -> None:
    path = FILES[kind](tmp_path / "a.ckpt")
    check(reader.read(path), [path])
    check(reader.read(path, function="load_training_checkpoint"), [path])


def mutated(content: bytes, seed: int) -> bytes:
    """A pickle with a few bytes changed, removed, repeated or put in."""
    draw = random.Random(seed)
    result = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 12))):
        at = draw.randrange(len(result))
        kind = draw.randrange(5)
        if kind == 0:
            result[at] = draw.randrange(256)
        elif kind == 1:
            result[at:at] = bytes([draw.choice(CODES)])
        elif kind == 2:
            del result[at : at + draw.randrange(1, 9)]
        elif kind == 3:
            result[at:at] = result[draw.randrange(len(result)) :][: draw.randrange(1, 40)]
        else:
            result[at : at + 4] = draw.choice(
                (b"\xff\xff\xff\x7f", b"\x00\x00\x00\x10", b"\xff" * 4)
            )
        result = result or bytearray(b".")
    return bytes(result)


CODES = b"()2.01]}tladsueqrhjRbQcio\x81\x85\x86\x87\x8f\x90\x91\x92\x93\x94"


def training_checkpoint() -> Any:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return {
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "global_step": 3,
        "hyper_parameters": argparse.Namespace(name="é", betas=(0.9, 0.99)),
    }


def mutants(folder: Path, seeds: range) -> Iterator[Path]:
    torch.manual_seed(0)
    torch.save(training_checkpoint(), folder / "good.pt")
    with zipfile.ZipFile(folder / "good.pt") as archive:
        content = {info: archive.read(info) for info in archive.namelist()}
    (pickled,) = (value for key, value in content.items() if key.endswith("data.pkl"))
    whole = folder / "old.pt"
    torch.save(training_checkpoint(), whole, _use_new_zipfile_serialization=False)
    for seed in seeds:
        path = folder / f"{seed}.ckpt"
        if seed % 3:
            with zipfile.ZipFile(path, "w") as archive:
                for key, value in content.items():
                    changed = mutated(pickled, seed) if value is pickled else value
                    archive.writestr(key, changed)
        else:
            path.write_bytes(mutated(whole.read_bytes(), seed))
        yield path


@pytest.mark.parametrize(
    "seeds",
    [range(300), pytest.param(range(300, 5000), marks=pytest.mark.slow)],
    ids=["few", "many"],
)
def test_mutants_are_read_or_refused(seeds: range, reader: Reader, tmp_path: Path) -> None:
    outcomes = reader.read(*mutants(tmp_path, seeds))
    for seed, done in zip(seeds, outcomes, strict=True):
        assert done.error in (
            "",
            "CheckpointError",
            "DamagedCheckpointError",
            "HostileFileError",
        ), (seed, done)
        assert "\n" not in done.message
        assert done.memory < MEMORY // 2
        assert done.seconds < 5
    assert sum(bool(done.error) for done in outcomes) > len(seeds) // 3


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    for zip_format in (True, False):
        whole = tmp_path / "whole.pt"
        torch.save(training_checkpoint(), whole, _use_new_zipfile_serialization=zip_format)
        content = whole.read_bytes()
        for length in {*range(0, len(content), 97), *range(60), len(content) - 1}:
            path = tmp_path / "cut.pt"
            path.write_bytes(content[:length])
            with pytest.raises(CheckpointError):
                read_state(path)


def contents() -> dict[str, Any]:
    """What checkpoints may hold, and do."""
    parameter, plain = nn.Parameter(torch.ones(2)), torch.ones(2)
    parameter.tag, plain.tag = "x", 3  # type: ignore[attr-defined]
    shared = torch.arange(12.0).reshape(3, 4)
    many = {f"layer.{k}.weight": torch.full((3,), float(k)) for k in range(400)}
    return {
        "a training checkpoint": training_checkpoint(),
        "many": many,
        "views": {"a": shared, "b": shared[1:].t(), "c": shared[:, 1], "d": shared[0, 0]},
        "kinds": {
            str(dtype): torch.ones(3, dtype=dtype)
            for dtype in (torch.float64, torch.half, torch.bfloat16, torch.int8, torch.bool)
        }
        | {"complex": torch.ones(2, dtype=torch.complex64)},
        "shapes": {
            "none": torch.zeros(0, 3),
            "number": torch.tensor(1.0),
            "repeated": torch.ones(1, 3).expand(5, 3),
        },
        "attributes": {"a": parameter, "b": plain},
        "values": {
            "weight": torch.ones(1),
            "list": [1, 2.5, None, True, "é", b"ab", bytearray(b"x"), 2**70, -1],
            "sets": [{1, 2}, {(1, "a"), "b"}],
            "tuples": {(1, (2, "x")): 1, None: 2, 0.5: 3},
            "collections": [collections.OrderedDict(a=1), collections.Counter("aab")],
            "torch": [torch.Size([1, 2]), torch.device("cpu"), torch.float32],
        },
    }


@pytest.mark.parametrize("kind", contents())
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zip_format", [True, False])
def test_what_checkpoints_hold_passes(
    kind: str, protocol: int, zip_format: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    torch.save(
        contents()[kind],
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zip_format,
    )
    seen: list[str] = []
    scan_file(path, seen.append)
    assert "torch._utils._rebuild_tensor_v2" in seen
    compress = tmp_path / "compressed.pt"
    if zip_format:
        with (
            zipfile.ZipFile(path) as plain,
            zipfile.ZipFile(compress, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for member in plain.namelist():
                archive.writestr(member, plain.read(member))
        scan_file(compress, seen.append)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_stand_for_themselves(protocol: int) -> None:
    for value in (1, -5, 70_000, -(2**40), 2**80, 0.5, None, True, False, "aé\n", "x" * 300, b"ab"):
        if protocol < 3 and value in (b"ab", True, False):
            continue  # made by calls, or numbers
        scan = PickleScan(pickle.dumps(value, protocol), lambda _: None)
        assert scan.scan() == value
    depth = 90
    nested: Any = ()
    for _ in range(depth):
        nested = (nested, [nested[:0]], {"a": nested[:0]})
    PickleScan(pickle.dumps(nested, protocol), lambda _: None).scan()


def test_a_scan_takes_time_in_proportion() -> None:
    many = {f"layer.{k}.weight": {"step": k, "values": (k, k + 1)} for k in range(30_000)}
    seconds = []
    for part in (10_000, 30_000):
        pickled = pickle.dumps(dict(list(many.items())[:part]), 2)
        start = time.process_time()
        PickleScan(pickled, lambda _: None).scan()
        seconds.append(time.process_time() - start)
    assert seconds[1] < 10 * seconds[0]
    assert seconds[1] < 5  # of a pickle of 1.5 MB
