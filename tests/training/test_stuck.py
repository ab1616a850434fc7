"""Trainings that cannot go on end when they are asked to, in a time that is documented."""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Dataset

from ldm.checkpoint import load_training_checkpoint
from ldm.cli.app import end_with_status
from ldm.data.scenes.dataset import SceneDataset
from ldm.training import watch
from ldm.training.run import train
from ldm.training.run_folder import RunFolder
from ldm.training.signals import Interrupted, Stop, StopSignals, leave_signals_to_main_process
from tests.training import tiny

ROOT = Path(__file__).parents[2]
FORK = multiprocessing.get_context("fork")  # nothing to import again


def sleep() -> None:
    time.sleep(1e6)


def sleep_and_swallow() -> None:
    """Like code that takes any error for one of an image."""
    for _ in range(1000):
        with contextlib.suppress(Exception):
            time.sleep(1e6)


def read_a_pipe() -> None:
    reader, _ = os.pipe()
    os.read(reader, 1)


def deaf() -> None:
    """Waits where Python never comes to act upon a signal."""
    mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


class Stuck(Dataset[Any]):
    """Has two items."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait = wait

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> Any:
        if index > 1:
            self._wait()
        return torch.zeros(1)


def signal_later(number: int, seconds: float = 0.3) -> threading.Timer:
    timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
    timer.start()
    return timer


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PATIENCE", 0.6)
    monkeypatch.setattr(watch, "GRACE", 1.0)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("wait", [sleep, sleep_and_swallow, read_a_pipe])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_is_stuck_is_left(wait: Callable[[], None], workers: int) -> None:
    children = set(multiprocessing.active_children())
    with StopSignals() as signals:
        batches = iter(
            DataLoader(
                Stuck(wait), num_workers=workers, worker_init_fn=leave_signals_to_main_process
            )
        )
        signal_later(signal.SIGTERM)
        begun = time.monotonic()
        with pytest.raises(Stop):
            for _ in batches:
                pass
        assert time.monotonic() - begun < 8
        assert signals.loader_stuck
        assert signals.received == signal.SIGTERM
    assert set(multiprocessing.active_children()) <= children


@pytest.mark.usefixtures("_impatient")
def test_only_a_loader_is_left() -> None:
    """What else takes long may be a step, after which the run ends by itself."""
    with StopSignals() as signals:
        signal_later(signal.SIGTERM, 0.1)
        time.sleep(2)
        assert not signals.loader_stuck
        next(iter(DataLoader(Stuck(sleep), batch_size=1)))
        assert signals.received == signal.SIGTERM


@pytest.mark.usefixtures("_impatient")
def test_a_loader_that_is_slow_without_a_signal_is_waited_for() -> None:
    with StopSignals() as signals:
        for _, _ in zip(range(3), DataLoader(Stuck(lambda: time.sleep(1.5))), strict=False):
            pass
        assert signals.received is None


def _train_until(wait: Callable[[], None], last_act: Callable[[str], None]) -> None:
    signals = StopSignals()
    signals.last_act = last_act
    with signals:
        for _ in DataLoader(Stuck(wait)):
            pass


def _ended(wait: Callable[[], None], last_act: Any, numbers: list[int]) -> tuple[int | None, float]:
    """How a process that waits so ends when it is signalled, and seconds since the last signal."""
    process = FORK.Process(target=_train_until, args=(wait, last_act))
    process.start()
    time.sleep(1)
    for number in numbers:
        time.sleep(0.8)
        os.kill(process.pid or 0, number)
    begun = time.monotonic()
    process.join(30)
    seconds = time.monotonic() - begun
    process.kill()
    return process.exitcode, seconds


@pytest.mark.parametrize("wait", [sleep, sleep_and_swallow, deaf])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_second_signal_does_not_wait(tmp_path: Path, wait: Callable[[], None], name: str) -> None:
    number = signal.Signals[name]
    words = tmp_path / "words"
    status, seconds = _ended(wait, words.write_text, [number, number])
    assert status == 128 + number
    assert seconds < 2
    assert words.read_text() == f"ended by a second {name}, without waiting"


def test_a_last_act_that_hangs_does_not_keep_the_process() -> None:
    status, seconds = _ended(sleep, lambda _: sleep(), [signal.SIGINT, signal.SIGINT])
    assert status == 130
    assert seconds < 3


@pytest.mark.usefixtures("_impatient")
def test_a_main_thread_that_hears_nothing_is_ended(tmp_path: Path) -> None:
    words = tmp_path / "words"
    status, _ = _ended(deaf, words.write_text, [signal.SIGTERM])
    assert status == 143
    assert "cannot be left" in words.read_text()


def test_the_same_signal_at_once_is_one_signal() -> None:
    """torchrun passes on what a terminal sends to the whole group."""
    with StopSignals() as signals:
        for _ in range(5):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
        time.sleep(0.4)
        assert signals.received == signal.SIGINT


def test_signals_of_a_forked_process_are_its_own() -> None:
    with StopSignals() as signals:
        for _ in range(2):
            child = FORK.Process(target=signal.raise_signal, args=(signal.SIGTERM,))
            child.start()
            child.join()
            time.sleep(0.6)
        assert signals.received is None


class StuckScenes(SceneDataset):
    """Scenes of which the first batches can be read."""

    def __getitem__(self, index: int) -> Any:
        count = self.__dict__.setdefault("_read", [])
        count.append(index)
        if len(count) > 13:  # one is looked at before training
            time.sleep(1e6)
        return super().__getitem__(index)


@pytest.mark.usefixtures("_impatient")
def test_a_run_whose_loader_is_stuck_saves_its_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = {"log": 1, "validation": 100, "checkpoint": 100, "images": 0}
    config = tiny.features(every=every)
    config.data.params.train.target = f"{__name__}.StuckScenes"
    folder = RunFolder(tmp_path / "run")
    timer = threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM))
    original = StopSignals.listen

    def listen(self: StopSignals) -> None:
        original(self)
        if not timer.is_alive():
            timer.start()

    monkeypatch.setattr(StopSignals, "listen", listen)
    with pytest.raises(Interrupted, match="at step 3, its loader gave no batch") as raised:
        train(config, folder)
    assert raised.value.exit_status == 143
    assert (folder.status()["state"], folder.status()["step"]) == ("interrupted", 3)
    assert load_training_checkpoint(folder.last)["global_step"] == 3
    config.data.params.train.target = "ldm.data.SceneDataset"
    monkeypatch.undo()
    train(config, folder, resume=True)
    assert folder.complete


def _read_as_a_program() -> None:
    end_with_status(lambda: list(DataLoader(Stuck(sleep), num_workers=2)))


def test_other_programs_end_at_once_on_ctrl_c() -> None:
    """Python would wait five seconds for each worker."""
    process = FORK.Process(target=_read_as_a_program)
    process.start()
    time.sleep(2)
    os.kill(process.pid or 0, signal.SIGINT)
    begun = time.monotonic()
    process.join(30)
    assert time.monotonic() - begun < 4
    assert process.exitcode == 130


# -- the program ------------------------------------------------------------------------------


class Killed(SceneDataset):
    """Scenes of which a loader worker dies."""

    def __getitem__(self, index: int) -> Any:
        count = self.__dict__.setdefault("_read", [])
        count.append(index)
        if len(count) > 13 and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@contextlib.contextmanager
def started(tmp_path: Path, dataset: str, **data: Any) -> Iterator[subprocess.Popen[str]]:
    every = {"log": 1, "validation": 1000, "checkpoint": 1000, "images": 0}
    config = tiny.features(name="run", every=every)
    config.trainer.max_steps = 1000
    config.data.params.train.target = f"{__name__}.{dataset}"
    config.data.params |= data
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config))
    process = subprocess.Popen(
        [
            sys.executable,
            "scripts/train.py",
            str(tmp_path / "config.yaml"),
            "--runs",
            str(tmp_path),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        metrics, until = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 240
        while process.poll() is None and time.monotonic() < until:
            if metrics.exists() and ('"step": 3' in metrics.read_text() or dataset == "Killed"):
                break
            time.sleep(0.1)
        time.sleep(2)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize(("name", "times"), [("SIGTERM", 1), ("SIGINT", 2), ("SIGTERM", 2)])
def test_the_program_ends(tmp_path: Path, workers: int, name: str, times: int) -> None:
    number = signal.Signals[name]
    with started(tmp_path, "StuckScenes", num_workers=workers) as process:
        process.send_signal(number)
        if times == 2:
            time.sleep(1)
            process.send_signal(number)
        begun = time.monotonic()
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - begun < (3 if times == 2 else 30)
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "interrupted"
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists() == (times == 1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_one_line(tmp_path: Path, workers: int) -> None:
    with started(tmp_path, "Killed", num_workers=workers) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "Traceback" not in said
    assert said.count("error: step ") == 1
    assert "a loader worker " in said


@pytest.mark.slow
def test_of_programs_that_begin_together_one_trains(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(tiny.features(name="run")))
    command = [sys.executable, "scripts/train.py", str(tmp_path / "config.yaml")]
    for turn in range(3):
        several = [
            subprocess.Popen(
                [*command, "--runs", str(tmp_path / str(turn))],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        said = [process.communicate(timeout=240)[1] for process in several]
        assert sorted(process.returncode for process in several) == [0, 2, 2]
        assert sum("run is being trained by process " in text for text in said) == 2
        assert sum("Traceback" in text for text in said) == 0
