"""Runs that are killed, damaged, stopped or left without disk lose nothing that was saved."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from omegaconf import DictConfig

import ldm.files
import ldm.safe_pickle
from ldm.checkpoint import load_training_checkpoint, read_state, save, verify
from ldm.config import load_config
from ldm.distributed import lost_another
from ldm.errors import CheckpointError, ConfigError, DamagedCheckpointError, TrainingError
from ldm.locks import run_lock
from ldm.training.callbacks.checkpointing import AtomicCheckpointIO
from ldm.training.callbacks.progress import StepProgress
from ldm.training.launch import give_way_to_main_process, is_main_process
from ldm.training.resume import newest_good, other_run
from ldm.training.run import train
from ldm.training.run_folder import RunFolder
from ldm.training.signals import Interrupted, StopSignals
from ldm.training.tasks.autoencoder import AutoencoderTask
from tests.training import tiny


def small(**changes: Any) -> DictConfig:
    """Two checkpoints in four steps, no pictures."""
    every = {"log": 1, "validation": 4, "checkpoint": 2, "images": 0}
    return tiny.autoencoder(every=every | changes.pop("every", {}), **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of four steps; tests work on copies."""
    folder = RunFolder(tmp_path_factory.mktemp("finished") / "run")
    train(small(every={"keep": 3}), folder)
    return folder


@pytest.fixture
def run(finished: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(finished.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def longer(run: RunFolder, **overrides: Any) -> DictConfig:
    values = {"trainer.max_steps": 6} | {key.replace("__", "."): v for key, v in overrides.items()}
    return load_config(run.config, overrides=[f"{key}={value}" for key, value in values.items()])


def step_of(path: Path) -> int:
    return int(load_training_checkpoint(path)["global_step"])


def at_step(step: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen within a training step."""
    original = AutoencoderTask.training_step

    def training_step(self: AutoencoderTask, batch: Any, index: int) -> None:
        if self.global_step == step:
            act()
        original(self, batch, index)

    monkeypatch.setattr(AutoencoderTask, "training_step", training_step)


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# -- writing ----------------------------------------------------------------------------------


def test_the_one_before_and_each_nth_checkpoint_stay(finished: RunFolder) -> None:
    files = {file.name: step_of(file) for file in finished.checkpoints.glob("*.ckpt")}
    assert files == {"last.ckpt": 4, "previous.ckpt": 3, "best.ckpt": 4, "step-3.ckpt": 3}


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    save({"a": torch.ones(2)}, path, keep=previous)
    before = path.read_bytes()
    monkeypatch.setattr(ldm.files.os, "fsync", full_disk)
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be written: No space.*MB free"):
        save({"a": torch.zeros(2)}, path, keep=previous)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_write_that_ends_half_way_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    """torch answers in words of its own when the system takes only half of a file."""
    path = tmp_path / f"a{suffix}"
    save({"a": torch.ones(2)}, path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"cannot be written: File too large"):
            save({"a": torch.randn(200_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_file_systems_without_second_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    path, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    monkeypatch.setattr(ldm.files.os, "link", unable)
    for value in (1, 2):
        save({"global_step": value}, path, keep=previous)
    assert (step_of(path), step_of(previous)) == (2, 1)


# -- damage -----------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path, bits: int = 1) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(bits):
        content[random.Random(0).randrange(len(content) // 4, len(content) // 2)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, empty, flip])
def test_damage_is_found(finished: RunFolder, tmp_path: Path, damage: Callable[..., None]) -> None:
    path = tmp_path / "a.ckpt"
    shutil.copy(finished.last, path)
    verify(path)
    damage(path)
    with pytest.raises(DamagedCheckpointError, match=r"a\.ckpt is damaged"):
        verify(path)


def test_a_flipped_bit_in_a_weight_is_found(tmp_path: Path) -> None:
    """torch reads such a file without a word."""
    path = tmp_path / "a.ckpt"
    save({"a": torch.zeros(10_000)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert load_training_checkpoint(path, check=False)["a"].count_nonzero() == 1
    for read in (verify, load_training_checkpoint, read_state):
        with pytest.raises(DamagedCheckpointError, match="not what was written"):
            read(path)


def test_training_goes_on_from_the_newest_that_is_whole(run: RunFolder) -> None:
    cut(run.last)
    said: list[str] = []
    train(longer(run), run, resume=True, say=said.append)
    assert len(said) == 1
    assert "last.ckpt is damaged" in said[0]
    assert said[0].endswith(f"continuing from {run.previous}, step 3")
    assert run.complete
    assert (step_of(run.last), step_of(run.previous)) == (6, 4)
    assert run.last.with_name("last.ckpt.damaged").exists()
    assert run.status()["resumes"][-1]["from"] == "previous.ckpt"


def folder_of(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def unreadable(path: Path) -> None:
    """As of a disk with a bad block; root may read anything, and has no such disk."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


@pytest.mark.parametrize("damage", [folder_of, unreadable])
def test_what_is_no_file_is_passed_over(run: RunFolder, damage: Callable[..., None]) -> None:
    for times in (1, 2):  # the second is set aside beside the first
        damage(run.last)
        said: list[str] = []
        config = longer(run, trainer__max_steps=4 + times, every__checkpoint=100)
        train(config, run, resume=True, say=said.append)
        assert "last.ckpt is damaged: " in said[0]
        assert step_of(run.last) == 4 + times
        assert len(list(run.checkpoints.glob("last.ckpt.damaged*"))) == times


def test_a_lost_last_checkpoint_is_no_obstacle(run: RunFolder) -> None:
    run.last.unlink()
    said: list[str] = []
    assert newest_good(run, said.append).path == run.previous
    assert said == [f"warning: there is no {run.last}; continuing from {run.previous}, step 3"]


def test_without_any_good_checkpoint_all_are_named(run: RunFolder) -> None:
    files = run.resumable()
    for file in files:
        empty(file)
    with pytest.raises(CheckpointError) as raised:
        train(longer(run), run, resume=True)
    assert all(f"{file} is damaged" in str(raised.value) for file in files)
    assert sorted(run.resumable()) == sorted(files)


def test_a_checkpoint_that_may_not_be_read_is_not_passed_over(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("ldm.containers.zips.open_regular", refuse)
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be read: Permission denied"):
        newest_good(run, print)


def test_a_file_of_weights_is_no_training_checkpoint(run: RunFolder) -> None:
    save({"global_step": 1, "state_dict": {}}, run.last)
    with pytest.raises(CheckpointError, match=r"no training checkpoint: it has no optimizer_st"):
        newest_good(run, print)


def test_a_checkpoint_is_read_once(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    original = ldm.safe_pickle.torch.load

    def load(path: Path, **options: Any) -> Any:
        read.append(path)
        return original(path, **options)

    monkeypatch.setattr(ldm.safe_pickle.torch, "load", load)
    train(longer(run), run, resume=True)
    assert read == [run.last]


def test_leftovers_of_a_killed_writer_are_removed(run: RunFolder) -> None:
    leftovers = [run.checkpoints / ".step-9.ckpt.tmp", run.path / ".other.json.tmp"]
    for file in leftovers:
        file.write_bytes(b"half")
    train(longer(run), run, resume=True)
    assert not any(file.exists() for file in leftovers)


# -- folders ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1])  # found by the log, by the checkpoint
def test_a_removed_folder_does_not_come_back_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    folder = RunFolder(tmp_path / "run")
    at_step(step, lambda: shutil.rmtree(folder.path), monkeypatch)
    with pytest.raises((TrainingError, CheckpointError), match="was removed or renamed while"):
        train(small(), folder)
    assert not folder.path.exists()


@pytest.mark.parametrize("again", ["folder", "lock"])
@pytest.mark.parametrize("end", ["step", "signal", "failure"])
def test_a_folder_that_another_process_has_made_anew_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str, end: str
) -> None:
    folder, made = RunFolder(tmp_path / "run"), {}

    def remove_and_begin_anew() -> None:
        shutil.rmtree(folder.path) if again == "folder" else folder.lock.unlink()
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        for file in (folder.config, folder.lock, folder.metrics, folder.path / "status.json"):
            file.write_text("{}")
        made.update({file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()})
        if end == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        if end == "failure":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    at_step(1, remove_and_begin_anew, monkeypatch)
    every = {"images": 1, "checkpoint": 4}
    with pytest.raises((TrainingError, CheckpointError), match="made anew by another process"):
        train(small(every=every), folder)
    left = {file for file in folder.path.rglob("*") if file.is_file()} - {folder.curves}
    left = {file for file in left if "tfevents" not in file.name}  # open since before
    assert {file: file.read_bytes() for file in left} == {file: made[file] for file in left}
    assert folder.metrics in left


def test_a_lock_that_somebody_removed_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    at_step(1, folder.lock.unlink, monkeypatch)
    train(small(), folder)
    assert folder.complete


@pytest.mark.parametrize("kind", [Path.touch, os.mkfifo, lambda path: path.symlink_to("nowhere")])
@pytest.mark.parametrize("resume", [False, True])
def test_what_stands_where_checkpoints_belong_is_said_before_the_first_step(
    run: RunFolder, tmp_path: Path, kind: Callable[[Path], Any], resume: bool
) -> None:
    folder = RunFolder(tmp_path / "run" if resume else tmp_path / "new")
    place = folder.previous if resume else folder.checkpoints
    place.parent.mkdir(exist_ok=True)
    if resume:  # whatever is no folder is replaced
        place.unlink()
        place.mkdir()
    else:
        kind(place)
    with pytest.raises(TrainingError, match=r"belongs.*: remove it"):
        train(longer(run) if resume else small(), folder, resume)
    assert resume or sorted(file.name for file in folder.path.iterdir()) == [".lock", place.name]


def test_a_disk_that_gets_full_ends_a_run_in_one_line(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: dict[str, bytes] = {}

    def fill() -> None:
        before.update({file.name: file.read_bytes() for file in run.resumable()})
        monkeypatch.setattr(ldm.files.os, "fsync", full_disk)

    at_step(5, fill, monkeypatch)
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be written: No space left"):
        train(longer(run), run, resume=True)
    assert {file.name: file.read_bytes() for file in run.resumable()} == before
    monkeypatch.undo()
    train(longer(run), run, resume=True)
    assert run.complete


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_logs_that_cannot_be_written_end_a_run_in_one_line(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), str(run.metrics))

    at_step(5, fail, monkeypatch)
    pattern = {errno.ENOSPC: "the disk is full", errno.EROFS: r"metrics\.jsonl cannot be written"}
    with pytest.raises(TrainingError, match=pattern[number]):
        train(longer(run), run, resume=True)
    assert run.status()["state"] == "failed"


def test_errors_of_other_files_are_not_blamed_on_the_run(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file", "/data/image.png")

    at_step(5, fail, monkeypatch)
    with pytest.raises(FileNotFoundError):
        train(longer(run), run, resume=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(TrainingError, match="run cannot be made: Not a directory"):
        train(small(), RunFolder(tmp_path / "runs" / "run"))


def test_a_damaged_status_is_named(run: RunFolder) -> None:
    (run.path / "status.json").write_text('{"state": ')
    with pytest.raises(TrainingError, match=r"status\.json is damaged"):
        train(longer(run), run, resume=True)


# -- one training at a time -------------------------------------------------------------------


def _hold(lock: Path, held: Any) -> None:
    with run_lock(lock, print):
        held.set()
        signal.pause()


def test_two_trainings_in_one_folder_are_refused_until_the_first_is_killed(
    run: RunFolder,
) -> None:
    context = multiprocessing.get_context("fork")  # nothing to import again
    held = context.Event()
    holder = context.Process(target=_hold, args=(run.lock, held), daemon=True)
    holder.start()
    try:
        assert held.wait(timeout=60)
        with pytest.raises(TrainingError, match=f"is being trained by process {holder.pid} on "):
            train(longer(run), run, resume=True)
    finally:
        holder.kill()
        holder.join()
    said: list[str] = []
    with run_lock(run.lock, said.append):
        assert json.loads(run.lock.read_text())["pid"] == os.getpid()
    assert said == []
    assert run.lock.read_text() == ""


def test_a_lock_left_on_another_computer_is_pointed_out(run: RunFolder) -> None:
    run.lock.write_text(json.dumps({"pid": 7, "host": "elsewhere", "since": "yesterday"}))
    said: list[str] = []
    with run_lock(run.lock, said.append):
        pass
    assert "process 7 on elsewhere since yesterday" in said[0]


def test_loader_workers_that_outlive_a_run_do_not_hold_its_lock(run: RunFolder) -> None:
    context = multiprocessing.get_context("fork")
    with run_lock(run.lock, print):
        worker = context.Process(target=signal.pause, daemon=True)
        worker.start()
    try:
        code = "import fcntl as f, sys; o = open(sys.argv[1], 'a'); e = f.LOCK_EX | f.LOCK_NB; "
        code += "f.lockf(o, e); f.flock(o, e)"
        answer = subprocess.run([sys.executable, "-c", code, str(run.lock)])
        assert answer.returncode == 0
    finally:
        worker.kill()
        worker.join()


# -- resuming with other settings -------------------------------------------------------------


def test_what_makes_another_run_is_said_loudly_and_recorded(run: RunFolder) -> None:
    said: list[str] = []
    train(longer(run, seed=5, every__log=2), run, resume=True, say=said.append)
    assert said == ["note: from step 4 on this is another run than before: seed changed"]
    (record,) = run.status()["resumes"]
    assert record["step"] == 4
    assert record["changed"] == ["every.log", "seed", "trainer.max_steps"]
    assert record["processes"] == 1
    assert set(record["versions"]) == {"ldm", "torch", "pytorch_lightning"}
    train(longer(run, trainer__max_steps=7), run, resume=True, say=said.append)
    assert len(said) == 1
    assert len(run.status()["resumes"]) == 2


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_steps": 3}, r"^step 4 of .*run is past trainer\.max_steps=3: .* raise trainer"),
        ({"max_epochs": 0}, r"^step 4 of .*run, in epoch 1, is past trainer\.max_epochs=0: "),
    ],
)
def test_a_run_that_is_past_its_end_says_so(
    run: RunFolder, limits: dict[str, int], message: str
) -> None:
    before = run.status()
    config = longer(run)
    config.trainer = {"accelerator": "cpu"} | limits
    with pytest.raises(ConfigError, match=message):
        train(config, run, resume=True)
    assert run.status() == before


@pytest.mark.parametrize("limits", [{"max_steps": 4}, {"max_epochs": 1}])
def test_the_end_is_saved_after_it_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    saved: list[int] = []
    original = AtomicCheckpointIO.save_checkpoint

    def save_checkpoint(self: Any, checkpoint: dict[str, Any], path: Any, **more: Any) -> None:
        if Path(path).name == "last.ckpt":
            saved.append(checkpoint["global_step"])
        original(self, checkpoint, path, **more)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save_checkpoint)
    for every, expected in ((2, [2, 4, 4]), (3, [3, 4])):
        config = small(every={"checkpoint": every}, data={"params": {"batch_size": 8}})
        config.trainer = {"accelerator": "cpu"} | limits
        folder = RunFolder(tmp_path / str(every))
        train(config, folder)
        assert saved == expected
        saved.clear()
        train(load_config(folder.config), folder, resume=True)  # there is nothing left to do
        assert (saved, folder.complete) == ([], True)


def test_where_and_how_long_a_run_runs_may_change() -> None:
    free = ["trainer.max_steps", "trainer.devices", "every.checkpoint", "data.params.num_workers"]
    free += ["trainer.accumulate_grad_batches", "name", "profile.steps"]
    other = ["data.params.batch_size", "model.params.embed_dim", "seed", "trainer.precision"]
    other += ["task.params.optimizer.params.lr", "data.params.train.params.length", "ema_decay"]
    assert other_run(free + other) == other


# -- stopping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)
    folder = RunFolder(tmp_path / "run")
    at_step(0, lambda: os.kill(os.getpid(), number), monkeypatch)
    with pytest.raises(Interrupted, match=r"interrupted at step 1; .*--resume") as raised:
        train(small(), folder)
    assert raised.value.exit_status == 128 + number
    assert signal.getsignal(number) == before
    assert (folder.status()["state"], folder.status()["step"]) == ("interrupted", 1)
    assert step_of(folder.last) == 1


def test_a_stopped_run_ends_with_the_weights_of_one_that_nobody_stopped(
    finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    at_step(0, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    with pytest.raises(Interrupted):
        train(small(), folder)
    monkeypatch.undo()
    train(small(), folder, resume=True)
    weights = [load_training_checkpoint(f.last)["state_dict"] for f in (folder, finished)]
    assert all(torch.equal(value, weights[0][key]) for key, value in weights[1].items())


def test_slurm_gets_no_checkpoint_of_lightnings_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does Lightning requeue the job."""
    for key, value in {"NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_ID": 7}.items():
        monkeypatch.setenv(f"SLURM_{key}", str(value))
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    monkeypatch.setattr(
        "pytorch_lightning.trainer.connectors.signal_connector.call", lambda *_: pytest.fail("call")
    )
    folder = RunFolder(tmp_path / "run")
    at_step(0, lambda: os.kill(os.getpid(), signal.SIGUSR1), monkeypatch)
    with pytest.raises(Interrupted):
        train(small(), folder)
    assert not list(folder.path.glob("hpc_ckpt*"))
    assert step_of(folder.last) == 1


def test_lightning_does_not_hear_of_signals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its handler would talk to the other processes while they do something else."""
    handlers: list[Any] = []
    at_step(0, lambda: handlers.append(signal.getsignal(signal.SIGTERM)), monkeypatch)
    train(small(trainer={"max_steps": 1}), RunFolder(tmp_path / "run"))
    assert isinstance(handlers[0].__self__, StopSignals)


def test_a_signal_in_the_last_step_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    train(small(), folder)
    assert folder.complete


def test_gradients_are_accumulated_to_the_end_before_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm.training.tasks.features import FeatureTask

    original, calls = FeatureTask.training_step, []

    def training_step(self: FeatureTask, batch: Any, index: int) -> Any:
        calls.append(index)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, index)

    monkeypatch.setattr(FeatureTask, "training_step", training_step)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(Interrupted, match="at step 2"):
        train(tiny.features(trainer={"accumulate_grad_batches": 2}), folder)
    assert len(calls) == 4
    assert step_of(folder.last) == 2


def test_loader_workers_go_on_when_the_whole_group_is_signalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signal_workers() -> None:
        workers = multiprocessing.active_children()
        assert workers
        for worker in workers:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                os.kill(worker.pid or 0, number)

    at_step(1, signal_workers, monkeypatch)
    folder = RunFolder(tmp_path / "run")
    train(small(data={"params": {"num_workers": 1}}), folder)
    assert folder.complete


def test_a_worker_that_is_still_reading_does_not_keep_the_program(tmp_path: Path) -> None:
    """It ignores the signal by which Python ends workers, and Python waits for its end."""
    program = tmp_path / "program.py"
    program.write_text(
        "import time, torch\n"
        "from torch.utils.data import DataLoader, Dataset\n"
        "from ldm.training.signals import StopSignals, leave_signals_to_main_process\n"
        "class Slow(Dataset):\n"
        "    def __len__(self): return 9\n"
        "    def __getitem__(self, i):\n"
        "        time.sleep(100 * (i > 0))\n"
        "        return torch.zeros(1)\n"
        "with StopSignals():\n"
        "    loader = iter(DataLoader(Slow(), num_workers=1,\n"
        "        worker_init_fn=leave_signals_to_main_process))\n"
        "    next(loader)\n"
    )
    start = time.monotonic()
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run([sys.executable, str(program)], env=environment, timeout=90)
    assert time.monotonic() - start < 60


# -- several processes ------------------------------------------------------------------------


def test_other_processes_do_not_look_for_checkpoints(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main one may just be renaming them."""
    given: list[Any] = []
    monkeypatch.setattr("pytorch_lightning.utilities.rank_zero_only.rank", 1)
    monkeypatch.setattr("ldm.training.run.newest_good", lambda *_: pytest.fail("it looks"))
    monkeypatch.setattr("ldm.training.run._fit", lambda *arguments: given.append(arguments[-2]))
    train(longer(run), run, resume=True)
    assert given == [run.last]  # in whose place the main one tells the file that it has chosen


def _read_checkpoint(rank: int, run: RunFolder, store: str) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    resumed = newest_good(run, print) if rank == 0 else None
    if resumed is not None:
        resumed.set_damaged_aside()
    path = run.last if resumed is None else resumed.path
    content = AtomicCheckpointIO(run, resumed).load_checkpoint(path)
    (run.path / f"{rank}.txt").write_text(str(content["global_step"]))
    dist.destroy_process_group()


def test_all_processes_read_the_checkpoint_that_the_main_one_has_chosen(run: RunFolder) -> None:
    cut(run.last)
    context = multiprocessing.get_context("fork")  # nothing to import again
    store = str(run.path / "store")
    both = [context.Process(target=_read_checkpoint, args=(r, run, store)) for r in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=200)
        assert process.exitcode == 0
    assert [(run.path / f"{rank}.txt").read_text() for rank in range(2)] == ["3", "3"]


def test_only_the_first_process_of_the_first_computer_is_the_main_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert is_main_process()
    monkeypatch.setenv("NODE_RANK", "1")
    assert not is_main_process()


def test_the_end_of_another_process_is_told_from_an_error_of_its_own() -> None:
    assert lost_another(RuntimeError("[../gloo/transport/tcp/pair.cc:5] Connection closed by peer"))
    assert not lost_another(RuntimeError("shape mismatch"))
    assert not lost_another(ValueError("gloo"))


def test_of_processes_of_torchrun_the_first_one_that_fails_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0").mkdir()
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "0" / "error.json"))
    give_way_to_main_process()
    with pytest.raises(SystemExit):
        give_way_to_main_process()
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "")
    give_way_to_main_process()


def test_signals_are_ours_while_a_run_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's own handlers would talk to other processes while these are still loading."""
    owners = []

    def look(*_: Any) -> None:
        owners.append(getattr(signal.getsignal(signal.SIGTERM), "__self__", None))

    monkeypatch.setattr(StepProgress, "on_train_start", look)
    train(tiny.features(trainer={"max_steps": 1}), RunFolder(tmp_path / "run"))
    assert [type(owner) for owner in owners] == [StopSignals]
