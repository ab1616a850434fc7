"""Training objectives of the autoencoders (LDM, section 3.1 and appendix G; VQGAN, eq. 6 and 7).

``Objective`` holds what all have in common, reconstruction and adversarial term; ``KLObjective``
and ``VQObjective`` add the regulariser of their latents.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import torch
from torch import Tensor, nn

from ldm.errors import ConfigError, check_number
from ldm.layers.basics import of_arguments
from ldm.layers.codebook import code_counts, codes_used, perplexity
from ldm.losses.adversarial import D_LOSSES, Adversarial, adaptive_weight, r1_penalty

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
        check_number("perceptual_weight", perceptual_weight, 0)
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
        """Expect every batch in so many parts, over which gradients are averaged."""
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


class KLObjective(Objective):
    """Objective of the KL-regularised autoencoder; every term is a SUM divided by the batch size.

    loss = sum(r / exp(logvar) + logvar) + kl_weight KL + lambda disc_factor g_loss with
    r = |x - reconstruction| (or its square) + perceptual_weight p, where lambda is the adaptive
    weight times disc_weight. The parameter ``logvar`` is part of published checkpoints, but of no
    published optimiser: it stays where it is unless the caller trains it.

    Args:
        discriminator: from images to logits, e.g. ``patch_discriminator()``.
        perceptual: module (x, y) -> (B, 1, 1, 1), required if its weight is not 0.
        perceptual_weight: weight of the perceptual term.
        kl_weight: weight of the KL divergence.
        logvar_init: initial value of ``logvar``.
        pixel_loss: "l1" or "l2".
        disc_start: this and all that are not named here: see :class:`Adversarial`.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        kl_weight: float = 1e-6,
        logvar_init: float = 0.0,
        disc_start: int = 50001,
        disc_weight: float = 0.5,
        disc_factor: float = 1.0,
        disc_loss: str = "hinge",
        pixel_loss: str = "l1",
        disc_warmup: int = 0,
        max_weight: float = 1e4,
        r1_weight: float = 0.0,
        r1_every: int = 16,
    ) -> None:
        settings = of_arguments(Adversarial, locals())
        super().__init__(discriminator, perceptual, perceptual_weight, pixel_loss, settings)
        check_number("kl_weight", kl_weight, 0)
        check_number("logvar_init", logvar_init)
        self.kl_weight = kl_weight
        self.logvar = nn.Parameter(torch.tensor(float(logvar_init)))

    def generator(
        self, x: Tensor, output: Reconstruction, last_layer: Tensor, step: int
    ) -> tuple[Tensor, Logs]:
        """Loss of the autoencoder.

        Args:
            x: images (B, C, H, W).
            output: what the autoencoder made of them.
            last_layer: weight of the decoder's last layer, for the adaptive weight.
            step: number of batches seen so far.

        Returns:
            The loss and detached scalars to log. Those of the reconstruction are means per pixel;
            those of the discriminator are there only from ``disc_start`` on.
        """
        with torch.autocast(x.device.type, enabled=False):
            image = output.image.float()
            rec, logs = self._reconstruction(x.float(), image)
            nll_loss = (rec / self.logvar.exp() + self.logvar).sum() / len(x)
            kl_loss = output.posterior.kl().float().sum() / len(x)
            adversarial, adversarial_logs = self._adversarial(nll_loss, image, last_layer, step)
            loss = nll_loss + self.kl_weight * kl_loss + adversarial
        logs |= detached(logvar=self.logvar, nll_loss=nll_loss, kl_loss=kl_loss)
        return loss, logs | adversarial_logs | detached(total_loss=loss)


class VQObjective(Objective):
    """Objective of the vector-quantised autoencoder; every term is a MEAN.

    loss = mean(|x - reconstruction| (or its square) + perceptual_weight p)
    + codebook_weight codebook_loss + lambda disc_factor g_loss, where lambda is the adaptive weight
    times disc_weight.

    Args:
        discriminator: from images to logits, e.g. ``patch_discriminator()``.
        perceptual: module (x, y) -> (B, 1, 1, 1), required if its weight is not 0.
        perceptual_weight: weight of the perceptual term.
        codebook_weight: weight of the quantiser's loss.
        pixel_loss: "l1" or "l2".
        num_codes: size of the codebook; if given, perplexity and cluster_usage are logged.
        disc_start: this and all that follow: see :class:`Adversarial`.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        codebook_weight: float = 1.0,
        pixel_loss: str = "l1",
        num_codes: int | None = None,
        disc_start: int = 0,
        disc_weight: float = 0.75,
        disc_factor: float = 1.0,
        disc_loss: str = "hinge",
        disc_warmup: int = 0,
        max_weight: float = 1e4,
        r1_weight: float = 0.0,
        r1_every: int = 16,
    ) -> None:
        settings = of_arguments(Adversarial, locals())
        super().__init__(discriminator, perceptual, perceptual_weight, pixel_loss, settings)
        check_number("codebook_weight", codebook_weight, 0)
        self.codebook_weight = codebook_weight
        self.num_codes = num_codes

    def generator(
        self, x: Tensor, output: Reconstruction, last_layer: Tensor, step: int
    ) -> tuple[Tensor, Logs]:
        """Loss of the autoencoder; arguments and result as for ``KLObjective``."""
        if output.codebook_loss is None:
            raise ValueError("VQObjective needs the codebook loss of a quantising autoencoder")
        with torch.autocast(x.device.type, enabled=False):
            image = output.image.float()
            rec, logs = self._reconstruction(x.float(), image)
            nll_loss, codebook_loss = rec.mean(), output.codebook_loss.float().mean()
            adversarial, adversarial_logs = self._adversarial(nll_loss, image, last_layer, step)
            loss = nll_loss + self.codebook_weight * codebook_loss + adversarial
        logs |= detached(nll_loss=nll_loss, quant_loss=codebook_loss)
        if self.num_codes is not None and output.indices is not None:
            counts = code_counts(output.indices, self.num_codes)
            logs |= {"perplexity": perplexity(counts), "cluster_usage": codes_used(counts).float()}
        return loss, logs | adversarial_logs | detached(total_loss=loss)
