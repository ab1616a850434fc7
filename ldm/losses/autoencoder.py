"""Training objectives of the autoencoders: reconstruction, regulariser and discriminator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldm.layers.codebook import code_counts, codes_used, perplexity
from ldm.losses.gan import Adversarial
from ldm.losses.objective import Logs, Objective, Reconstruction, detached


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
        disc_start: batch from which the discriminator takes part.
        disc_weight: factor of the adaptive weight.
        disc_factor: factor of both adversarial losses.
        disc_loss: "hinge" or "vanilla".
        pixel_loss: "l1" or "l2".
        disc_warmup: this and the following: see :class:`~ldm.losses.gan.Adversarial`.
        max_weight: limit of the adaptive weight.
        r1_weight: weight of the discriminator's gradient penalty.
        r1_every: steps from one penalty to the next.
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
        settings = Adversarial(
            disc_start,
            disc_weight,
            disc_factor,
            disc_loss,
            disc_warmup,
            max_weight,
            r1_weight,
            r1_every,
        )
        super().__init__(discriminator, perceptual, perceptual_weight, pixel_loss, settings)
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
        disc_start: batch from which the discriminator takes part.
        disc_weight: factor of the adaptive weight.
        disc_factor: factor of both adversarial losses.
        disc_loss: "hinge" or "vanilla".
        disc_warmup: this and the following: see :class:`~ldm.losses.gan.Adversarial`.
        max_weight: limit of the adaptive weight.
        r1_weight: weight of the discriminator's gradient penalty.
        r1_every: steps from one penalty to the next.
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
        settings = Adversarial(
            disc_start,
            disc_weight,
            disc_factor,
            disc_loss,
            disc_warmup,
            max_weight,
            r1_weight,
            r1_every,
        )
        super().__init__(discriminator, perceptual, perceptual_weight, pixel_loss, settings)
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
