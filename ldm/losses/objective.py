"""What the objectives of all autoencoders share: reconstruction and adversarial term."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import torch
from torch import Tensor, nn

from ldm.errors import ConfigError
from ldm.losses.adaptive import adaptive_weight
from ldm.losses.gan import D_LOSSES, Adversarial, r1_penalty

Logs = dict[str, Tensor]


class Posterior(Protocol):
    """The one thing the objective asks of an encoder's distribution."""

    def kl(self) -> Tensor:
        """KL divergence to the standard normal, (B,)."""


class Reconstruction(Protocol):
    """What an autoencoder returns, as far as the objectives look at it."""

    @property
    def image(self) -> Tensor:
        """Reconstruction (B, C, H, W)."""

    @property
    def posterior(self) -> Posterior:
        """Distribution of the latent."""

    @property
    def codebook_loss(self) -> Tensor | None:
        """Loss of the quantiser."""

    @property
    def indices(self) -> Tensor | None:
        """Code indices (B, h, w)."""


class Objective(nn.Module):
    """Everything but the regulariser of the latent.

    All of it is computed in float32, also under autocast: sums over all pixels and their gradients
    overflow float16 and lose their last terms in bfloat16. Logs come in the order in which one
    number follows from another: of several that are not finite, the first is the cause.

    Args:
        discriminator: from images to logits, e.g. ``patch_discriminator()``.
        perceptual: module (x, y) -> (B, 1, 1, 1), required if its weight is not 0.
        perceptual_weight: weight of the perceptual term.
        pixel_loss: "l1" or "l2".
        settings: how the discriminator takes part.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        perceptual: nn.Module | None,
        perceptual_weight: float,
        pixel_loss: str,
        settings: Adversarial,
    ) -> None:
        super().__init__()
        if perceptual_weight > 0 and perceptual is None:
            raise ConfigError(
                f"perceptual_weight is {perceptual_weight} but there is no perceptual network: "
                "give perceptual, or set perceptual_weight to 0"
            )
        if settings.r1_weight > 0 and any(
            isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in discriminator.modules()
        ):
            raise ConfigError(
                "r1_weight needs a discriminator without batch norm, which mixes the gradients of "
                "the images of a batch: set norm: group in its params"
            )
        if pixel_loss not in ("l1", "l2"):
            raise ConfigError(f"unknown pixel_loss {pixel_loss!r}: choose l1 or l2")
        self.perceptual_loss = perceptual  # first, the order of published checkpoints
        self.discriminator = discriminator
        self.perceptual_weight = perceptual_weight
        self.pixel_loss = pixel_loss
        self.settings = settings
        self.gradients: deque[Tensor] = deque(maxlen=1)

    def work_in_parts(self, parts: int) -> None:
        """Expect every batch in so many parts; see :func:`~ldm.losses.adaptive.adaptive_weight`."""
        self.gradients = deque(self.gradients, maxlen=parts)

    def adversarial(self, step: int) -> bool:
        """Whether the discriminator takes part, and is to be trained, at this batch."""
        return self.settings.active(step)

    def discriminator_loss(
        self, x: Tensor, reconstruction: Tensor, step: int
    ) -> tuple[Tensor, Logs]:
        """Loss of the discriminator on real images x and reconstructions, both (B, C, H, W).

        Args:
            x: real images.
            reconstruction: reconstructed images; no gradient goes back to them.
            step: number of batches seen so far.

        Returns:
            The loss (0 before ``disc_start``) and detached scalars to log; disc_loss is without
            the R1 penalty, which stands unweighted under r1 at the batches that have it.
        """
        settings = self.settings
        penalise = settings.penalises(step) and torch.is_grad_enabled()
        with torch.autocast(x.device.type, enabled=False):
            images = x.detach().float().requires_grad_(penalise)
            real = self.discriminator(images).float()
            fake = self.discriminator(reconstruction.detach().float()).float()
            loss = settings.factor(step) * D_LOSSES[settings.disc_loss](real, fake)
            logs = detached(logits_real=real.mean(), logits_fake=fake.mean(), disc_loss=loss)
            if penalise:
                penalty = r1_penalty(images, real)
                loss = loss + 0.5 * settings.r1_weight * settings.r1_every * penalty
                logs |= detached(r1=penalty)
        return loss, logs

    def _reconstruction(self, x: Tensor, image: Tensor) -> tuple[Tensor, Logs]:
        """Pixel difference plus weighted perceptual distance, (B, C, H, W), and logs."""
        difference = x - image
        pixels = difference.abs() if self.pixel_loss == "l1" else difference**2
        distance = torch.zeros((), device=x.device)
        if self.perceptual_loss is not None and self.perceptual_weight > 0:
            distance = self.perceptual_loss(x, image).float()
        rec = pixels + self.perceptual_weight * distance
        means = {"pixel_loss": pixels.mean(), "p_loss": distance.mean(), "rec_loss": rec.mean()}
        return rec, detached(**means)

    def _adversarial(
        self, nll_loss: Tensor, image: Tensor, last_layer: Tensor, step: int
    ) -> tuple[Tensor, Logs]:
        """The generator's weighted adversarial term, and logs; 0 without the discriminator."""
        factor = nll_loss.new_tensor(self.settings.generator_factor(step))
        if not self.adversarial(step):
            return nll_loss.new_zeros(()), {"disc_factor": factor}
        g_loss = -self.discriminator(image).float().mean()
        balance = adaptive_weight(
            nll_loss, g_loss, last_layer, self.settings.max_weight, self.gradients
        )
        weight = self.settings.disc_weight * balance.weight
        logs = detached(g_loss=g_loss)
        if torch.is_grad_enabled():
            logs |= {"grad_norm_nll": balance.grad_norm_nll, "grad_norm_g": balance.grad_norm_g}
        logs |= {"d_weight": weight, "disc_factor": factor}
        return weight * factor * g_loss, logs


def detached(**values: Tensor) -> Logs:
    """The same numbers without their graphs."""
    return {name: value.detach() for name, value in values.items()}
