"""Each private part of Lightning that is used is there, and does what it is used for."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor
from torch.utils.data import DataLoader

from ldm.training import lightning_internals as internals


class Line(pl.LightningModule):
    """A line through the origin, with a logged loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.validated = 0

    def training_step(self, batch: Tensor, _index: int) -> Tensor:
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, _batch: Tensor, _index: int) -> None:
        self.validated += 1

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Actions(PassThroughProfiler):
    """Remembers of what a profiler is told."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def start(self, action_name: str) -> None:
        self.names.add(action_name)


class Watch(pl.Callback):
    """Uses the touches where training does, and keeps what came of them."""

    def __init__(self) -> None:
        self.listened = 0
        self.unlogged: list[dict[str, float]] = []
        self.handler: Any = None
        self.after_validation: Any = None

    def setup(self, trainer: Any, _task: Any, stage: str) -> None:
        internals.hand_signals_to(trainer, self._listen)

    def _listen(self) -> None:
        self.listened += 1

    def on_train_start(self, trainer: Any, task: Any) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)
        internals.skip_question_of_signals(trainer)
        internals.validate_now(trainer)
        self.after_validation = (task.validated, trainer.training)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.unlogged.append(internals.unlogged_metrics(trainer))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.Trainer, Watch]:
    watch, data = Watch(), DataLoader(torch.ones(4, 1), batch_size=2)
    trainer = pl.Trainer(
        max_steps=2,
        accelerator="cpu",
        callbacks=[watch],
        profiler=Actions(),
        logger=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        limit_val_batches=1,
        val_check_interval=2,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path_factory.mktemp("line"),
    )
    trainer.fit(Line(), data, data)
    return trainer, watch


def test_the_installed_version_is_one_that_was_tried() -> None:
    assert pl.__version__.startswith(internals.HOLDS_FOR), "run these tests, and then add it"


@pytest.mark.parametrize("name", internals.USED)
def test_a_version_without_a_name_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    internals.refuse_other_versions()
    monkeypatch.setitem(internals.USED, name, pl.Trainer.test)
    with pytest.raises(ImportError, match=f"has no {re.escape(name)} where"):
        internals.refuse_other_versions()


def test_signals_are_left_alone(seen: tuple[pl.Trainer, Watch]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert seen[1].listened == 1
    assert seen[1].handler is before


def test_other_processes_are_not_asked_for_signals(
    seen: tuple[pl.Trainer, Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(torch, "tensor", ask)
    seen[0].fit_loop.epoch_loop._broadcast_sigterm_tensor()


def test_numbers_of_a_batch_are_known_before_they_are_logged(
    seen: tuple[pl.Trainer, Watch],
) -> None:
    assert [entry.keys() for entry in seen[1].unlogged] == [{"loss"}] * 2


def test_validation_can_come_first(seen: tuple[pl.Trainer, Watch]) -> None:
    assert seen[1].after_validation == (1, True)


def test_a_profiler_is_told_of_waiting_and_of_work(seen: tuple[pl.Trainer, Watch]) -> None:
    profiler: Any = seen[0].profiler
    assert {internals.FETCH, internals.BATCH} <= profiler.names


def test_loops_are_written_in_the_words_of_lightning(seen: tuple[pl.Trainer, Watch]) -> None:
    trainer = seen[0]
    found = trainer.fit_loop.state_dict()
    written: dict[str, Any] = {}
    assert not internals.write_loops(trainer, written, 2, 0, 1, due=False)
    for key, value in written.items():
        for name, counts in value.items():
            assert type(counts) is type(found[key][name])
            if isinstance(counts, dict):
                assert counts.keys() == found[key][name].keys()
    assert written["epoch_loop.batch_progress"]["total"] == {
        "ready": 2,
        "started": 2,
        "processed": 2,
        "completed": 1,
    }


@pytest.mark.parametrize("scaled", [True, False])
def test_a_scaler_is_found(scaled: bool, tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu") if scaled else None
    plugin = MixedPrecision("16-mixed" if scaled else "bf16-mixed", "cpu", scaler)
    trainer = pl.Trainer(
        accelerator="cpu", plugins=[plugin], logger=False, default_root_dir=tmp_path
    )
    assert internals.loss_scaler(trainer) is scaler


def test_processes_that_lightning_started_are_taken_from_it(tmp_path: Path) -> None:
    trainer: Any = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", logger=False, default_root_dir=tmp_path
    )
    child = subprocess.Popen([sys.executable, "-c", ""])
    launcher = _SubprocessScriptLauncher(trainer.strategy.cluster_environment, 2, 1)
    launcher.procs.append(child)
    trainer.strategy._launcher = launcher
    assert internals.take_children(trainer) == [child]
    assert launcher.procs == []
    assert child.wait() == 0
