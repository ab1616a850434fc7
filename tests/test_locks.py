"""Claims of folders: one process has it, whatever is there already, and leaves it as it was."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ldm.errors import TrainingError, UserError
from ldm.locks import RUN_LOCK, WRITING, run_lock, sole_writer

FORK = multiprocessing.get_context("fork")  # nothing to import again


def _claim(lock: Path, together: Any, answers: Any, hold: float) -> None:
    together.wait()
    try:
        with run_lock(lock, print):
            answers.put((os.getpid(), None))
            (lock.parent / "config.yaml").write_text("{}")
            time.sleep(hold)
    except TrainingError as error:
        answers.put((os.getpid(), str(error)))


def _race(act: Callable[..., None], arguments: tuple[Any, ...], count: int) -> list[Any]:
    """Let processes act at the same moment; what each of them answered."""
    together, answers = FORK.Barrier(count), FORK.Queue()
    given = (arguments[0], together, answers, *arguments[1:])
    processes = [FORK.Process(target=act, args=given) for _ in range(count)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in range(count)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return found


@pytest.mark.parametrize("beginning", ["nothing", "folder", "parents", "killed"])
def test_of_processes_that_begin_together_one_gets_the_folder(
    tmp_path: Path, beginning: str
) -> None:
    for turn in range(3):
        folder = tmp_path / str(turn) / "runs" / "run"
        if beginning == "parents":
            folder.parent.mkdir(parents=True)
        elif beginning != "nothing":
            folder.mkdir(parents=True)
        if beginning == "killed":
            holder = {"pid": 1, "host": socket.gethostname(), "since": "then"}
            (folder / RUN_LOCK).write_text(json.dumps(holder))
        found = _race(_claim, (folder / RUN_LOCK, 0.3), 3)
        (winner,) = [pid for pid, refusal in found if refusal is None]
        refusals = [refusal for _, refusal in found if refusal]
        who = f"{folder} is being trained by process {winner} on {socket.gethostname()} since "
        assert all(refusal.startswith(who) for refusal in refusals)


def _give_up(lock: Path, together: Any, answers: Any) -> None:
    """Claim and leave again and again, as runs with a bad config do."""
    together.wait()
    claimed = 0
    try:
        for _ in range(150):
            try:
                with run_lock(lock, print):
                    mine = lock.parent / f"mine-{os.getpid()}"
                    if claimed % 3 == 0:
                        mine.touch()
                        assert os.listdir(lock.parent).count(RUN_LOCK) == 1
                        others = [n for n in os.listdir(lock.parent) if n.startswith("mine-")]
                        assert others == [mine.name]
                        mine.unlink()
                    claimed += 1
            except TrainingError:
                continue
        answers.put(claimed)
    except BaseException as error:
        answers.put(repr(error))


def test_folders_that_come_and_go_are_never_held_twice(tmp_path: Path) -> None:
    lock = tmp_path / "runs" / "run" / RUN_LOCK
    found = _race(_give_up, (lock,), 3)
    assert all(type(claimed) is int for claimed in found), found
    assert sum(found) > 0
    # a folder that one made and another one used last may stay, empty
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize("before", ["nothing", "folder", "file"])
def test_a_claim_without_a_run_leaves_what_was_there(tmp_path: Path, before: str) -> None:
    folder = tmp_path / "runs" / "run"
    if before != "nothing":
        folder.mkdir(parents=True)
    if before == "file":
        (folder / "notes.txt").touch()
    there = sorted(tmp_path.rglob("*"))
    with pytest.raises(ZeroDivisionError), run_lock(folder / RUN_LOCK, print):
        raise ZeroDivisionError
    extra = [folder / RUN_LOCK] if before == "file" else []
    assert sorted(tmp_path.rglob("*")) == sorted([*there, *extra])


def test_a_folder_that_another_one_uses_by_now_stays(tmp_path: Path) -> None:
    lock = tmp_path / "runs" / "run" / RUN_LOCK
    with run_lock(lock, print):
        (tmp_path / "runs" / "other").mkdir()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]


def test_the_lock_of_a_folder_that_took_the_place_of_ones_own_stays(tmp_path: Path) -> None:
    lock = tmp_path / "run" / RUN_LOCK
    with run_lock(lock, print):
        lock.parent.rename(tmp_path / "moved")
        lock.parent.mkdir()
        lock.write_text("another's")
    assert lock.read_text() == "another's"


@pytest.mark.parametrize(
    "content",
    [
        "null",
        "[]",
        "5",
        '"text"',
        "[" * 100_000,
        '{"pid": ',
        "{}",
        '{"pid": [1]}',
        "\xff\x00",
        "1e999",
    ],
)
def test_what_a_lock_says_is_not_relied_on(tmp_path: Path, content: str) -> None:
    lock = tmp_path / RUN_LOCK
    lock.write_bytes(content.encode("latin-1"))
    said: list[str] = []
    with run_lock(lock, said.append):
        assert json.loads(os.pread(os.open(lock, os.O_RDONLY), 999, 0))["pid"] == os.getpid()
    assert said == []


def test_a_lock_of_another_computer_is_told_in_one_line(tmp_path: Path) -> None:
    lock = tmp_path / RUN_LOCK
    lock.write_text(json.dumps({"pid": "7\n8", "host": "else\nwhere", "since": None}))
    said: list[str] = []
    with run_lock(lock, said.append):
        pass
    assert len(said) == 1
    assert "process 7 8 on else where since None" in said[0]
    assert "\n" not in said[0]


def _listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (os.mkfifo, "a named pipe"),
        (os.mkdir, "directory"),
        (_listen, "No such device"),
        (lambda path: os.symlink(path, path), "symbolic links"),
        (lambda path: os.symlink("gone/file", path), "a link that leads nowhere; remove it"),
    ],
)
def test_what_stands_where_a_lock_belongs_is_named(
    tmp_path: Path, make: Callable[[Path], None], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    for name, lock in ((RUN_LOCK, run_lock), (WRITING, sole_writer)):
        make(Path(name))
        second: Any = print if lock is run_lock else True
        first = tmp_path / name if lock is run_lock else tmp_path
        begun = time.monotonic()
        with pytest.raises(UserError, match=what) as raised, lock(first, second):
            pytest.fail("claimed")
        assert time.monotonic() - begun < 5
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("a file/run", "run cannot be made: Not a directory"),
        ("/proc/nobody/run", "run cannot be made"),
        ("x" * 300, "cannot be made: File name too long"),
        ("dangling", "dangling cannot be made: Not a directory"),
    ],
)
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TrainingError, match=message), run_lock(tmp_path / place / RUN_LOCK, print):
        pass
    with pytest.raises(UserError, match=message), sole_writer(tmp_path / place, True):
        pass
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ldm.locks.os.open", refuse)
    said = "run: cannot be written to: Permission denied"
    with pytest.raises(TrainingError, match=said), run_lock(tmp_path / "run" / RUN_LOCK, print):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_held_is_held_to_its_end_when_it_is_asked_for_again(tmp_path: Path) -> None:
    lock = tmp_path / "run" / RUN_LOCK
    with run_lock(lock, print):
        with run_lock(lock, print):
            pass
        (answer,) = _race(_claim, (lock, 0), 1)
        assert f"by process {os.getpid()} on" in answer[1]


def _write_into(folder: Path, together: Any, answers: Any) -> None:
    together.wait()
    try:
        with sole_writer(folder, True):
            answers.put(None)
            time.sleep(0.3)
    except UserError as error:
        answers.put(str(error))


def test_a_second_writer_is_told_of_the_first(tmp_path: Path) -> None:
    found = _race(_write_into, (tmp_path / "out",), 3)
    assert found.count(None) == 1
    refusals = [refusal for refusal in found if refusal]
    assert all("out is being written by process " in refusal for refusal in refusals)
    assert not (tmp_path / "out").exists()  # nobody wrote anything


def test_a_writer_that_was_killed_hinders_nobody(tmp_path: Path) -> None:
    def hold(held: Any) -> None:
        with sole_writer(tmp_path, True):
            held.set()
            signal.pause()

    held = FORK.Event()
    writer = FORK.Process(target=hold, args=(held,))
    writer.start()
    assert held.wait(60)
    writer.kill()
    writer.join()
    with sole_writer(tmp_path, True), sole_writer(tmp_path, False):
        (tmp_path / "a").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
