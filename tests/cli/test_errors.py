"""What fails outside of a program is one line with what to do, whatever failed and wherever."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ldm.cli import outputs
from ldm.cli.app import TRACEBACK
from ldm.cli.commands.data import write_scenes
from ldm.cli.options.common import check_out_file, check_out_folder
from ldm.cli.options.evaluation import read_preset
from ldm.errors import DataError, UnreadableInputsError, UserError
from ldm.evaluation.compare_reports import compare_reports, other_differences
from ldm.evaluation.protocol import protocol_from
from ldm.files import fits, fitting_name, read_json
from ldm.programs.evaluation import reconstruct
from ldm.programs.evaluation.compare_reports import read_report
from tests.cli.test_app import ended

NUMBERS = sorted(
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "ENAMETOOLONG", "EMFILE"),
        *("ENFILE", "ENOENT", "ENOTDIR", "EISDIR", "EEXIST", "ELOOP", "EIO", "ESTALE"),
        *("ETIMEDOUT", "EBUSY", "ENOMEM", "EINVAL", "ENODEV", "ENOTCONN", "EPIPE"),
    )
)


def fail(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_every_error_of_the_system(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    reason = os.strerror(number)
    for error in (
        OSError(number, reason, "/data/caf\udce9\nx"),
        OSError(number, reason),
        OSError(f"Caught OSError in DataLoader worker process 0.\nx\nOSError: [Errno {number}] no"),
        RuntimeError(f"Caught X in DataLoader worker process 0.\nx\nX: [Errno {number}] no: 'f'"),
        RuntimeError(f"Error while serializing: I/O error: no (os error {number})"),
        Exception(f"Error while serializing:\n IoError (os error {number})"),
    ):
        status, text = ended(fail(error), capsys)
        assert status == 2
        assert text.startswith("error: ")
        assert text.count("\n") == 1
        assert ": " in text.removeprefix("error: ")


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nto"), "out of memory: this device"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "was killed"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "a loader worker"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "UTF-8"),
        (json.JSONDecodeError("Expecting value", "{", 1), "JSON"),
        (UserError("one\ntwo"), "error: one two"),
    ],
)
def test_what_is_no_bug_is_one_line(
    error: BaseException, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, text = ended(fail(error), capsys)
    assert status == 2
    assert part in text
    assert text.count("\n") == 1


def test_levels_that_no_parser_has(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = ended(lambda: json.loads("[" * 100_000), capsys)
    assert (status, text.count("\n")) == (2, 1)
    assert "nested too deeply" in text


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), RuntimeError("x"), KeyError("x")])
def test_a_bug_has_its_traceback(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = ended(fail(error), capsys)
    assert status == 1
    assert "Traceback" in text
    assert "error: " not in text


def test_the_traceback_can_be_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, shown in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv(TRACEBACK, value)
        for error in (DataError("x"), OSError(errno.EIO, "x", "y")):
            status, text = ended(fail(error), capsys)
            assert status == 2
            assert ("Traceback" in text) == shown
            assert text.splitlines()[-1].startswith("error: ")


def test_the_status_of_inputs_that_were_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(fail(UnreadableInputsError("x")), capsys) == (4, "error: x\n")


def test_a_worker_without_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    class Full(Dataset[int]):
        def __getitem__(self, index: int) -> int:
            raise OSError(errno.EMFILE, "Too many open files", "/data/a.png")

        def __len__(self) -> int:
            return 1

    status, text = ended(lambda: list(DataLoader(Full(), num_workers=1)), capsys)
    assert status == 2
    assert "Too many open files" in text
    assert "ulimit" in text
    assert text.count("\n") == 1


PROGRAM = """
import sys
from ldm.cli.app import end_with_status
def work():
    for k in range(int(sys.argv[1])):
        print("caf\\udce9 line", k, flush=k % 2 == 0)
end_with_status(work)
"""


@pytest.mark.parametrize("lines", [1, 20_000])
@pytest.mark.parametrize(
    ("redirection", "status", "errors"),
    [("| head -c 3 > /dev/null", 141, 0), (">&-", 0, 0), ("> /dev/full", 2, 1), ("", 0, 0)],
)
def test_nobody_listens(lines: int, redirection: str, status: int, errors: int) -> None:
    command = f'"$0" -c "$1" {lines} {redirection}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, PROGRAM],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    text = done.stderr.decode()
    if "head" in redirection and lines == 1:  # it may have read all there is
        assert done.returncode in (0, 141)
    else:
        assert done.returncode == status
    assert text.count("\n") == errors, text
    assert "Exception ignored" not in text


# -- places -----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["/proc/out", "/proc/a/b/c", "/sys/kernel/out", "/dev/null/out"])
def test_places_where_nothing_can_be_written(place: str) -> None:
    with pytest.raises(UserError, match=r"--out .*(nothing can be written|not a folder)"):
        check_out_folder("--out", Path(place))
    with pytest.raises(UserError, match=r"--out .*(nothing can be written|not a folder)"):
        check_out_file("--out", Path(place) / "file.json")


def test_names_that_are_too_long(tmp_path: Path) -> None:
    for name in ("x" * 256, "é" * 128, "a/" + "x" * 256, "x" * 256 + "/a", "caf\udce9" + "x" * 260):
        for check in (check_out_folder, check_out_file):
            with pytest.raises(UserError, match="more than 255 bytes"):
                check("--out", tmp_path / name)
    check_out_folder("--out", tmp_path / ("x" * 255))
    assert list(tmp_path.iterdir()) == []  # the trial leaves nothing


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_place_is_tried(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UserError, match=os.strerror(number)):
        check_out_folder("--out", tmp_path / "new")


def test_names_of_files_fit_and_differ() -> None:
    generator = random.Random(0)
    letters = "aé日😀 \udce9\udcff."
    names = {"".join(generator.choices(letters, k=n)) for n in range(1, 400) for _ in range(3)}
    fitted = {name: fitting_name(name, "_12.png") for name in names}
    assert len(set(fitted.values())) == len(names)
    for name, short in fitted.items():
        size = len(os.fsencode(name)) + 7
        assert len(os.fsencode(short)) <= 255
        assert short.endswith("_12.png")
        assert (short == f"{name}_12.png") == (size <= 255)
        assert short == fitting_name(name, "_12.png")


# -- records of others ------------------------------------------------------------------------

SAMPLES = {
    "settings": {"run": "runs/a", "seed": 0, "sampler": {"name": "ddim", "steps": 50}},
    "made_by": [{"command": "x"}],
    "samples": [{"file": "images/00000.png", "seed": 0, "prompt": "a"}],
}
RECONSTRUCTED = {
    "settings": {"source": "a", "checkpoint_sha256": "0", "sample": False},
    "images": {"a.png": {"psnr": 3.0, "source": "a.jpg"}},
}
REPORT = {
    "measurements": [
        {"name": "fid", "value": 3.0, "features": "inception", "how": {"metric": "frechet"}},
        {"name": "precision", "value": None, "num_real": 7},
    ],
    "fake": {"about": {"formats": {"PNG": 3}, "sizes": {"height": [4, 4]}}},
    "run": {"rounding": "x", "versions": {"torch": "2"}},
}
SCENES = {"num": 4, "size": 32, "seed": 0}
SCRAPS: list[Any] = [None, True, 0, -1, 1e300, "", "x", "\ud800", "\0", "../x", [], [None], {}]
DAMAGE = [b"", b"\0" * 20, b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 5_000, b"nul", b"NaN", b"{}{}"]


def mutated(tree: Any, generator: random.Random) -> Any:
    """A copy of a tree in which one value is replaced, removed, doubled or nested."""
    tree = json.loads(json.dumps(tree))
    places = [(tree, key) for key in _keys(tree)]
    for parent, key in places:
        child = parent[key]
        places += [(child, inner) for inner in _keys(child)]
    parent, key = generator.choice(places)
    action = generator.randrange(5)
    if action == 0:
        del parent[key]
    elif action == 1:
        parent[key] = [parent[key], parent[key]]
    elif action == 2:
        for _ in range(300):
            parent[key] = {"a": parent[key]}
    else:
        parent[key] = generator.choice(SCRAPS)
    return generator.choice(SCRAPS) if generator.random() < 0.05 else tree


def _keys(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return list(tree)
    return list(range(len(tree))) if isinstance(tree, list) else []


def _read_samples(file: Path) -> None:
    outputs._compare(file.parent, SAMPLES["settings"], SAMPLES["samples"])  # type: ignore[arg-type]


def _read_reconstructed(file: Path) -> None:
    record = read_json(file, shape=reconstruct._SHAPE)
    reconstruct._is_there(record, "a.png", Path("a.jpg"), file.parent)
    record["images"]["a.png"] = {}


def _read_report(file: Path) -> None:
    found = read_report(file)
    for pair in ((found, found), (found, REPORT), (REPORT, found)):
        compare_reports(*pair)
        other_differences(*pair)


def _read_scenes(file: Path) -> None:
    write_scenes._check_out(file.parent, SCENES)


READERS: dict[str, tuple[dict[str, Any], Callable[[Path], object]]] = {
    "samples.json": (SAMPLES, _read_samples),
    "reconstructions.json": (RECONSTRUCTED, _read_reconstructed),
    "metrics.json": (REPORT, _read_report),
    "scenes.json": (SCENES, _read_scenes),
}


def one_line(read: Callable[[], object]) -> bool:
    """Whether a file was taken; any error but a line for the user escapes."""
    with contextlib.suppress(UserError):
        try:
            read()
        except UserError as error:
            if "\n" in str(error):
                raise AssertionError(str(error)) from error
            raise
        return True
    return False


def outcomes(name: str, folder: Path, count: int, seed: int) -> set[bool]:
    """Read damaged records: whether one was taken, and one refused."""
    tree, read = READERS[name]
    generator, found = random.Random(seed), set()
    file = folder / name
    contents = [json.dumps(mutated(tree, generator)).encode() for _ in range(count)]
    whole = json.dumps(tree).encode()
    cuts = [whole[: generator.randrange(len(whole))] for _ in range(count // 10)]
    for content in (*DAMAGE, *contents, *cuts, whole):
        file.write_bytes(content)
        found.add(one_line(lambda: read(file)))
    return found


@pytest.mark.parametrize("name", READERS)
def test_damaged_records_are_one_line(name: str, tmp_path: Path) -> None:
    assert outcomes(name, tmp_path, 150, 0) == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_records_are_one_line(name: str, tmp_path: Path) -> None:
    assert outcomes(name, tmp_path, 2_000, 1) == {True, False}


def _read_protocol(file: Path) -> None:
    tree, where = read_preset(str(file))
    found = protocol_from(tree, str(where))
    assert found.networks
    assert found.name.partition(",")[0] is not None
    assert [measure.note for measure in found.measures]


def protocols(folder: Path, count: int, seed: int) -> int:
    """How many mutated protocols are taken."""
    tree, _ = read_preset("laptop")
    generator, taken = random.Random(seed), 0
    file = folder / "mine.yaml"
    for _ in range(count):
        file.write_text(json.dumps(mutated(tree, generator)))  # which is YAML, too
        taken += one_line(lambda: _read_protocol(file))
    return taken


def test_mutated_protocols_are_one_line(tmp_path: Path) -> None:
    assert protocols(tmp_path, 60, 0)


@pytest.mark.slow
def test_many_mutated_protocols_are_one_line(tmp_path: Path) -> None:
    assert protocols(tmp_path, 500, 1)


def test_forms_of_records() -> None:
    for content, shape, fitting in (
        ({"a": 1, "b": 2}, {"a": int}, True),
        ({"a": True}, {"a": int}, False),
        ({"a": 1.0}, {"a": (int, float)}, True),
        ({"a": None}, {"a": (int, type(None))}, True),
        ([], {"a": int}, False),
        ([{"f": "x"}], [{"f": str}], True),
        ([{"f": 1}], [{"f": str}], False),
        ({}, [str], False),
        (None, object, True),
    ):
        assert fits(content, shape) == fitting
