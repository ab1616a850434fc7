"""Training objectives of the autoencoders: reconstruction, regulariser and discriminator."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from ldm.errors import ConfigError
from ldm.losses.adaptive import adaptive_weight
from ldm.losses.gan import disc_factor, hinge_d_loss, vanilla_d_loss

D_LOSSES = {"hinge": hinge_d_loss, "vanilla": vanilla_d_loss}
Logs = dict[str, Tensor]


class Posterior(Protocol):
    """The one thing the objective asks of an encoder's distribution."""

    def kl(self) -> Tensor:
        """KL divergence to the standard normal, (B,)."""


class Reconstruction(Protocol):
    """What an autoencoder returns, as far as the objectives look at it."""

    @property
    def image(self) -> Tensor:
        """Reconstruction (B, 3, H, W)."""

    @property
    def posterior(self) -> Posterior:
        """Distribution of the latent."""

    @property
    def codebook_loss(self) -> Tensor | None:
        """Loss of the quantiser."""

    @property
    def indices(self) -> Tensor | None:
        """Code indices (B, h, w)."""


class _Objective(nn.Module):
    """What both objectives share: the perceptual term and everything about the discriminator."""

    def __init__(
        self,
        discriminator: nn.Module,
        perceptual: nn.Module | None,
        perceptual_weight: float,
        disc_start: int,
        disc_weight: float,
        disc_factor: float,
        disc_loss: str,
    ) -> None:
        super().__init__()
        if perceptual_weight > 0 and perceptual is None:
            raise ConfigError(
                f"perceptual_weight is {perceptual_weight} but there is no perceptual network: "
                "give perceptual, or set perceptual_weight to 0"
            )
        if disc_loss not in D_LOSSES:
            raise ConfigError(f"unknown disc_loss {disc_loss!r}: choose {' or '.join(D_LOSSES)}")
        self.discriminator = discriminator
        self.perceptual_loss = perceptual
        self.perceptual_weight = perceptual_weight
        self.disc_start = disc_start
        self.disc_weight = disc_weight
        self.disc_factor = disc_factor
        self.disc_loss = disc_loss

    def discriminator_loss(
        self, x: Tensor, reconstruction: Tensor, step: int
    ) -> tuple[Tensor, Logs]:
        """Loss of the discriminator on real images x and reconstructions, both (B, 3, H, W).

        Args:
            x: real images.
            reconstruction: reconstructed images; no gradient goes back to them.
            step: number of batches seen so far.

        Returns:
            The loss (0 before ``disc_start``) and detached scalars to log.
        """
        real = self.discriminator(x.float()).float()
        fake = self.discriminator(reconstruction.detach().float()).float()
        factor = disc_factor(step, self.disc_start, self.disc_factor)
        loss = factor * D_LOSSES[self.disc_loss](real, fake)
        return loss, _detached(disc_loss=loss, logits_real=real.mean(), logits_fake=fake.mean())

    def _perceptual(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """Perceptual distance (B, 1, 1, 1), or a zero."""
        if self.perceptual_loss is None or self.perceptual_weight == 0:
            return torch.zeros((), device=x.device)
        return self.perceptual_loss(x, reconstruction).float()

    def _adversarial(
        self, nll_loss: Tensor, reconstruction: Tensor, last_layer: Tensor, step: int
    ) -> tuple[Tensor, Logs]:
        """The generator's weighted adversarial term, and scalars to log."""
        g_loss = -self.discriminator(reconstruction).float().mean()
        weight = nll_loss.new_zeros(())
        if self.disc_factor > 0:
            weight = self.disc_weight * adaptive_weight(nll_loss, g_loss, last_layer)
        factor = disc_factor(step, self.disc_start, self.disc_factor)
        logs = _detached(g_loss=g_loss, d_weight=weight, disc_factor=weight.new_tensor(factor))
        return weight * factor * g_loss, logs


class KLObjective(_Objective):
    """Objective of the KL-regularised autoencoder; every term is a SUM divided by the batch size.

    loss = sum(r / exp(logvar) + logvar) + kl_weight KL + lambda disc_factor g_loss with
    r = |x - reconstruction| + perceptual_weight p, where lambda is the adaptive weight times
    disc_weight. The parameter ``logvar`` is part of published checkpoints, but of no published
    optimiser: it stays where it is unless the caller trains it.

    Args:
        discriminator: from images to logits, e.g. ``patch_discriminator()``.
        perceptual: module (x, y) -> (B, 1, 1, 1), required if its weight is not 0.
        perceptual_weight: weight of the perceptual term.
        kl_weight: weight of the KL divergence.
        logvar_init: initial value of ``logvar``.
        disc_start: batch from which the discriminator takes part.
        disc_weight: factor of the adaptive weight.
        disc_factor: factor of both adversarial losses.
        disc_loss: "hinge" or "vanilla".
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
    ) -> None:
        super().__init__(
            discriminator,
            perceptual,
            perceptual_weight,
            disc_start,
            disc_weight,
            disc_factor,
            disc_loss,
        )
        self.kl_weight = kl_weight
        self.logvar = nn.Parameter(torch.tensor(float(logvar_init)))

    def generator(
        self, x: Tensor, output: Reconstruction, last_layer: Tensor, step: int
    ) -> tuple[Tensor, Logs]:
        """Loss of the autoencoder.

        Args:
            x: images (B, 3, H, W).
            output: what the autoencoder made of them.
            last_layer: weight of the decoder's last layer, for the adaptive weight.
            step: number of batches seen so far.

        Returns:
            The loss and detached scalars to log (rec_loss is a mean per pixel).
        """
        image = output.image.float()
        rec = (x.float() - image).abs() + self.perceptual_weight * self._perceptual(x, image)
        nll_loss = (rec / self.logvar.exp() + self.logvar).sum() / len(x)
        kl_loss = output.posterior.kl().float().sum() / len(x)
        adversarial, logs = self._adversarial(nll_loss, image, last_layer, step)
        loss = nll_loss + self.kl_weight * kl_loss + adversarial
        return loss, logs | _detached(
            total_loss=loss,
            nll_loss=nll_loss,
            rec_loss=rec.mean(),
            kl_loss=kl_loss,
            logvar=self.logvar,
        )


class VQObjective(_Objective):
    """Objective of the vector-quantised autoencoder; every term is a MEAN.

    loss = mean(|x - reconstruction| + perceptual_weight p) + codebook_weight codebook_loss
    + lambda disc_factor g_loss, where lambda is the adaptive weight times disc_weight.

    Args:
        discriminator: from images to logits, e.g. ``patch_discriminator()``.
        perceptual: module (x, y) -> (B, 1, 1, 1), required if its weight is not 0.
        perceptual_weight: weight of the perceptual term.
        codebook_weight: weight of the quantiser's loss.
        pixel_loss: "l1" or "l2".
        num_codes: size of the codebook; if given, perplexity and cluster_usage are logged.
        disc_start: batch from which the discriminator takes part.
        disc_weight: factor of the adaptive weight.
        disc_factor: factor of both adversarial losses.
        disc_loss: "hinge" or "vanilla".
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
    ) -> None:
        super().__init__(
            discriminator,
            perceptual,
            perceptual_weight,
            disc_start,
            disc_weight,
            disc_factor,
            disc_loss,
        )
        if pixel_loss not in ("l1", "l2"):
            raise ConfigError(f"unknown pixel_loss {pixel_loss!r}: choose l1 or l2")
        self.codebook_weight = codebook_weight
        self.pixel_loss = pixel_loss
        self.num_codes = num_codes

    def generator(
        self, x: Tensor, output: Reconstruction, last_layer: Tensor, step: int
    ) -> tuple[Tensor, Logs]:
        """Loss of the autoencoder; arguments and result as for ``KLObjective``."""
        if output.codebook_loss is None:
            raise ValueError("VQObjective needs the codebook loss of a quantising autoencoder")
        image = output.image.float()
        difference = x.float() - image
        p_loss = self._perceptual(x, image)
        rec = difference.abs() if self.pixel_loss == "l1" else difference**2
        rec = rec + self.perceptual_weight * p_loss
        nll_loss, codebook_loss = rec.mean(), output.codebook_loss.float().mean()
        adversarial, logs = self._adversarial(nll_loss, image, last_layer, step)
        loss = nll_loss + self.codebook_weight * codebook_loss + adversarial
        logs |= _detached(
            total_loss=loss,
            nll_loss=nll_loss,
            rec_loss=rec.mean(),
            p_loss=p_loss.mean(),
            quant_loss=codebook_loss,
        )
        if self.num_codes is not None and output.indices is not None:
            logs |= code_usage(output.indices, self.num_codes)
        return loss, logs


def code_usage(indices: Tensor, num_codes: int) -> Logs:
    """Perplexity of the codes in a batch, and how many of them occur."""
    counts = torch.bincount(indices.flatten(), minlength=num_codes).float()
    share = counts / counts.sum()
    perplexity = (-(share * (share + 1e-10).log()).sum()).exp()
    return {"perplexity": perplexity, "cluster_usage": (counts > 0).sum().float()}


def _detached(**values: Tensor) -> Logs:
    return {name: value.detach() for name, value in values.items()}
