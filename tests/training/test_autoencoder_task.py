"""Stage-1 training: accumulation, broken batches, use of the codebook."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ldm.checkpoint import load_training_checkpoint
from ldm.config import instantiate
from ldm.data.scenes.dataset import SceneDataset
from ldm.errors import ConfigError, DataError, TrainingError
from ldm.layers.codebook import code_counts, perplexity
from ldm.load.model import load_model
from ldm.training.data.position import Position
from ldm.training.data.seeded import StepRandomness
from ldm.training.nan_guard import MAX_SKIPPED, FiniteGuard
from ldm.training.run import build, train
from ldm.training.run_folder import RunFolder
from ldm.visualization.curves import read_metrics
from tests.parity import assert_close
from tests.training import tiny

HERE = "tests.training.test_autoencoder_task"


class ScenesWithNaN(Dataset[dict[str, Any]]):
    """Scenes of which some are broken."""

    def __init__(self, broken: list[int], length: int = 32) -> None:
        self.scenes = SceneDataset(resolution=16, length=length, split="train", num_objects=(1, 1))
        self.broken = broken

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.scenes[index]
        return item | {"image": item["image"] * float("nan")} if index in self.broken else item


class NaNForReal(nn.Module):
    """A discriminator whose logits are NaN wherever it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Conv2d(3, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        trained = self.kernel.weight.requires_grad and torch.is_grad_enabled()
        return self.kernel(x) * (float("nan") if trained else 1.0)


class BrokenFrom(nn.Module):
    """A perceptual distance that is infinite from its n-th call in training on."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.call = call
        self.calls = 0

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        distance = (x - y).square().mean((1, 2, 3), keepdim=True)
        if torch.is_grad_enabled():
            self.calls += 1
        return distance * (float("inf") if self.calls >= self.call else 1.0)


def _with_nan(broken: list[int], on_nonfinite: str, **changes: Any) -> DictConfig:
    config = tiny.autoencoder(**changes)
    data = {"target": f"{HERE}.ScenesWithNaN", "params": {"broken": broken}}
    config.data.params.train = data
    config.task.params.on_nonfinite = on_nonfinite
    return config


def _all_finite(folder: RunFolder) -> bool:
    saved = load_training_checkpoint(folder.last)
    tensors = [*saved["state_dict"].values(), *saved["ema"]["shadow"].values()]
    tensors += [
        value
        for optimizer in saved["optimizer_states"]
        for state in optimizer["state"].values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


# -- accumulation ----------------------------------------------------------------------------


def _trained_weights(config: DictConfig, folder: RunFolder) -> dict[str, Tensor]:
    train(config, folder)
    return load_training_checkpoint(folder.last)["state_dict"]


def test_accumulated_parts_of_a_batch_train_like_the_whole(tmp_path: Path) -> None:
    """Without noise and discriminator the parts add up to the batch."""
    weights = []
    for parts in (1, 4):
        config = tiny.vq_autoencoder(trainer={"accumulate_grad_batches": parts, "max_steps": 3})
        config.task.params.objective.params.disc_start = 100
        # a plain gradient step: Adam would divide rounding by rounding where gradients vanish
        config.task.params.optimizer = {
            "target": "torch.optim.SGD",
            "partial": True,
            "params": {"lr": 0.1},
        }
        config.task.params.gradient_clip = None
        folder = RunFolder(tmp_path / str(parts))
        weights.append(_trained_weights(config, folder))
        assert folder.status()["step"] == 3
        curves = read_metrics(folder.metrics)
        assert [step for step, _ in curves["train/rec_loss"]] == [1, 2, 3]
    start = instantiate(tiny.vq_autoencoder().model).state_dict()
    moved = 0.0
    for key, value in weights[0].items():
        if key.startswith("model.") and value.is_floating_point():
            assert_close(weights[1][key], value, rtol=1e-4, what=key)
            moved += (value - start[key.removeprefix("model.")]).abs().max().item()
    assert moved > 0


def test_the_discriminator_accumulates_too(tmp_path: Path) -> None:
    config = tiny.autoencoder(trainer={"accumulate_grad_batches": 2})
    folder = RunFolder(tmp_path / "run")
    train(config, folder)
    assert folder.status()["step"] == 4
    assert [s for s, _ in read_metrics(folder.metrics)["train/disc_loss"]] == [3, 4]


def test_a_resumed_run_remembers_the_parts_that_balance_the_losses(tmp_path: Path) -> None:
    config = tiny.vq_autoencoder(trainer={"accumulate_grad_batches": 2, "max_steps": 4})
    folder = RunFolder(tmp_path / "run")
    train(config, folder)
    saved = load_training_checkpoint(folder.last)["gradients"]
    assert len(saved) == 2
    assert all(gradients.abs().sum() > 0 for gradients in saved)
    task = instantiate(config.task, "task")
    task.on_load_checkpoint({"gradients": saved})
    task.micro_batches = 2
    task.on_fit_start()
    assert all(map(torch.equal, task.objective.gradients, saved))
    assert task.objective.gradients.maxlen == 2


def test_parts_must_divide_the_batch() -> None:
    """Whatever size a data module of one's own gives it."""
    task = build(tiny.autoencoder())[0]
    task.micro_batches = 3
    with pytest.raises(ConfigError, match=r"accumulate_grad_batches: 3 parts .* it is 4"):
        task.training_step({"image": torch.zeros(4, 3, 16, 16)}, 0)


def test_the_autoencoders_pass_leaves_no_gradient_in_the_discriminator(tmp_path: Path) -> None:
    """Its optimiser sees the discriminator's own loss alone, also over several parts."""
    states = []
    for parts in (1, 2):
        config = tiny.autoencoder(trainer={"accumulate_grad_batches": parts, "max_steps": 3})
        task = instantiate(config.task, "task")
        images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        output = task.model(images)
        with task._frozen_discriminator():
            task.objective.generator(images, output, task.model.last_layer, 5)[0].backward()
        states.append([p.grad for p in task.objective.discriminator.parameters()])
    assert all(gradient is None for state in states for gradient in state)
    assert all(p.requires_grad for p in task.objective.discriminator.parameters())


# -- broken batches --------------------------------------------------------------------------


def test_a_broken_batch_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        train(_with_nan([5], "skip", trainer={"max_steps": 10}), folder)
    assert folder.status()["step"] == 10
    assert _all_finite(folder)
    warnings = [r.message for r in caplog.records if "batch left out" in r.message]
    assert warnings  # once per epoch of 8 batches
    assert all(w.startswith("step ") and ": images, reconstruction not" in w for w in warnings)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_stopping_names_step_and_term_and_keeps_the_checkpoint_good(
    tmp_path: Path, kind: str
) -> None:
    config = tiny.vq_autoencoder() if kind == "vq" else tiny.autoencoder()
    config.trainer.max_steps = 20
    config.every.checkpoint = 3
    config.task.params.on_nonfinite = "stop"
    objective = config.task.params.objective.params
    objective.perceptual = {"target": f"{HERE}.BrokenFrom", "params": {"call": 8}}
    objective.perceptual_weight = 1.0
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(TrainingError, match=r"step 8: .*p_loss.* not finite") as error:
        train(config, folder)
    assert "reconstruction" not in str(error.value)
    assert _all_finite(folder)
    assert load_training_checkpoint(folder.last)["global_step"] == 7
    x = torch.zeros(1, 3, 16, 16)
    assert load_model(folder.path)(x).image.isfinite().all()
    # and it can be resumed once the cause is gone
    config.task.params.objective.params.perceptual.params.call = 100
    config.trainer.max_steps = 9
    train(config, folder, resume=True)
    assert folder.complete
    assert folder.status()["step"] == 9


def test_training_stops_if_every_batch_is_broken(tmp_path: Path) -> None:
    config = _with_nan(list(range(32)), "skip", trainer={"max_steps": 30})
    with pytest.raises(TrainingError, match=rf"for the {MAX_SKIPPED + 1}th batch in a row"):
        train(config, RunFolder(tmp_path / "run"))


@pytest.mark.parametrize("config", [tiny.autoencoder(), tiny.class2img()])
def test_resuming_does_not_begin_to_count_anew(config: DictConfig) -> None:
    """Else a run that is lost would come to its end, a few batches at a time."""
    before, after = build(config)[0], build(config)[0]
    before.guard.in_a_row = MAX_SKIPPED
    checkpoint: dict[str, Any] = {}
    before.on_save_checkpoint(checkpoint)
    after.on_load_checkpoint(checkpoint)
    with pytest.raises(TrainingError, match=rf"for the {MAX_SKIPPED + 1}th batch in a row"):
        after.guard.passes(1, {"loss": torch.tensor(float("nan"))})


def test_guard_counts_broken_batches_in_a_row() -> None:
    guard = FiniteGuard()
    good, bad = {"a": torch.ones(3)}, {"a": torch.ones(3), "b": torch.tensor(float("inf"))}
    for step in range(3 * MAX_SKIPPED):
        assert not guard.passes(step, bad)
        assert guard.passes(step, good)
        guard.stepped()
    with pytest.raises(TrainingError, match="step 4: b not finite"):
        FiniteGuard("stop").passes(4, bad)
    with pytest.raises(ConfigError, match="must be 'skip' or 'stop', got 'ignore'"):
        FiniteGuard("ignore")


def test_a_broken_discriminator_loss_stops_training(tmp_path: Path) -> None:
    """Although the autoencoder goes on stepping, batch after batch."""
    config = tiny.autoencoder(trainer={"max_steps": 40})
    config.task.params.objective.params.discriminator = {
        "target": f"{HERE}.NaNForReal",
        "params": {},
    }
    with pytest.raises(TrainingError, match=rf"disc_loss.* for the {MAX_SKIPPED + 1}th batch"):
        train(config, RunFolder(tmp_path / "run"))


def test_codes_do_not_learn_from_a_batch_that_is_left_out(tmp_path: Path) -> None:
    """A run that stops at its second batch has the codes of one that was done after the first."""
    codes = []
    for steps, broken in ((1, 100), (5, 2)):
        config = tiny.vq_autoencoder(trainer={"max_steps": steps})
        config.model.params.quantizer.params |= {"ema_decay": 0.5, "restart_after": 1}
        config.task.params.on_nonfinite = "stop"
        objective = config.task.params.objective.params
        objective.perceptual = {"target": f"{HERE}.BrokenFrom", "params": {"call": broken}}
        objective.perceptual_weight = 1.0
        folder = RunFolder(tmp_path / str(steps))
        with pytest.raises(TrainingError, match="step 2") if broken == 2 else nullcontext():
            train(config, folder)
        saved = load_training_checkpoint(folder.last)["state_dict"]
        codes.append({k: v for k, v in saved.items() if "quantize" in k})
    assert folder.status()["state"] == "failed"
    assert codes[0]["model.quantize.ema_count"].sum() > 0
    for key, value in codes[0].items():
        assert torch.equal(value, codes[1][key]), key


# -- data that do not fit --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 17}, r"17x17 pixels.* multiples of .* f = 2: change image_size"),
        ({"resolution": [16, 19]}, "16x19 pixels"),
    ],
)
def test_sizes_are_checked_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = tiny.autoencoder()
    config.data.params.train.params |= changes
    with pytest.raises(DataError, match=message):
        train(config, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_channels_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    config = tiny.autoencoder()
    config.model.params.architecture.params.in_channels = 4
    with pytest.raises(DataError, match=r"3 channels, the model takes 4: set its in_channels"):
        train(config, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_weights_in_half_precision_are_refused(tmp_path: Path) -> None:
    config = tiny.autoencoder(trainer={"precision": "bf16-true"})
    with pytest.raises(ConfigError, match="bf16-mixed"):
        train(config, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# -- details of the two steps ----------------------------------------------------------------


def test_clipping_and_schedule_reach_whom_they_should(tmp_path: Path) -> None:
    """Gradients of the autoencoder are clipped, those of the discriminator not; both rates fall."""
    config = tiny.autoencoder(trainer={"max_steps": 3})
    params = config.task.params
    params.objective.params.disc_start = 0
    params.gradient_clip = 1e-9
    for name in ("optimizer", "discriminator_optimizer"):
        params[name] = {"target": "torch.optim.SGD", "partial": True, "params": {"lr": 1.0}}
    params.lr_schedule = {
        "target": "ldm.training.WarmupCosine",
        "params": {"warmup_steps": 0, "decay_steps": 10, "end": 0.0},
    }
    folder = RunFolder(tmp_path / "run")
    torch.manual_seed(0)
    train(config, folder)
    saved = load_training_checkpoint(folder.last)
    pl_seeded = instantiate_like(config)
    moved = {"model": 0.0, "discriminator": 0.0}
    for key, value in saved["state_dict"].items():
        for part in moved:
            if part in key and key in pl_seeded and value.is_floating_point():
                moved[part] = max(moved[part], (value - pl_seeded[key]).abs().max().item())
    assert moved["model"] < 1e-7
    assert moved["discriminator"] > 1e-4
    rates = [state["param_groups"][0]["lr"] for state in saved["optimizer_states"]]
    assert rates[0] == rates[1] < 0.9


def instantiate_like(config: DictConfig) -> dict[str, Tensor]:
    """The parameters with which ``train`` begins."""
    import pytorch_lightning as pl

    pl.seed_everything(config.seed, workers=True, verbose=False)
    task = instantiate(config.task, "task")
    return {key: value.detach() for key, value in task.named_parameters()}


def test_validation_repeats_its_noise(tmp_path: Path) -> None:
    config = tiny.autoencoder(trainer={"max_steps": 1})
    task = instantiate(config.task, "task").eval()
    batch = {"image": torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
    logged: list[dict[str, Tensor]] = []
    task.log_dict = lambda values, **_: logged.append(values)
    task._trainer = SimpleNamespace(global_step=0)
    with torch.no_grad():
        trainer = SimpleNamespace(datamodule=None, global_rank=0)
        for step in range(2):
            task.generator = torch.Generator().manual_seed(step)  # as training leaves it
            StepRandomness(step, Position()).on_validation_batch_start(trainer, task, batch, 3)
            task.validation_step(batch, 3)
    assert logged[0]["val/psnr"] == logged[1]["val/psnr"]


# -- the codebook ----------------------------------------------------------------------------


def test_use_of_the_codebook_is_measured_over_the_whole_set(tmp_path: Path) -> None:
    config = tiny.vq_autoencoder(ema_decay=None, trainer={"max_steps": 8})
    config.data.params.validation.params.length = 12  # three batches
    config.every.validation = 8
    folder = RunFolder(tmp_path / "run")
    train(config, folder)
    curves = read_metrics(folder.metrics)
    assert len(curves["train/epoch_perplexity"]) == 1
    model: Any = load_model(folder.path)
    loader = DataLoader(instantiate(config.data).validation, batch_size=5)
    counts = sum(code_counts(model(batch["image"]).indices, 16) for batch in loader)
    assert isinstance(counts, Tensor)
    step, value = curves["val/epoch_perplexity"][-1]
    assert step == 8
    assert_close(torch.tensor(value), perplexity(counts), rtol=1e-4)
    assert curves["val/codebook_usage"][-1][1] == pytest.approx((counts > 0).float().mean().item())
