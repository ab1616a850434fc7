"""Helpers for golden diffusion cases: the model that a file describes, and its recorded noise."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ldm.autoencoders.identity import AutoencoderIdentity
from ldm.denoisers.unet import UNet
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.loss_weighting import LogVariance
from ldm.diffusion.prediction import X0, Eps
from ldm.diffusion.schedule import NoiseSchedule
from tests.parity import Case

PREFIX = "model.diffusion_model."


def build_unet(case: Case) -> UNet:
    """The UNet of a golden case with its weights, in eval mode like the original's."""
    config = {k: v for k, v in case.config["unet"].items() if k != "image_size"}
    unet = UNet(**config)
    weights = {k.removeprefix(PREFIX): v for k, v in case.weights.items()}
    unet.load_state_dict(weights, strict=True)
    return unet.eval()


def build_schedule(config: dict[str, Any]) -> NoiseSchedule:
    """A "linear" schedule from the original's argument names."""
    names = {"timesteps": "timesteps", "linear_start": "start", "linear_end": "end"}
    return NoiseSchedule(**{names[k]: v for k, v in config.items()})


def build_model(
    case: Case, schedule: dict[str, Any], variant: dict[str, Any] | None = None
) -> LatentDiffusion:
    """The case's UNet in latent diffusion on an identity first stage, without conditioners."""
    variant = dict(variant or {})
    config = build_schedule(schedule)
    weighting: nn.Module = LogVariance(
        timesteps=config.timesteps,
        init=variant.pop("logvar_init", 0.0),
        learn=variant.pop("learn_logvar", False),
        simple_weight=variant.pop("l_simple_weight", 1.0),
        elbo_weight=variant.pop("original_elbo_weight", 0.0),
    )
    prediction = {"eps": Eps(), "x0": X0()}[variant.pop("parameterization", "eps")]
    loss = variant.pop("loss_type", "l2")
    assert not variant, f"unused: {variant}"
    return LatentDiffusion(
        build_unet(case),
        AutoencoderIdentity(3),
        config,
        prediction=prediction,
        weighting=weighting,
        loss=loss,
    )


class RecordedNoise:
    """Gives recorded draws one after the other; without any, every draw is an error."""

    def __init__(self, draws: Tensor | None = None) -> None:
        self.draws = [] if draws is None else list(draws)

    def __call__(self, like: Tensor) -> Tensor:
        draw = self.draws.pop(0)
        assert draw.shape == like.shape
        return draw
