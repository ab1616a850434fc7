"""Two processes stop together, and of several that fail one says why, once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from ldm.checkpoint import load_training_checkpoint
from ldm.data.scenes.dataset import SceneDataset
from ldm.errors import DataError
from tests.training import tiny

ROOT = Path(__file__).parents[2]
LAUNCHERS = {
    "lightning": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"],
}

pytestmark = pytest.mark.slow


class BreaksInOneProcess(SceneDataset):
    """Scenes that one of the processes cannot read after a while."""

    def __getitem__(self, index: int) -> Any:
        if os.environ.get("LOCAL_RANK") == "1" and index == 31:
            raise DataError("scene 31: not readable here")
        return super().__getitem__(index)


def endless(**changes: Any) -> DictConfig:
    config = tiny.autoencoder(**changes)
    config.trainer.max_steps = 100_000
    config.trainer.devices = 2
    config.every = {"log": 1, "validation": 10_000, "checkpoint": 10_000, "images": 0}
    return config


class Started:
    """``scripts/train.py`` with two processes."""

    def __init__(self, launcher: str, config: DictConfig, folder: Path) -> None:
        self.run = folder / str(config.name)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
        self._output = folder / "output"
        command = [*LAUNCHERS[launcher], "scripts/train.py", str(folder / "config.yaml")]
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [*command, "--runs", str(folder)],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def train_a_while(self) -> None:
        until = time.monotonic() + 240
        while not (self.run / "metrics.jsonl").exists():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < until, self.output()
            time.sleep(0.1)

    def children(self) -> list[int]:
        own = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return [int(number) for number in Path(own).read_text().split()]

    def wait(self) -> int:
        return self.process.wait(240)

    def output(self) -> str:
        return self._output.read_text()

    def status(self) -> dict[str, Any]:
        return dict(json.loads((self.run / "status.json").read_text()))

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    started: list[Started] = []

    def make(launcher: str, config: DictConfig) -> Started:
        started.append(Started(launcher, config, tmp_path))
        return started[-1]

    yield make
    for one in started:
        one.end()


@pytest.mark.parametrize(
    ("launcher", "name", "who", "status"),
    [
        ("lightning", "SIGINT", "parent", 130),
        ("lightning", "SIGTERM", "child", 143),
        ("lightning", "SIGUSR1", "group", 138),
        ("torchrun", "SIGTERM", "parent", 1),
        ("torchrun", "SIGTERM", "child", 1),
    ],
)
def test_all_stop_after_the_same_step(
    start: Any, launcher: str, name: str, who: str, status: int
) -> None:
    started = start(launcher, endless())
    started.train_a_while()
    number = signal.Signals[name]
    if who == "group":
        os.killpg(started.process.pid, number)
    else:
        os.kill(started.children()[-1] if who == "child" else started.process.pid, number)
    assert started.wait() == status, started.output()
    assert started.status()["state"] == "interrupted"
    saved = load_training_checkpoint(started.run / "checkpoints" / "last.ckpt")
    assert saved["global_step"] == started.status()["step"] > 0
    assert started.output().count("interrupted at step") == 1


@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_what_fails_in_another_process_is_said_once(start: Any, launcher: str) -> None:
    config = endless()
    config.data.params.train.target = f"{__name__}.BreaksInOneProcess"
    started = start(launcher, config)
    assert started.wait() == {"lightning": 2, "torchrun": 1}[launcher], started.output()
    assert started.output().count("error: scene 31: not readable here") == 1
    lost = started.output().count("error: another process of this training failed")
    assert lost == {"lightning": 1, "torchrun": 0}[launcher]
    if launcher == "lightning":
        assert started.status()["state"] == "failed"


def test_all_go_on_from_the_checkpoint_that_one_has_chosen(start: Any, tmp_path: Path) -> None:
    """Torchrun starts both at once: the other must not meet a file that is being set aside."""
    config = endless()
    config.trainer.max_steps, config.every.checkpoint = 4, 2
    started = start("torchrun", config)
    assert started.wait() == 0, started.output()
    last = started.run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    command = [*LAUNCHERS["torchrun"], "scripts/train.py", "--resume", str(started.run)]
    done = subprocess.run(
        [*command, "trainer.max_steps=5"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("last.ckpt is damaged") == 1
    assert (started.status()["state"], started.status()["step"]) == ("complete", 5)
    assert started.status()["resumes"][0]["from"] == "previous.ckpt"


def test_what_fails_in_all_processes_is_said_once(start: Any) -> None:
    started = start("torchrun", endless(trainer={"accelerator": "abacus"}))
    assert started.wait() == 1
    assert started.output().count("error: trainer: ") == 1


def test_two_computers_write_one_run(tmp_path: Path) -> None:
    """Started without torchrun, one process on each; here both are this computer."""
    config = endless(trainer={"num_nodes": 2})
    config.trainer.devices, config.trainer.max_steps = 1, 2
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    command = [sys.executable, "scripts/train.py", str(tmp_path / "config.yaml")]
    nodes = [
        subprocess.Popen(
            [*command, "--runs", str(tmp_path)],
            cwd=ROOT,
            env=os.environ | address | {"NODE_RANK": str(number), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    try:
        said = [node.communicate(timeout=240)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], said
    assert ["complete at step 2" in text for text in said] == [True, False]
