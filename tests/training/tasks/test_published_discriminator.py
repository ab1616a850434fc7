"""The discriminator of stage 1, trained as the original code trains it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from ldm.autoencoders.base import DiagonalGaussian
from ldm.checkpoint import load_training_checkpoint
from ldm.losses.adversarial import hinge_d_loss
from ldm.training.run import build, train
from ldm.training.run_folder import RunFolder
from ldm.visualization.curves import read_metrics
from tests.training import tiny

STEPS, START = 12, 5
NOT_LEARNED = ("running", "num_batches", "logvar", "k.bias")
"""Training does not read the first two; attention does not depend on the bias of its keys."""
ADAM = {"lr": 1e-3, "betas": [0.5, 0.9]}


class OneImage(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Four times the same: the order of a batch does not matter."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = torch.linspace(-1, 1, 3 * 16 * 16).view(3, 16, 16).sin()
        return {"image": image}


def settings(published: bool, **trainer: Any) -> Any:
    optimizer = {"target": "torch.optim.Adam", "partial": True, "params": ADAM}
    config = tiny.autoencoder(
        trainer={"max_steps": STEPS, "accelerator": "cpu", "limit_val_batches": 0} | trainer,
        every={"log": 1, "validation": 100, "checkpoint": 100, "images": 0},
        task={
            "params": {
                "optimizer": optimizer,
                "discriminator_optimizer": optimizer,
                "gradient_clip": None,
                "objective": {"params": {"disc_start": START}},
                "published_discriminator": published,
            }
        },
    )
    config.data.params.train = {"target": f"{__name__}.OneImage"}
    return config


def noise(number: int, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(number))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Numbers of the draws to come; pass 1 of step k draws number 2 k, pass 2 number 2 k + 1."""
    numbers: list[int] = []

    def sample(self: DiagonalGaussian, generator: Any = None) -> Tensor:
        return self.mean + self.std * noise(numbers.pop(0), self.mean)

    monkeypatch.setattr(DiagonalGaussian, "sample", sample)
    yield numbers
    assert not numbers


def original(task: Any, drawn: list[int]) -> None:
    """Train both networks as the original code does, written down plainly.

    Two optimisers take turns; each has a forward pass of its own, and a factor of 0 is multiplied,
    so that Adam counts those steps as well.
    """
    images = torch.stack([OneImage()[k]["image"] for k in range(4)])
    model, objective = task.model.train(), task.objective.train()
    first = torch.optim.Adam(model.parameters(), lr=ADAM["lr"], betas=ADAM["betas"])
    second = torch.optim.Adam(
        objective.discriminator.parameters(), first.defaults["lr"], (0.5, 0.9)
    )
    for step in range(STEPS):
        drawn += [2 * step, 2 * step + 1]
        factor = float(step >= START)
        output = model(images)
        nll = (images - output.image).abs().sum() / len(images)
        g_loss = -objective.discriminator(output.image).mean()
        norms = [
            torch.autograd.grad(loss, model.last_layer, retain_graph=True)[0].norm()
            for loss in (nll, g_loss)
        ]
        weight = 0.5 * (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()
        kl = output.posterior.kl().sum() / len(images)
        first.zero_grad()
        (nll + objective.kl_weight * kl + weight * factor * g_loss).backward()
        first.step()
        second.zero_grad()  # and with it what the step before left in the discriminator
        fake = model(images).image.detach()
        logits = objective.discriminator(images), objective.discriminator(fake)
        (factor * hinge_d_loss(*logits)).backward()
        second.step()


def test_it_is_the_original_training(tmp_path: Path, drawn: list[int]) -> None:
    config = settings(published=True)
    drawn += [k for k in range(2 * STEPS) if k % 2 == 0 or k >= 2 * START]
    folder = RunFolder(tmp_path / "run")
    train(config, folder)
    trained = load_training_checkpoint(folder.last)["state_dict"]
    pl.seed_everything(0, workers=True, verbose=False)  # as training does
    task, _ = build(config)
    begun = copy.deepcopy(task.state_dict())
    original(task, drawn)
    for name, value in task.state_dict().items():
        if any(part in name for part in NOT_LEARNED):
            continue
        assert value.ndim < 2 or not torch.equal(begun[name], value), name
        torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=2e-5, msg=name)


def test_without_it_training_is_another_one(tmp_path: Path, drawn: list[int]) -> None:
    ends = []
    for published in (True, False):
        drawn += [k for k in range(2 * STEPS) if k % 2 == 0 or (published and k >= 2 * START)]
        folder = RunFolder(tmp_path / f"{published}")
        train(settings(published), folder)
        ends.append(load_training_checkpoint(folder.last)["state_dict"])
    name = "objective.discriminator.main.0.weight"
    assert (ends[0][name] - ends[1][name]).abs().median() > 1e-4


def change(folder: RunFolder, begun: dict[str, Tensor]) -> Tensor:
    """By how much the discriminator's first kernel has moved."""
    name = "objective.discriminator.main.0.weight"
    return (load_training_checkpoint(folder.last)["state_dict"][name] - begun[name]).abs()


@pytest.mark.parametrize(("published", "first"), [(True, 0.5 / 0.1**0.5), (False, 1.0)])
def test_the_first_step_of_its_optimiser(tmp_path: Path, published: bool, first: float) -> None:
    """Empty steps have used up Adam's correction of its averages: 0.5 g / sqrt(0.1 g^2)."""
    many = {"max_steps": 80}  # 0.9^80 is next to nothing
    config = settings(published, **many)
    config.task.params.objective.params.disc_start = 79
    folder = RunFolder(tmp_path / "run")
    train(config, folder)
    pl.seed_everything(0, workers=True, verbose=False)
    moved = change(folder, build(config)[0].state_dict())
    assert moved.median() == pytest.approx(first * ADAM["lr"], rel=1e-3)
    assert [step for step, _ in read_metrics(folder.metrics)["train/disc_loss"]] == [80]


def test_parts_of_a_batch_and_a_restart(tmp_path: Path) -> None:
    """The second pass works in parts as well; a resumed run goes on as if it had not stopped."""
    ends = []
    for name, stops in (("whole", [STEPS]), ("parts", [STEPS]), ("resumed", [START + 2, STEPS])):
        folder = RunFolder(tmp_path / name)
        for k, stop in enumerate(stops):
            parts = 2 if name == "parts" else 1
            config = settings(True, max_steps=stop, accumulate_grad_batches=parts)
            train(config, folder, resume=k > 0)
        ends.append(load_training_checkpoint(folder.last)["state_dict"])
    for name, value in ends[0].items():
        assert torch.equal(value, ends[2][name]), name
    last = "model.decoder.conv_out.weight"
    torch.testing.assert_close(ends[1][last], ends[0][last], rtol=0, atol=5e-3)


def test_the_second_pass_teaches_no_codebook(tmp_path: Path) -> None:
    """The average of how many latents choose a code is that of one pass, 4 x 8 x 8 of them."""
    every = {"log": 1, "validation": 100, "checkpoint": 100, "images": 0}
    config = tiny.vq_autoencoder(trainer={"max_steps": 6, "limit_val_batches": 0}, every=every)
    config.model.params.quantizer.params |= {"ema_decay": 0.9, "restart_after": None}
    config.task.params.published_discriminator = True
    folder = RunFolder(tmp_path / "run")
    train(config, folder)
    state = load_training_checkpoint(folder.last)
    count = state["state_dict"]["model.quantize.ema_count"].sum()
    assert count == pytest.approx(256 - (256 - 16) * 0.9**6, rel=1e-5)
    steps = {int(s["step"]) for s in state["optimizer_states"][1]["state"].values()}
    assert steps == {6}, "steps without a gradient count as well"
