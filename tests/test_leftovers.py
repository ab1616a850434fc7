"""Temporary files: of writers that were killed they go, of living ones they stay."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Any

import pytest

import ldm.files
from ldm.cli.options.common import check_out_file
from ldm.errors import UserError
from ldm.files import (
    give_second_name,
    remove_leftovers,
    temporary_beside,
    write_atomically,
    write_text,
)


@pytest.fixture(autouse=True)
def _first_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ldm.files, "_tidied", set())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["report.json", "a\nb", "x" * 250, "\udce9.npz", ".hidden"])
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path, name: str) -> None:
    temporary_beside(tmp_path / name).write_text("half")
    write_text(tmp_path / "other", "whole")
    assert names(tmp_path) == ["other"]


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    left = temporary_beside(tmp_path / "left")
    left.write_text("half")

    def write(file: Any) -> None:
        remove_leftovers(tmp_path, alone=True)
        file.write(b"whole")

    write_atomically(tmp_path / "a", write)
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"whole"


@pytest.mark.parametrize(
    "name", [".mine.tmp", "a.12345678.tmp", ".a.1234567.tmp", ".a.GGGGGGGG.tmp"]
)
def test_hidden_files_of_others_stay_in_folders_of_others(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [name]
    remove_leftovers(tmp_path, alone=True)
    assert names(tmp_path) == ([] if name.startswith(".") else [name])


def test_a_temporary_file_that_is_taken_for_left_behind_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, removed = fcntl.flock, []

    def flock(file: Any, how: int) -> None:
        if not removed:  # another process looks between the opening and the lock
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        original(file, how)

    monkeypatch.setattr(ldm.files.fcntl, "flock", flock)
    write_text(tmp_path / "a", "whole")
    assert len(removed) == 1
    assert (tmp_path / "a").read_text() == "whole"
    assert names(tmp_path) == ["a"]


def test_without_locks_only_old_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(ldm.files.fcntl, "flock", unable)
    young, old = temporary_beside(tmp_path / "young"), temporary_beside(tmp_path / "old")
    for file, age in ((young, 60), (old, 7200)):
        file.touch()
        os.utime(file, (time.time() - age,) * 2)
    write_text(tmp_path / "a", "whole")
    assert names(tmp_path) == [young.name, "a"]


def test_links_pipes_and_folders_are_no_leftovers_of_ours(tmp_path: Path) -> None:
    link, pipe, folder = (temporary_beside(tmp_path / name) for name in ("l", "p", "f"))
    link.symlink_to(tmp_path / "a")
    os.mkfifo(pipe)
    folder.mkdir()
    remove_leftovers(tmp_path)
    assert len(names(tmp_path)) == 3
    remove_leftovers(tmp_path, alone=True)
    assert names(tmp_path) == sorted([pipe.name, folder.name])


def test_a_second_name_is_that_of_the_file_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, second = tmp_path / "last", tmp_path / "step-2"
    second.write_text("before")
    file.write_text("content")
    give_second_name(file, second)
    assert second.samefile(file)
    give_second_name(file, second)  # it is by now

    def unable(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(ldm.files.os, "link", unable)
    give_second_name(file, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "content"
    assert names(tmp_path) == ["copy", "last", "step-2"]


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    """Tried by way of a link, so that no device is lost if it does not hold."""
    link = tmp_path / "out.json"
    link.symlink_to(os.devnull)
    with pytest.raises(OSError, match="is a device"):
        ldm.files.write_text(link, "text")
    assert link.is_symlink()
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    for name in ("null", "stdout", "../dev/full", "new.json"):
        assert ldm.files.is_device(f"/dev/{name}")
    for name in (tmp_path / "new.json", tmp_path, "/dev/shm/out.json", "null"):
        assert not ldm.files.is_device(name)
    with pytest.raises(UserError, match=r"--out .*out.json: is a device; name a file"):
        check_out_file("--out", link)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_said_of_the_file(tmp_path: Path, code: int) -> None:
    def write(_: Any) -> None:
        raise OSError(code, "no room")

    with pytest.raises(OSError, match="no room") as raised:
        ldm.files.write_atomically(tmp_path / "grid.png", write)
    assert raised.value.filename == str(tmp_path / "grid.png")
    assert not list(tmp_path.iterdir())
