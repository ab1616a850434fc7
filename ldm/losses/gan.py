"""Losses of the discriminator, and when it takes part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.errors import ConfigError


def hinge_d_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """(mean relu(1 - real) + mean relu(1 + fake)) / 2."""
    return 0.5 * (torch.relu(1 - logits_real).mean() + torch.relu(1 + logits_fake).mean())


def vanilla_d_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """(mean softplus(-real) + mean softplus(fake)) / 2: half the usual cross-entropy."""
    return 0.5 * (F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean())


D_LOSSES = {"hinge": hinge_d_loss, "vanilla": vanilla_d_loss}


def r1_penalty(images: Tensor, logits: Tensor) -> Tensor:
    """Mean over the images of |gradient of D(x) with respect to x|^2 (Mescheder et al. 2018, R1).

    D(x) is the mean of the logits of all patches of x, the number that the generator raises; the
    squares are summed over channels and pixels.

    Args:
        images: real images (B, C, H, W) that require a gradient.
        logits: what the discriminator makes of them, (B, ...).

    Returns:
        A scalar with a graph, for a second differentiation.
    """
    scores = logits.reshape(len(images), -1).mean(dim=1)
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return (gradient**2).sum(dim=(1, 2, 3)).mean()


def disc_factor(step: int, start: int, value: float = 1.0, warmup: int = 0) -> float:
    """0 before batch number ``start``, from there a line to ``value`` ``warmup`` batches later."""
    if step < start:
        return 0.0
    return value if step >= start + warmup else value * (step - start) / warmup


@dataclass(frozen=True)
class Adversarial:
    """How, and from when on, the discriminator takes part in the training of an autoencoder.

    Steps are batches: one batch is one step of each optimiser. Defaults leave out what was not
    published.

    Attributes:
        disc_start: batch from which it takes part. Before, nothing of it is computed.
        disc_weight: factor of the adaptive weight.
        disc_factor: factor of both adversarial losses; 0: it never takes part.
        disc_loss: "hinge" or "vanilla".
        disc_warmup: batches after ``disc_start`` in which the generator's adversarial term grows
            linearly to its full weight, while the discriminator already learns at its own: a
            discriminator that knows nothing yet gives the decoder only noise.
        max_weight: limit of the adaptive weight.
        r1_weight: weight gamma of the R1 penalty (``r1_penalty``) of the discriminator, which gets
            the term gamma / 2 * r1_every * penalty in every ``r1_every``-th step. Batch norm mixes
            the images of a batch, so take a discriminator with norm "group" with it.
        r1_every: steps from one penalty to the next (lazy regularisation, Karras et al. 2020).
    """

    disc_start: int
    disc_weight: float
    disc_factor: float = 1.0
    disc_loss: str = "hinge"
    disc_warmup: int = 0
    max_weight: float = 1e4
    r1_weight: float = 0.0
    r1_every: int = 16

    def __post_init__(self) -> None:
        if self.disc_loss not in D_LOSSES:
            choices = " or ".join(D_LOSSES)
            raise ConfigError(f"unknown disc_loss {self.disc_loss!r}: choose {choices}")
        least_values = {"disc_warmup": 0, "max_weight": 0, "r1_weight": 0, "r1_every": 1}
        for name, least in least_values.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be {least} or more, got {getattr(self, name)}")

    def active(self, step: int) -> bool:
        """Whether the discriminator takes part at this batch."""
        return self.disc_factor > 0 and step >= self.disc_start

    def penalises(self, step: int) -> bool:
        """Whether the discriminator's loss has its R1 penalty at this batch."""
        due = (step - self.disc_start) % self.r1_every == 0
        return self.active(step) and self.r1_weight > 0 and due

    def factor(self, step: int) -> float:
        """Factor of the discriminator's loss at this batch."""
        return disc_factor(step, self.disc_start, self.disc_factor)

    def generator_factor(self, step: int) -> float:
        """Factor of the generator's adversarial loss at this batch."""
        return disc_factor(step, self.disc_start, self.disc_factor, self.disc_warmup)
