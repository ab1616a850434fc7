"""Steps of stage 2 whose loss or gradient is not finite: named, left out, and without any trace."""

from __future__ import annotations

import json
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ldm.autoencoders.base import Deterministic
from ldm.checkpoint import load_training_checkpoint
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError, TrainingError
from ldm.training.callbacks.ema import EMACallback
from ldm.training.callbacks.images import EpochOfData
from ldm.training.callbacks.metrics import MetricsLog
from ldm.training.data.module import DataModule
from ldm.training.nan_guard import MAX_SKIPPED, StepGuard, clip_gradients, gradient_norms
from ldm.training.tasks.latent_diffusion import LatentDiffusionTask
from ldm.visualization.curves import read_metrics
from tests.training.launched import launch


class Pixels(nn.Module):
    """An autoencoder that changes nothing."""

    downsampling_factor = 1
    latent_channels = 3

    def encode(self, x: Tensor) -> Deterministic:
        return Deterministic(x)

    def decode(self, z: Tensor) -> Tensor:
        return z


class Pointwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor, t: Tensor, context: Any = None, y: Any = None) -> Tensor:
        return self.second(self.first(x))


class Images(Dataset[dict[str, Any]]):
    """Images of noise, some of them broken, with or without a name."""

    def __init__(self, broken: dict[int, float], named: bool, count: int) -> None:
        self.broken, self.named, self.count = broken, named, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(index))
        item = {"image": image * self.broken.get(index, 1.0)}
        return item | {"path": f"{index}.png"} if self.named else item


class Record(pl.Callback):
    """What a checkpoint would hold, after every batch."""

    def __init__(self, ema: EMACallback) -> None:
        self.ema, self.states, self.scales = ema, [], []

    def on_train_batch_end(self, trainer: Any, task: Any, *_: Any) -> None:
        assert self.ema.ema is not None
        optimizer = trainer.optimizers[0].state_dict()["state"]
        tensors = dict(task.model.state_dict()) | self.ema.ema.shadow
        tensors = {f"model {k}": v.clone() for k, v in tensors.items()}
        tensors |= {f"ema {k}": v.clone() for k, v in self.ema.ema.shadow.items()}
        tensors |= {
            f"{i} {k}": v.clone() for i, state in optimizer.items() for k, v in state.items()
        }
        tensors["updates"] = torch.tensor(self.ema.ema.num_updates)
        self.states.append(tensors)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            self.scales.append(scaler.get_scale())


def _loader(broken: dict[int, float], named: bool, batches: int) -> DataLoader[Any]:
    return DataLoader(Images(broken, named, 4 * batches), batch_size=4)


def _fit(
    broken: dict[int, float],
    named: bool = True,
    batches: int = 4,
    on_nonfinite: str = "skip",
    prepare: Any = lambda _task: None,
    data: Any = lambda *items: {"train_dataloaders": _loader(*items)},
    **options: Any,
) -> Record:
    torch.manual_seed(0)
    model = LatentDiffusion(Pointwise(), Pixels(), NoiseSchedule(timesteps=20))

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.5)

    task = LatentDiffusionTask(model, optimizer, gradient_clip=1.0, on_nonfinite=on_nonfinite)
    prepare(task)
    ema = EMACallback(0.9)
    record = Record(ema)
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[EpochOfData(), ema, record],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **({"max_epochs": 1, "logger": False} | options),
    )
    trainer.fit(task, **data(broken, named, batches))
    return record


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if "not finite" in r.message]


def test_a_broken_item_is_named_and_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    """Weights, buffers, average and optimiser are, to the bit, what they were before."""
    states = _fit({9: float("nan"), 10: float("inf")}).states
    (message,) = _told(caplog)
    assert message.startswith(
        "step 3: loss_simple, loss, gradient not finite (NaN or infinite): the loss of 2 of 4 "
        "items, 9.png, 10.png, at t = "
    )
    assert message.endswith(": batch left out")
    assert _same(states[1], states[2])
    assert not _same(states[0], states[1])
    assert not _same(states[2], states[3])
    assert all(value.isfinite().all() for value in states[3].values())


def test_items_without_names_are_told_by_their_places(caplog: pytest.LogCaptureFixture) -> None:
    _fit({5: float("nan")}, named=False)
    assert ": the loss of 1 of 4 items, position 1, at t = " in _told(caplog)[0]


@pytest.mark.parametrize("parts", [1, 2])
def test_shuffled_items_are_told_by_their_rows(
    caplog: pytest.LogCaptureFixture, parts: int
) -> None:
    """Once in each epoch: the row of the training set that is broken."""

    def shuffled(broken: dict[int, float], named: bool, batches: int) -> dict[str, Any]:
        images = Images(broken, named, 4 * batches)
        return {"datamodule": DataModule(images, images, batch_size=8)}

    _fit(
        {9: float("nan")},
        named=False,
        batches=8,
        data=shuffled,
        accumulate_grad_batches=parts,
        max_epochs=3,
        use_distributed_sampler=False,
    )
    told = _told(caplog)
    assert len(told) == 3
    assert all(": the loss of 1 of 8 items, row 9, at t = " in message for message in told)


def test_the_time_steps_of_the_broken_items_are_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LatentDiffusion.training_loss

    def fixed(self: Any, z: Tensor, cond: Any, t: Tensor, noise: Tensor) -> Any:
        return original(self, z, cond, torch.tensor([3, 17, 5, 11]), noise)

    monkeypatch.setattr(LatentDiffusion, "training_loss", fixed)
    _fit({0: float("nan"), 3: float("nan")}, batches=1)
    assert "0.png, 3.png, at t = 3 to 11" in _told(caplog)[0]


def _explode(call: int) -> Any:
    """The gradient of one parameter becomes infinite at some step."""

    def prepare(task: Any) -> None:
        calls = []

        def hook(gradient: Tensor) -> Tensor:
            calls.append(1)
            return gradient * float("inf") if len(calls) == call else gradient

        task.model.denoiser.second.bias.register_hook(hook)

    return prepare


def test_an_infinite_gradient_of_a_finite_loss_is_named(caplog: pytest.LogCaptureFixture) -> None:
    states = _fit({}, prepare=_explode(2)).states
    (message,) = _told(caplog)
    assert message.startswith(
        "step 2: gradient not finite (NaN or infinite): the losses of all 4 items are finite, "
        "4.png, 5.png, 6.png, 7.png, the gradient of denoiser.second.bias and 0 more parameters "
        "is not, at t = "
    )
    assert _same(states[0], states[1])
    assert not _same(states[1], states[2])


def test_accumulated_batches_stand_and_fall_together(caplog: pytest.LogCaptureFixture) -> None:
    states = _fit({9: float("nan")}, batches=6, accumulate_grad_batches=2).states
    (message,) = _told(caplog)
    assert message.startswith("step 2: ")
    assert ": the loss of 1 of 8 items, 9.png, at t = " in message
    assert _same(states[1], states[3])
    assert not _same(states[3], states[5])


def test_stopping_names_the_step() -> None:
    with pytest.raises(TrainingError, match=r"step 3: loss_simple.* 9\.png.* can be resumed"):
        _fit({9: float("nan")}, on_nonfinite="stop")
    with pytest.raises(ConfigError, match="must be 'skip' or 'stop', got 'ignore'"):
        _fit({}, on_nonfinite="ignore")


def test_a_step_that_was_left_out_has_a_row_of_its_own(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    _fit({9: float("nan")}, logger=log, log_every_n_steps=1)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "train/lr" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["train/grad_norm"] is None for row in rows] == [False, False, True, False]


def test_training_stops_if_nothing_goes_any_more() -> None:
    broken = {index: float("nan") for index in range(4 * 20)}
    with pytest.raises(TrainingError, match=rf"for the {MAX_SKIPPED + 1}th batch in a row"):
        _fit(broken, batches=20)
    for index in range(0, 4 * 20, 16):  # now and then one that is good
        for i in range(4):
            del broken[index + i]
    assert len(_fit(broken, batches=20).states) == 20


def _half() -> MixedPrecision:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=1000)
    return MixedPrecision("16-mixed", "cpu", scaler)


def test_overflow_that_a_scaler_finds_is_normal(caplog: pytest.LogCaptureFixture) -> None:
    record = _fit({}, batches=24, plugins=[_half()])
    assert _told(caplog) == []
    assert record.scales[0] < 2.0**24  # there was one
    assert not _same(record.states[0], record.states[-1])  # and it found its scale


def test_a_broken_item_is_also_found_under_a_scaler(caplog: pytest.LogCaptureFixture) -> None:
    record = _fit({81: float("nan")}, batches=24, plugins=[_half()])
    (message,) = _told(caplog)
    assert message.startswith("step 21: loss_simple, loss not finite")
    assert "81.png" in message
    assert _same(record.states[19], record.states[20])
    assert record.states[-1]["updates"] == 23


def test_clipping_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (7,), (2, 2, 2)]
    ours = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    theirs = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for limit in (0.1, 100.0):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        norm = torch.linalg.vector_norm(gradient_norms(ours))
        clip_gradients(ours, norm, limit)
        assert torch.equal(norm, nn.utils.clip_grad_norm_(theirs, limit))
        for a, b in zip(ours, theirs, strict=True):
            assert a.grad is not None
            assert torch.equal(a.grad, b.grad)


class _Weighted(nn.Module):
    """Calls its weighting as a diffusion model does."""

    def __init__(self) -> None:
        super().__init__()
        self.weighting = nn.Identity()
        self.weighting.forward = lambda losses, t: losses.mean()  # type: ignore[method-assign]

    def forward(self, losses: Tensor, t: Tensor) -> Tensor:
        return self.weighting(losses, t)


def _process(rank: int, folder: str) -> None:
    logging.basicConfig(filename=f"{folder}/{rank}.log", force=True)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    guard, model = StepGuard(), _Weighted()
    outcomes = []
    for broken in (None, 1, None):
        losses = torch.ones(3)
        if rank == broken:
            losses[2] = float("nan")
        names = [f"{rank}-{i}.png" for i in range(3)]
        with guard.watching(model, {"path": names}) as watched:
            watched.terms = {"loss": model(losses, torch.tensor([1, 2, 3]))}
        outcomes.append(guard.admits(4, torch.ones(2), []))
    Path(f"{folder}/{rank}.txt").write_text(str(outcomes))
    dist.destroy_process_group()


def test_processes_decide_alike_and_each_names_its_items(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # nothing to import again
    processes = [context.Process(target=_process, args=(r, str(tmp_path))) for r in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=200)
        assert process.exitcode == 0
    assert [(tmp_path / f"{r}.txt").read_text() for r in range(2)] == ["[True, False, True]"] * 2
    log = (tmp_path / "0.log").read_text()
    assert "step 4: loss not finite" in log
    assert "process 1: the loss of 1 of 3 items, 1-2.png, at t = 3 to 3" in log
    assert "process 0" not in log  # it is not to blame


HERE = "tests.training.test_nan_guard"


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_after_a_broken_item(tmp_path: Path) -> None:
    """Only one of them sees it; if they did not agree, the other would wait for ever."""
    images = {"target": f"{HERE}.Images", "params": {"named": True, "count": 16}}
    parts = {
        "denoiser": {"target": f"{HERE}.Pointwise", "params": {}},
        "autoencoder": {"target": f"{HERE}.Pixels", "params": {}},
        "schedule": {
            "target": "ldm.diffusion.NoiseSchedule",
            "params": {"timesteps": 20},
        },
    }
    config = {
        "name": "run",
        "model": {"target": "ldm.diffusion.LatentDiffusion", "params": parts},
        "task": {
            "target": "ldm.training.LatentDiffusionTask",
            "params": {
                "model": "${model}",
                "optimizer": {"target": "torch.optim.AdamW", "partial": True, "params": {}},
                "preview_steps": 2,
            },
        },
        "data": {
            "target": "ldm.training.DataModule",
            "params": {
                "batch_size": 8,
                "train": OmegaConf.merge(images, {"params": {"broken": {5: float("nan")}}}),
                "validation": OmegaConf.merge(images, {"params": {"broken": {}}}),
            },
        },
        "trainer": {"max_steps": 6, "accelerator": "cpu"},
        "every": {"log": 1, "validation": 6, "checkpoint": 6, "images": 0},
        "ema_decay": 0.9,
    }
    run = launch(OmegaConf.create(config), 2, tmp_path)
    said = (tmp_path / "stderr").read_text().splitlines()
    told = [line for line in said if "not finite" in line]
    assert len({line.partition(":")[0] for line in told}) == 3  # once in each epoch of two steps
    assert all(": the loss of 1 of 4 items, 5.png, at t = " in line for line in told)
    saved = load_training_checkpoint(run / "checkpoints" / "last.ckpt")
    tensors = [*saved["state_dict"].values(), *saved["ema"]["shadow"].values()]
    assert all(tensor.isfinite().all() for tensor in tensors)
    assert saved["ema"]["num_updates"] == 3
    speed = read_metrics(run / "metrics.jsonl")["perf/images_per_second"]
    assert [step for step, _ in speed] == [3, 4, 5, 6]
