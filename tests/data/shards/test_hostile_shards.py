"""Archives and names that mean harm, or are merely damaged: bounded, counted, never run."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import logging
import lzma
import os
import random
import resource
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ldm.data.shards.dataset import Shards
from ldm.data.shards.indexed import ShardItems
from ldm.data.shards.listing import is_remote, list_shards, open_shard
from ldm.data.shards.reader import count_samples, index_shard, read_shard, shard_sizes
from ldm.data.shards.samples import Naming
from ldm.data.shards.tar import MOST_MEMBER, DamagedError, TarReader, list_members
from ldm.errors import DataError
from ldm.evaluation.sources.base import CorruptImages
from ldm.evaluation.sources.open import open_source
from tests.data.shards.test_dataset import FRAME, add, encoded, make, numbers, sample, write

GIB = 1 << 30


@contextmanager
def memory_of(most: int) -> Iterator[None]:
    """An allocation of more than ``most`` bytes on top of what is used now fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# -- names that something would interpret ---------------------------------------------------------

NAMES = [
    "pipe:touch MARK #.tar",
    "pipe:touch MARK;.tar",
    "file:a.tar",
    "https:x.tar",
    "-",
    "-.tar",
    "a#b.tar",
    "a?b.tar",
    "a*b.tar",
    "a::b.tar",
    "a[1].tar",
    "{1..3}.tar",
    "{a.tar",
    "${HOME}.tar",
    "${x}.tar",
    "%s%d.tar",
    "$x^2$.tar",
    "a\nb.tar",
    "caf\udce9.tar",
    "~.tar",
    " .tar",
    "a\\b.tar",
]


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_found_shards_are_files_whatever_they_are_called(inside: Path, name: str) -> None:
    write(inside / "folder" / name, [sample(0), sample(1)])
    write(inside / name, [sample(0), sample(1)])
    forms: list[Any] = [
        "folder/*",
        [f"folder/{name}"],
        f"{inside}/folder/*",
        Path(name),
        f"./{name}",
    ]
    forms += [] if name == "-" else ["folder", ".", "*.tar", "**/*.tar"]
    forms += [name]
    for form in forms:
        found = list_shards(form)
        assert not any(map(is_remote, found))
        assert len(found) == (2 if form == "**/*.tar" else 1)
        data = Shards(form, FRAME, shuffle=False)
        assert numbers(data)[:2] == [0, 1]
        assert numbers([ShardItems(data)[1]]) == [1]
        assert list_shards(found) == found  # what was found may be given again
    for form in ("folder/*.tar", *(["folder"] if name != "-" else [])):
        if name != "-":
            assert len(open_source(form)) == 2
    assert not (inside / "MARK").exists()
    assert sorted(path.name for path in inside.iterdir()) == sorted(["folder", name])


@pytest.mark.parametrize(
    "folder",
    ["a[1]", "{x,y}", "{1..3}", "a*", "a?", "b::c", "pipe:x", "data:v1", "${h}", "\udce9", "**"],
)
@pytest.mark.parametrize("pattern", ["", "/*.tar", "/0000{0..1}.tar", "/**/*.tar", "/00000.tar"])
def test_folders_with_such_names(inside: Path, folder: str, pattern: str) -> None:
    make(inside / folder, (1, 2))
    (inside / "a1").mkdir()
    found = list_shards(folder + pattern)
    assert [Path(shard).parent.name for shard in found] == [folder] * len(found)
    assert len(found) == (1 if pattern == "/00000.tar" else 2)
    assert list_shards(f"{inside}/{folder}{pattern}") == [str(inside / shard) for shard in found]


def test_a_star_may_stand_anywhere(tmp_path: Path) -> None:
    for name in ("a/x/0.tar", "a/y/1.tar", "b/x/2.tar", "b/x/z/3.tar"):
        write(tmp_path / name, [sample(0)])

    def names(pattern: str) -> list[str]:
        return [Path(shard).name for shard in list_shards(f"{tmp_path}/{pattern}")]

    assert names("*/x/*.tar") == ["0.tar", "2.tar"]
    assert names("a/*/*.tar") == ["0.tar", "1.tar"]
    assert names("{b,a}/*/*.tar") == ["2.tar", "0.tar", "1.tar"]
    assert names("**/*.tar") == ["0.tar", "1.tar", "2.tar", "3.tar"]
    assert names("*/?/[02].tar") == ["0.tar", "2.tar"]
    for pattern in ("*/q/*.tar", "q*", "[.tar"):
        with pytest.raises(DataError, match=r"no shards|does not exist"):
            names(pattern)
    with pytest.raises(DataError, match="more than 1000000 shards"):
        names("{0..999999999}.tar")


def test_addresses_are_what_the_user_writes(inside: Path) -> None:
    make(inside, (2,))
    assert is_remote("pipe:cat 00000.tar")
    data = Shards("pipe:cat 00000.tar", FRAME, sizes=2, shuffle=False)
    assert numbers(data) == [0, 1]
    assert list_shards("file:00000.tar") == ["00000.tar"]
    assert list_shards(f"file://{inside}/0000{{0..0}}.tar") == [f"{inside}/00000.tar"]
    with pytest.raises(DataError, match="cannot be expanded"):
        list_shards("https://x/${NOT_THERE}.tar")
    with pytest.raises(DataError, match=r"cannot open shard .ftpx"):
        open_shard("ftpx://h/a.tar")
    with pytest.raises(DataError, match="no local file"):
        ShardItems(data)


def test_a_command_that_fails_is_a_damaged_shard(inside: Path) -> None:
    told: list[str] = []
    assert list(read_shard("pipe:exit 3", told.append)) == []
    assert "exit 3" in told[-1]
    with pytest.raises(DataError, match="'damaged shard'"):
        list(Shards("pipe:exit 3", FRAME, sizes=2))


# -- what is no file, or no archive ---------------------------------------------------------------


def test_a_pipe_or_folder_under_the_name_of_a_shard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, (2,))
    for name, make_it in (("x.tar", os.mkfifo), ("y.tar", os.mkdir)):
        make_it(tmp_path / name)
        what = "a named pipe" if name == "x.tar" else "a folder"
        for form in (tmp_path, f"{tmp_path}/*.tar"):
            with pytest.raises(DataError, match=rf"{name}' \(it is {what}, not a file\)|is empty"):
                Shards(form, FRAME)
        data = Shards(tmp_path, FRAME, shuffle=False, sizes=2)  # not looked at
        assert set(numbers(data)) == {0, 1}
        assert set(data.skips.counts()) == {"damaged shard"}
        (tmp_path / name).unlink() if name == "x.tar" else (tmp_path / name).rmdir()


@pytest.mark.parametrize("content", ["null", "[]", "5", '"x"', "[" * 100_000, "{", "\x00"])
@pytest.mark.parametrize("name", ["sizes.json", "00000_stats.json", "given.json"])
def test_sizes_of_another_kind(tmp_path: Path, name: str, content: str) -> None:
    make(tmp_path, (2,))
    (tmp_path / name).write_text(content)
    shards, sizes = list_shards(tmp_path), tmp_path / name if name == "given.json" else None
    with pytest.raises(DataError, match=name) as raised:
        shard_sizes(shards, sizes)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("size", ["2", None, True, -1, 1.5, 10**30, [2], {"a": 1}])
def test_numbers_that_are_none(tmp_path: Path, size: Any) -> None:
    make(tmp_path, (2,))
    (tmp_path / "sizes.json").write_text(json.dumps({"00000.tar": size}))
    with pytest.raises(DataError, match=r"sizes\.json' must give the number"):
        Shards(tmp_path, FRAME)
    (tmp_path / "sizes.json").unlink()
    (tmp_path / "00000_stats.json").write_text(json.dumps({"successes": size}))
    assert len(Shards(tmp_path, FRAME)) == 2  # counted


def test_files_of_sizes_that_are_pipes_or_absent(tmp_path: Path) -> None:
    make(tmp_path, (2,))
    with pytest.raises(DataError, match="absent"):
        Shards(tmp_path, FRAME, sizes=tmp_path / "absent.json")
    for name in ("sizes.json", "00000_stats.json"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match="named pipe"):
            Shards(tmp_path, FRAME)
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    "options", [{"buffer": 0}, {"epoch_size": 0}, {"most_bytes": 0}, {"sizes": -1}]
)
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, int]) -> None:
    make(tmp_path, (2,))
    with pytest.raises(DataError, match=next(iter(options))):
        Shards(tmp_path, FRAME, **options)  # type: ignore[arg-type]


def test_what_a_folder_holds_besides_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, (1,))
    (tmp_path / "00000.tar").rename(tmp_path / "0.TAR")
    for name in ("1.tar.gz", "2.tgz", "3.tar.gz", ".hidden.tar"):
        (tmp_path / name).write_bytes(b"")
    assert [Path(shard).name for shard in list_shards(tmp_path)] == ["0.TAR"]
    assert "2 files of folder" in caplog.text
    assert "*.tar.gz" in caplog.text


# -- archives -------------------------------------------------------------------------------------


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def claimed(size: int) -> bytes:
    """A whole sample, and one whose image claims a size that is not there."""
    return samples_of(2) + header("2.png", size) + b"x" * 512


def samples_of(count: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(count):
            add(tar, f"{i}.png", encoded(i))
            add(tar, f"{i}.txt", b"text")
        end = tar.offset
    return buffer.getvalue()[:end]


def pax(entries: bytes, then: bytes = b"") -> bytes:
    padded = entries + bytes(-len(entries) % 512)
    return header("h", len(entries), tarfile.XHDTYPE) + padded + then


def sparse(size: int) -> bytes:
    """An old GNU sparse member of so many zeros."""
    block = bytearray(header("2.png", 0, tarfile.GNUTYPE_SPARSE))
    block[345:483] = bytes(138)
    block[483:495] = b"\x80" + size.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


BOMBS: dict[str, Callable[[], bytes]] = {
    "ten gigabytes claimed": lambda: claimed(10 * GIB),
    "the greatest size there is": lambda: claimed(2**80),
    "a size below zero": lambda: claimed(-512),
    "sparse": lambda: samples_of(2) + sparse(10 * GIB) + bytes(1024),
    "a pax header of gigabytes": lambda: (
        samples_of(2) + header("h", 4 * GIB, tarfile.XHDTYPE) + b"x" * 512
    ),
    "a long name of gigabytes": lambda: (
        samples_of(2) + header("h", 4 * GIB, tarfile.GNUTYPE_LONGNAME)
    ),
    "pax headers without end": lambda: samples_of(2) + pax(b"9 a=bcd\n\n") * 3000,
    "digits without end": lambda: samples_of(2) + pax(b"1" * 900_000, header("2.png", 0)),
    "a size of many digits": lambda: (
        samples_of(2) + pax(b"120 size=" + b"9" * 110 + b"\n", header("2.png", 0))
    ),
    "a negative size in a pax header": lambda: (
        samples_of(2) + pax(b"14 size=-1024\n", header("2.png", 0))
    ),
    "a damaged header": lambda: samples_of(2) + b"x" * 512 + bytes(1024),
    "cut within a header": lambda: samples_of(2) + header("2.png", 5)[:100],
    "another archive behind it": lambda: samples_of(2) + bytes(1024) + samples_of(1) + bytes(1024),
    "a half surrogate": lambda: (
        samples_of(2)
        + pax("24 path=\ud800aaaaaa.png\n".encode("utf-8", "surrogatepass"), header("2.png", 0))
    ),
}


@pytest.mark.parametrize("what", BOMBS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_bombs_and_damage(
    tmp_path: Path, what: str, pack: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    shard = tmp_path / "0.tar"
    shard.write_bytes(pack(BOMBS[what]()))
    begin = time.process_time()
    with memory_of(GIB), caplog.at_level(logging.WARNING):
        data = Shards(tmp_path, FRAME, shuffle=False)
        got = [item["caption"] for item in data]
        told: list[str] = []
        found = list(read_shard(str(shard), told.append))
    assert time.process_time() - begin < 5
    assert set(got) == {"text"}
    assert [s["__key__"] for s in found[:2]] == ["0", "1"]
    assert all("\n" not in text for text in told)
    if what not in ("sparse", "a half surrogate"):
        assert told
        assert "damaged after" in caplog.text or "'2'" in caplog.text
    if pack is bytes:
        assert len(index_shard(str(shard), told.append)) == len(found)
    source = open_source(str(shard), skip_corrupt=True)
    assert sum(len(batch.indices) for batch in source.batches(8)) == 2
    assert source.info.count == len(found)


@pytest.mark.parametrize("what", ["links", "sparse", "large"])
def test_members_that_are_not_read_are_counted_and_named(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        add(tar, "0.png", encoded(0))
        add(tar, "0.txt", b"text")
        if what == "links":
            for name, kind, target in (
                ("1", tarfile.LNKTYPE, "0.png"),
                ("2", tarfile.SYMTYPE, "/etc/passwd"),
            ):
                info = tarfile.TarInfo(f"{name}.png")
                info.type, info.linkname = kind, target
                tar.addfile(info)
                add(tar, f"{name}.txt", b"text")
        if what == "large":
            add(tar, "1.png", encoded(1) + bytes(5000))
            add(tar, "1.txt", b"text")
    if what == "sparse":
        (tmp_path / "0.tar").write_bytes(
            samples_of(2) + sparse(GIB) + header("2.txt", 0) + bytes(1024)
        )
    data = Shards(tmp_path, FRAME, shuffle=False, most_bytes=4000)
    list(data)
    why = {"links": "is a link", "sparse": "is a sparse file", "large": "more than the 4000"}[what]
    if what == "sparse":
        assert data.skips.counts()
        return
    assert set(data.skips.counts()) == {"unreadable image"}
    assert why in caplog.text
    with pytest.raises(CorruptImages, match="is a link") if what == "links" else memory_of(GIB):
        for _ in open_source(str(tmp_path / "0.tar")).batches(4):
            pass


def test_a_compressed_bomb_of_zeros(tmp_path: Path) -> None:
    """The largest member that is passed over in a compressed archive is one that might be read."""
    with gzip.open(tmp_path / "0.tar.gz", "wb", 1) as file:
        file.write(samples_of(2) + header("2.png", 2 * MOST_MEMBER))
        file.write(bytes(1 << 20))
    told: list[str] = []
    with memory_of(GIB):
        found = list(read_shard(str(tmp_path / "0.tar.gz"), told.append))
    assert len(found) == 3
    assert "cannot be passed over" in told[0]


def test_an_unpacker_that_wants_gigabytes(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": (1 << 29)}]
    packer = lzma.LZMACompressor(filters=filters)  # type: ignore[arg-type]
    try:
        data = packer.compress(samples_of(1)) + packer.flush()
    except MemoryError:
        pytest.skip("no memory to make one")
    (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(DataError, match=r"cannot read shard .*Memory usage limit"):
        count_samples(str(tmp_path / "0.tar"))


def test_all_files_of_a_sample_together(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", [{"png": encoded(1), **{f"x{i}": bytes(1000) for i in range(50)}}])
    (found,) = read_shard(str(tmp_path / "0.tar"), print, Naming(most=5000))
    assert sum(len(data) for data in found.values() if isinstance(data, bytes)) <= 5000


def test_waiting_samples_are_bounded_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm.data.shards import dataset

    make(tmp_path, (20,))
    whole = numbers(Shards(tmp_path, FRAME, buffer=8))
    monkeypatch.setattr(dataset, "_MOST_WAITING", 2 * len(encoded(0)))
    less = numbers(Shards(tmp_path, FRAME, buffer=8))
    assert sorted(less) == sorted(whole) == list(range(20))
    assert less == list(range(20)) or less != whole


def test_absolute_names_and_such_are_names_only(inside: Path) -> None:
    with tarfile.open(inside / "0.tar", "w") as tar:
        for name in ("/etc/x", "../../y", "a/../../z", "C:\\w"):
            add(tar, f"{name}.png", encoded(1))
            add(tar, f"{name}.txt", b"text")
    assert len(numbers(Shards(inside, FRAME))) == 4
    assert [path.name for path in inside.iterdir()] == ["0.tar"]


def test_names_that_are_no_utf_8(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tarfile.open(
        tmp_path / "0.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1"
    ) as tar:
        add(tar, "caf\xe9.png", encoded(7))
        add(tar, "caf\xe9.txt", b"text")
        add(tar, "th\xe9.txt", b"text")
    data = Shards(tmp_path, FRAME, shuffle=False)
    assert set(numbers(data)) == {7}
    assert r"sample 'th\xe9'" in caplog.text
    source = open_source(str(tmp_path / "0.tar"), skip_corrupt=True)
    assert [batch.captions for batch in source.batches(4)] == [["text"]]
    assert source.corrupt[0].startswith(r"th\xe9 of 0.tar")
    assert len(source.info.sha256) == 64  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(60))
def test_mutated_archives(tmp_path: Path, seed: int) -> None:
    mutate(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60, 3000))
def test_many_mutated_archives(tmp_path: Path, seed: int) -> None:
    mutate(tmp_path, seed)


def mutate(folder: Path, seed: int) -> None:
    """Bytes changed, cut, repeated: an error in a line, or samples."""
    draw = random.Random(seed)
    kind = draw.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
    longest = 40 if kind == tarfile.USTAR_FORMAT else 130
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for i in range(3):
            add(tar, f"{'ä' * draw.choice([1, longest])}{i}.png", encoded(i))
            add(tar, f"{i}.txt", b"text")
    data = bytearray(buffer.getvalue())
    for _ in range(draw.randint(1, 6)):
        place = draw.randrange(len(data))
        if draw.random() < 0.5:  # within a header
            place = place // 512 * 512 + draw.choice([0, 124, 135, 148, 156, 157, 257, 345, 482])
        length = draw.choice([1, 1, 4, 12, 512])
        data[place : place + length] = draw.choice(
            [draw.randbytes(length), bytes(length), b"", b"7" * length, b"\xff" * length]
        )
    if draw.random() < 0.3:
        data = bytearray(draw.choice([gzip.compress, bz2.compress, lzma.compress])(bytes(data)))
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    shard = folder / "0.tar"
    shard.write_bytes(data)
    told: list[str] = []
    with memory_of(2 * GIB):
        found = list(read_shard(str(shard), told.append))
        for work in (lambda: count_samples(str(shard)), lambda: list_members(shard, (".png",))):
            with suppress(DataError):
                work()
        with shard.open("rb") as file, suppress(DamagedError):
            list(TarReader(file))
    assert len(found) <= 6 or told
    assert all("\n" not in text for text in told)
