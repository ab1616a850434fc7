"""A run claims its folder before anything slow, records itself, and leaves nothing if it cannot."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from ldm.cli.app import call, check, parse
from ldm.config import load_config
from ldm.distributed import meeting_point
from ldm.errors import TrainingError, UserError, exhausted
from ldm.locks import run_lock
from ldm.training.run import open_run, train
from ldm.training.run_folder import RunFolder
from tests.training import tiny

ROOT = Path(__file__).parents[2]


def small(**changes: Any) -> Any:
    every = {"log": 1, "validation": 4, "checkpoint": 2, "images": 0}
    return tiny.features(every=every, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("finished") / "run")
    train(small(), folder)
    return folder


# -- beginning --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"params": {"batch_size": 64}}},
        {"trainer": {"accelerator": "abacus"}},
        {"seed": -1},
        {"task": {"params": {"no_such": 1}}},
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_cannot_begin_leaves_no_folder(
    tmp_path: Path, change: dict[str, Any], there: bool
) -> None:
    folder = RunFolder(tmp_path / "runs" / "run")
    if there:
        folder.path.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError):
        open_run(folder, small(**change), "error", print)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_folder_is_claimed_while_the_model_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, held = RunFolder(tmp_path / "run"), []

    def build(*_: Any) -> Any:
        held.append(json.loads(folder.lock.read_bytes())["pid"])
        raise TrainingError("enough")

    monkeypatch.setattr("ldm.training.run.build", build)
    for begin in (train, lambda config, at: open_run(at, config, "resume", print)):
        with pytest.raises(TrainingError, match="enough"):
            begin(small(), folder)
    assert held == [os.getpid()] * 2


def test_the_program_claims_the_folder_before_libraries_are_imported(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(small()))
    arguments = [str(tmp_path / "config.yaml"), "--runs", str(tmp_path / "runs")]
    code = "import sys\nfrom ldm.cli.app import call, check, parse\n"
    code += "check('train', parse('train', sys.argv[1:]))\nassert 'torch' not in sys.modules\n"
    options = parse("train", arguments)
    check("train", options)
    with options.claim:
        other = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
        )
        who = f"is being trained by process {os.getpid()} on {socket.gethostname()} since"
        assert who in other.stderr, other.stderr
    assert not (tmp_path / "runs").exists()
    other = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT)
    assert other.returncode == 0


@pytest.mark.parametrize("name", ["LOCAL_RANK", "SLURM_PROCID", "NODE_RANK", "RANK"])
def test_only_the_main_process_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(small()))
    options = parse("train", [str(tmp_path / "config.yaml"), "--runs", str(tmp_path / "runs")])
    for rank, made in (("1", False), ("0", True)):
        monkeypatch.setenv(name, rank)
        check("train", options)
        assert (tmp_path / "runs").exists() == made
        options.claim.close()


def test_a_complete_run_may_lie_where_nothing_can_be_written(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("ldm.locks._open", refuse)
    said: list[str] = []
    open_run(finished, small(), "resume", said.append)
    assert "is complete: reusing it" in said[-1]
    with pytest.raises(TrainingError, match="cannot be written to: Read-only file system"):
        train(small(), finished, resume=True)


@pytest.mark.parametrize(
    "write", ["ldm.training.run.save_config", "ldm.training.run_folder.write_text"]
)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_is_full_at_once_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str, number: int
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(write, fail)
    full = number in (errno.ENOSPC, errno.EDQUOT)
    message = r"run: the disk is full \(.*: make room and start again" if full else "cannot begin"
    with pytest.raises(TrainingError, match=message) as raised:
        train(small(), RunFolder(tmp_path / "run"))
    assert os.strerror(number) in str(raised.value)
    monkeypatch.undo()
    train(small(trainer={"max_steps": 1}), RunFolder(tmp_path / "run"))


@pytest.mark.parametrize(
    "error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), ValueError("closed")]
)
def test_a_program_that_nobody_reads_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: str) -> None:
        raise error

    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(small(name="run")))
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # and back in its place
    monkeypatch.setattr("ldm.cli.app.say", fail)
    call("train", [str(tmp_path / "config.yaml"), "--runs", str(tmp_path)])
    assert RunFolder(tmp_path / "run").complete


# -- status.json ------------------------------------------------------------------------------

BAD_STATUS = [
    "", "null", "[]", "5", '"x"', "[" * 100_000, '{"state": ', '{"state": 5}', '{"step": "x"}',
    '{"step": -1}', '{"step": 1.5}', '{"step": true}', '{"seconds": "1"}', '{"seconds": null}',
    '{"seconds": NaN}', '{"seconds": 1e999}', '{"inputs": []}', '{"inputs": {"a": 5}}',
    '{"inputs": null}', '{"files": 5}', '{"files": {"a": null}}', '{"resumes": {}}',
    '{"resumes": [5]}', '{"init_from": 5}', '{"init_from": {}}', '{"init_from": []}',
    '{"step": 1' + "0" * 5000 + "}", "\x00" * 9, '{"state": "a\\nb", "step": []}',
]  # fmt: skip


@pytest.mark.parametrize("content", BAD_STATUS, ids=range(len(BAD_STATUS)))
def test_a_status_of_another_kind_is_one_line(tmp_path: Path, content: str) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "status.json").write_text(content)
    with pytest.raises(TrainingError, match=r"status\.json is damaged.*; delete it") as raised:
        folder.status()
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.write_bytes(b"\xff{}")])
def test_a_status_that_is_no_text_is_one_line(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path / "status.json")
    begun = time.monotonic()
    with pytest.raises(TrainingError, match=r"status\.json is damaged.*; delete it"):
        RunFolder(tmp_path).status()
    assert time.monotonic() - begun < 5


def test_pieces_of_a_status_are_damaged_or_a_status(finished: RunFolder, tmp_path: Path) -> None:
    """Whatever a disk or an editor made of it."""
    noise, whole = random.Random(0), (finished.path / "status.json").read_text()
    alphabet = '{}[]",:0123456789 \ntrunefals'
    for _ in range(300):
        text = list(whole)
        for _ in range(noise.randrange(1, 6)):
            text[noise.randrange(len(text))] = noise.choice(alphabet)
        (tmp_path / "status.json").write_text("".join(text))
        with contextlib.suppress(TrainingError):
            found = RunFolder(tmp_path).status()
            assert found.get("step", 0) >= 0
            assert isinstance(found.get("state", ""), str)


@pytest.mark.parametrize("name", ["config.yaml", "status.json", "metrics.jsonl", ".lock"])
def test_a_pipe_in_place_of_a_file_of_a_run_is_not_waited_for(
    finished: RunFolder, tmp_path: Path, name: str
) -> None:
    shutil.copytree(finished.path, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    config = load_config(run.config, overrides=["trainer.max_steps=5"])
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    begun = time.monotonic()
    if name == "metrics.jsonl":  # it only informs
        train(config, run, resume=True)
        assert run.status()["step"] == 5
    else:
        with pytest.raises(UserError, match="pipe"):
            train(config, run, resume=True)
    assert time.monotonic() - begun < 60


# -- what the system has no more of -----------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("DataLoader worker (pid(s) 1, 22) exited unexpectedly"), "exited unexpect"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "was killed by"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It"), "/dev/shm"),
        (RuntimeError("unable to write to file </torch_1_2>: No space left (28)"), "/dev/shm"),
        (RuntimeError("unable to open shared memory object </torch_1>"), "/dev/shm"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "out of memory",
        ),
        (RuntimeError("CUDA out of memory. Tried"), "out of memory"),
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "temporarily"),
    ],
)
def test_what_is_used_up_is_one_line(error: Exception, words: str) -> None:
    for met in (error, _raised_from(error)):
        line = exhausted(met)
        assert line is not None
        assert words in line
        assert "num_workers" in line
        assert "\n" not in line


def _raised_from(error: Exception) -> Exception:
    outer = RuntimeError("while tearing down")
    outer.__context__ = error
    return outer


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shape mismatch"), OSError(errno.EMFILE, "Too many", "a file"), ValueError("x")],
)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert exhausted(error) is None


def test_a_killed_worker_ends_a_run_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: Any, **__: Any) -> None:
        raise RuntimeError("DataLoader worker (pid(s) 5) exited unexpectedly")

    folder = RunFolder(tmp_path / "run")
    monkeypatch.setattr("ldm.training.run.pl.Trainer.fit", lose)
    with pytest.raises(TrainingError, match=r"^step 0: a loader worker exited unexpectedly, most"):
        train(small(), folder)
    assert folder.status()["state"] == "failed"


# -- several processes ------------------------------------------------------------------------


def _listening() -> set[str]:
    """Addresses on which this process listens, as the system writes them."""
    own = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            own.add(os.readlink(link))
    rows = [row.split() for kind in ("tcp", "tcp6") for row in _table(kind)]
    return {row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own}


def _table(kind: str) -> list[str]:
    file = Path("/proc/net") / kind
    return file.read_text().splitlines()[1:] if file.exists() else []


def test_processes_of_one_computer_meet_on_the_loopback_interface(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MASTER_PORT", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    before, environment = _listening(), dict(os.environ)
    with meeting_point():
        (address,) = _listening() - before
        assert address == f"0100007F:{int(os.environ['MASTER_PORT']):04X}"
        assert os.environ["MASTER_ADDR"] == "127.0.0.1"
        assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    assert _listening() == before
    assert dict(os.environ) == environment


def test_a_run_that_another_one_holds_is_not_begun(finished: RunFolder, tmp_path: Path) -> None:
    """The lock of a folder that was renamed meanwhile is that of the renamed one."""
    lock = tmp_path / "run" / ".lock"
    with run_lock(lock, print):
        lock.parent.rename(tmp_path / "moved")
        folder = RunFolder(tmp_path / "run")
        train(small(trainer={"max_steps": 1}), folder)
        assert folder.complete
