"""Every kind of part can live outside ``ldm``: this module is such an outside.

Each part below is one class that keeps a contract of docs/architecture.md; a YAML names it by its
dotted path. Nothing in ``ldm`` is changed or registered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import Dataset

from ldm.autoencoders.base import Deterministic
from ldm.conditioners.base import Conditioner
from ldm.config import instantiate
from ldm.config.trust import UntrustedError
from ldm.diffusion.sampling import Denoise, NoiseSource, Project, Step
from ldm.diffusion.schedule import NoiseSchedule
from ldm.evaluation.metrics.fid import FeatureStatistics, frechet_distance
from ldm.evaluation.networks.base import FeatureNetwork, features_of
from ldm.evaluation.networks.resizing import to_uint8
from ldm.load.model import load_model
from ldm.samplers.noise import SeededNoise
from ldm.training.run import train
from ldm.training.run_folder import RunFolder

HERE = "tests.test_extension"


class Pixels(Dataset[dict[str, Any]]):
    """A data set: images of one brightness, which is also the condition."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        value = torch.tensor([index / 4 - 1])
        return {"image": value.expand(3, 8, 8).clone(), "brightness": value}


class Pool(nn.Module):
    """An autoencoder: average pooling and nearest neighbours."""

    downsampling_factor = 2
    latent_channels = 3

    def encode(self, x: Tensor) -> Deterministic:
        return Deterministic(nn.functional.avg_pool2d(x, 2))

    def decode(self, z: Tensor) -> Tensor:
        return nn.functional.interpolate(z, scale_factor=2)


class Brightness(Conditioner):
    """A conditioner: one number as a token."""

    def __init__(self) -> None:
        super().__init__("brightness", "crossattn", drop_prob=0.1)
        self.project = nn.Linear(1, 4)

    def forward(self, value: Tensor) -> Tensor:
        return self.project(value)[:, None]

    def null(self, n: int, like: Tensor) -> Tensor:
        return torch.zeros(n, 1, device=like.device)


class Pointwise(nn.Module):
    """A denoiser."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
        self.context = nn.Linear(4, 3)

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor | None = None, y: Tensor | None = None
    ) -> Tensor:
        assert context is not None
        return self.layer(x) + self.context(context.mean(1))[:, :, None, None]


class Squares(NoiseSchedule):
    """A noise schedule."""

    def __init__(self, timesteps: int) -> None:
        super().__init__(betas=[0.01 + 0.02 * i / timesteps for i in range(timesteps)])


class Score:
    """A prediction type: the score, -eps / sigma."""

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return -noise / schedule.sigma(t, noise)

    def to_x0_eps(
        self, output: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule
    ) -> tuple[Tensor, Tensor]:
        eps = -output * schedule.sigma(t, output)
        return schedule.x0_from_eps(x_t, eps, t), eps


class Late(nn.Module):
    """A loss weighting that looks at noisy steps only."""

    def forward(
        self, losses: Tensor, t: Tensor, schedule: NoiseSchedule, prediction: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        weight = (t > schedule.timesteps // 2).float()
        return (weight * losses).mean(), {"weight": weight.mean()}


@dataclass(frozen=True)
class OneStep:
    """A sampler: believe the first estimate."""

    def times(self, schedule: NoiseSchedule) -> Tensor:
        return torch.tensor([schedule.timesteps - 1])

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        schedule: NoiseSchedule,
        noise: NoiseSource,
        project: Project | None = None,
        begin: int = 0,
    ) -> Iterator[Step]:
        t = int(self.times(schedule))
        x0, _ = denoise(x, torch.full((len(x),), t))
        yield Step(0, t, x0, x0)


class MeanColour(FeatureNetwork):
    """A feature network for the metrics."""

    def __init__(self) -> None:
        super().__init__({"features": 3})

    def embed(self, images: Tensor) -> dict[str, Tensor]:
        return {"features": images.mean((2, 3))}


CONFIG = f"""
name: extension
model:
  target: ldm.diffusion.LatentDiffusion
  params:
    autoencoder: {{target: {HERE}.Pool}}
    denoiser: {{target: {HERE}.Pointwise}}
    conditioners: [{{target: {HERE}.Brightness}}]
    schedule: {{target: {HERE}.Squares, params: {{timesteps: 10}}}}
    prediction: {{target: {HERE}.Score}}
    weighting: {{target: {HERE}.Late}}
task:
  target: ldm.training.LatentDiffusionTask
  params:
    model: ${{model}}
    optimizer: {{target: torch.optim.SGD, partial: true, params: {{lr: 0.01}}}}
    preview_steps: 2
data:
  target: ldm.training.DataModule
  params:
    batch_size: 4
    train: {{target: {HERE}.Pixels}}
    validation: {{target: {HERE}.Pixels}}
trainer: {{max_steps: 2, accelerator: cpu}}
every: {{log: 1, validation: 2, checkpoint: 2, images: 2}}
"""


def test_every_part_can_come_from_outside(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "extension")
    train(OmegaConf.create(CONFIG), folder)
    with pytest.raises(UntrustedError, match=HERE):  # a run may be that of somebody else
        load_model(folder.path)
    model: Any = load_model(folder.path, trust=True)
    sampler = instantiate({"target": f"{HERE}.OneStep"})
    images = model.sample(
        {"brightness": torch.zeros(5, 1)},
        size=(8, 8),
        sampler=sampler,
        noise=SeededNoise(range(5)),
        guidance_scale=2.0,
    )
    assert images.shape == (5, 3, 8, 8)
    network = instantiate({"target": f"{HERE}.MeanColour"})
    real = torch.stack([Pixels()[i]["image"] for i in range(8)])
    statistics = [
        FeatureStatistics(3).update(features_of(network, list(to_uint8(batch)))["features"])
        for batch in (real, images)
    ]
    assert frechet_distance(*statistics) > 0
