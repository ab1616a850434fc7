"""Numbers that a running training tells, by a clock that only known work moves."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.profilers import SimpleProfiler
from torch import Tensor, nn

from ldm.errors import ConfigError
from ldm.training.callbacks.images import PictureGrid
from ldm.training.callbacks.metrics import MetricsLog
from ldm.training.callbacks.throughput import Meter, Throughput
from ldm.training.run import train
from ldm.training.run_folder import RunFolder
from ldm.visualization.curves import read_metrics
from tests.training import tiny
from tests.training.clock import Clock, SlowData, SlowTask

FLOPS = 2 * 2 * 48  # of an image: forward, and the gradient of the weight


class Counts(Throughput):
    """Remembers in which batches operations were counted."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(1, meter=Meter(clock))
        self.counted: list[bool] = []

    def _work(self, begins: bool) -> None:
        super()._work(begins)
        if not begins:
            self.counted.append(self._counting is not None)


def _fit(
    tmp_path: Path,
    clock: Clock,
    throughput: Throughput,
    seconds: float = 0.25,
    ckpt_path: str | None = None,
    callbacks: tuple[pl.Callback, ...] = (),
    **options: Any,
) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[throughput, *callbacks],
        logger=[MetricsLog(tmp_path / "metrics.jsonl")],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        default_root_dir=tmp_path,
        **({"max_epochs": -1, "enable_checkpointing": bool(callbacks)} | options),
    )
    trainer.fit(SlowTask(clock), datamodule=SlowData(clock, seconds), ckpt_path=ckpt_path)
    return trainer


def _curves(tmp_path: Path) -> dict[str, list[tuple[int, float]]]:
    return read_metrics(tmp_path / "metrics.jsonl")


def test_validation_is_no_training(tmp_path: Path) -> None:
    """A batch waits 1 s and works 3 s; validation, after every second, takes 108 s."""
    clock = Clock()
    throughput = Throughput(every=2, peak_tflops=1e-9, meter=Meter(clock))
    _fit(tmp_path, clock, throughput, max_steps=8, val_check_interval=2)
    curves = _curves(tmp_path)
    for name, value in {
        "images_per_second": 1.0,
        "data_wait": 0.25,
        "tflops": FLOPS / 1e12,
        "mfu": FLOPS / 1e3,
    }.items():
        steps, values = zip(*curves[f"perf/{name}"], strict=True)
        assert steps == (4, 6, 8), name  # the first two batches are left out
        assert values == pytest.approx([value] * 3), name
    overhead = [value for _, value in curves["perf/overhead"]]
    assert overhead == pytest.approx([108 / 116] * 3)
    assert 0.05 < dict(curves["perf/memory_gb"])[8] < 64  # of a process that has loaded torch


def test_checkpoints_and_pictures_are_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    throughput = Throughput(every=4, meter=Meter(clock))

    class Save(ModelCheckpoint):
        def on_save_checkpoint(self, *_: Any) -> None:
            clock.now += 50

    def preview(_task: Any, _batch: Any) -> Tensor:
        clock.now += 10
        return torch.zeros(1, 3, 4, 4)

    monkeypatch.setattr(SlowTask, "preview", preview, raising=False)
    monkeypatch.setattr(SlowData, "val_dataloader", lambda _data: [{}])
    save = Save(tmp_path / "checkpoints", every_n_train_steps=3)
    draw = PictureGrid(tmp_path / "samples", 2, pause=throughput.stand_still)
    options = {"max_steps": 4, "limit_val_batches": 0}
    _fit(tmp_path, clock, throughput, callbacks=(draw, save), **options)
    curves = _curves(tmp_path)
    assert curves["perf/images_per_second"] == [(4, pytest.approx(1.0))]
    assert curves["perf/overhead"] == [(4, pytest.approx(60 / 68))]  # a picture at step 2
    assert "perf/mfu" not in curves  # nobody knows the peak of a CPU


def test_accumulated_batches_and_epochs_are_counted(tmp_path: Path) -> None:
    clock = Clock()
    throughput = Throughput(every=1, meter=Meter(clock))
    _fit(tmp_path, clock, throughput, max_steps=10, accumulate_grad_batches=2, val_check_interval=9)
    curves = _curves(tmp_path)
    steps, values = zip(*curves["perf/images_per_second"], strict=True)
    assert steps == tuple(range(2, 11))  # an epoch has eight batches
    assert values == pytest.approx([1.0] * 9)
    assert dict(curves["perf/tflops"])[10] == pytest.approx(FLOPS / 1e12)


def test_a_resumed_run_measures_from_where_it_goes_on_and_counts_no_more(tmp_path: Path) -> None:
    """Counting makes torch.compile step aside: a batch would be computed in another way."""
    clock = Clock()
    checkpoint = tmp_path / "last.ckpt"
    trainer = _fit(tmp_path, clock, Counts(clock), max_steps=3)
    trainer.save_checkpoint(checkpoint)
    clock.now += 1000
    again = Counts(clock)
    _fit(tmp_path, clock, again, ckpt_path=str(checkpoint), max_steps=6)
    assert again.counted == [False] * 3
    curves = _curves(tmp_path)
    assert curves["perf/images_per_second"] == [(3, pytest.approx(1.0)), (6, pytest.approx(1.0))]
    assert curves["perf/tflops"] == [(step, pytest.approx(FLOPS / 1e12)) for step in (3, 6)]


def test_images_of_all_processes_and_operations_of_one(tmp_path: Path) -> None:
    clock = Clock()
    throughput = Throughput(every=1, peak_tflops=1.0, meter=Meter(clock))
    log = MetricsLog(tmp_path / "metrics.jsonl")
    trainer: Any = SimpleNamespace(
        world_size=4,
        global_step=0,
        loggers=[log],
        precision="32-true",
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    task, batch = SimpleNamespace(), {"image": torch.zeros(8, 3)}
    throughput.on_train_start(trainer, task)
    for step in (1, 2, 3):
        throughput.on_train_batch_start(trainer, task)
        throughput._work(True)
        nn.functional.linear(batch["image"], torch.zeros(5, 3))
        throughput._work(False)
        clock.now += 2
        trainer.global_step = step
        throughput.on_train_batch_end(trainer, task, None, batch)
    assert throughput.latest["images_per_second"] == 4 * 4
    assert throughput.latest["tflops"] == pytest.approx(4 * 30 / 1e12)
    assert throughput.latest["mfu"] == pytest.approx(4 * 30 / 1e12)


def test_operations_are_counted_anew_where_a_discriminator_begins(tmp_path: Path) -> None:
    """Not in every batch: the slow counting would be all there is to see."""
    clock = Clock()
    throughput = Counts(clock)
    task = SlowTask(clock)
    task.objective = SimpleNamespace(adversarial=lambda step: step >= 2)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=5,
        callbacks=[throughput],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(task, datamodule=SlowData(clock, 0))
    assert throughput.counted == [True, False, True, False, False]


def test_the_user_is_told_once_of_a_loader_that_is_too_slow(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for seconds, times in ((0.3, 0), (0.4, 1)):  # 1.2 s of 4.2, 1.6 s of 4.6
        clock = Clock()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            throughput = Throughput(1, meter=Meter(clock), window=10)
            _fit(tmp_path, clock, throughput, seconds, max_steps=20)
        told = [r.message for r in caplog.records if "waits for data" in r.message]
        assert len(told) == times
    assert "35 % of the time: raise data.params.num_workers (now 0;" in told[0]


def test_a_profiler_of_lightning_still_gets_all(tmp_path: Path) -> None:
    clock = Clock()
    profiler = SimpleProfiler()
    throughput = Throughput(1, meter=Meter(clock))
    _fit(tmp_path, clock, throughput, max_steps=3, profiler=profiler)
    assert len(profiler.recorded_durations["run_training_batch"]) == 3
    assert "run_training_batch" in profiler.summary()


def test_an_error_in_a_batch_leaves_nobody_counting(tmp_path: Path) -> None:
    clock = Clock()

    class Fails(SlowTask):
        def training_step(self, _batch: Any, _index: int) -> Any:
            raise MemoryError

    throughput = Throughput(1, meter=Meter(clock))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=2,
        callbacks=[throughput],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(MemoryError):
        trainer.fit(Fails(clock), datamodule=SlowData(clock, 0))
    counting = throughput._counting
    assert counting is not None
    before = counting.total
    nn.functional.linear(torch.ones(2, 3), torch.ones(4, 3))
    assert counting.total == before


def test_a_config_asks_for_a_profile_and_tells_the_peak(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    train(tiny.features(profile={"start": 1, "steps": 1}, peak_tflops=0.01), folder)
    curves = read_metrics(folder.metrics)
    assert [step for step, _ in curves["perf/mfu"]] == [3, 4]
    for _, share in curves["perf/mfu"]:
        assert 0 < share < 1
    for (_, tera), (_, share) in zip(curves["perf/tflops"], curves["perf/mfu"], strict=True):
        assert share == pytest.approx(tera / 0.01)
    assert len(list((folder.path / "profile").iterdir())) == 2


@pytest.mark.parametrize("peak", [0, -1, "fast", True])
def test_a_peak_is_a_number(tmp_path: Path, peak: Any) -> None:
    with pytest.raises(ConfigError, match="peak_tflops: expected a number above 0"):
        train(tiny.features(peak_tflops=peak), RunFolder(tmp_path / "run"))
