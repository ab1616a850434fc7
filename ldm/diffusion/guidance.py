"""Guidance: wrappers around a denoiser that pull samples towards their conditions.

Towards what the network was trained to be conditioned on (classifier-free), towards a class
(by the gradient of a classifier), or towards an image (by that of a likelihood behind the decoder,
LDM, appendix C). All have the signature of the denoiser they wrap, so they compose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.diffusion.prediction import Prediction
from ldm.diffusion.sampling import Denoise
from ldm.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class ClassifierFreeGuidance:
    """uncond + scale (cond - uncond) with one network pass (Ho & Salimans 2022).

    x0 is affine in eps and the two weights add up to 1, so combining both estimates by the same
    formula keeps them consistent. Scale 1 gives the conditional estimate at twice the cost.

    Args:
        denoise_both: denoiser of a doubled batch, conditioned on [unconditional, conditional].
        scale: guidance scale s; 0 is unconditional, above 1 moves away from unconditional.
    """

    denoise_both: Denoise
    scale: float

    def __call__(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Guided (x0, eps) at x (B, ...) and steps t (B,)."""
        x0, eps = self.denoise_both(torch.cat([x, x]), torch.cat([t, t]))
        return self._combine(x0), self._combine(eps)

    def _combine(self, both: Tensor) -> Tensor:
        uncond, cond = both.chunk(2)
        return uncond + self.scale * (cond - uncond)


@dataclass(frozen=True)
class RescaledGuidance:
    """Classifier-free guidance whose output keeps the spread of the conditional one.

    Large scales make outputs larger and images over-exposed. Lin et al. 2024 (Common Diffusion
    Noise Schedules and Sample Steps are Flawed, eq. 14 to 16) shrink the guided output o of each
    sample to the standard deviation of the conditional one and mix both:

        rescale * o std(o_cond) / std(o) + (1 - rescale) * o

    What the network predicts is rescaled (for ``V`` the velocity), as diffusers does it too.

    Args:
        denoise_both: denoiser of a doubled batch, conditioned on [unconditional, conditional].
        scale: guidance scale.
        rescale: share of the rescaled output, 0 to 1; 0.7 in the paper.
        prediction: what the network predicts.
        schedule: the noise schedule of the denoiser.
    """

    denoise_both: Denoise
    scale: float
    rescale: float
    prediction: Prediction
    schedule: NoiseSchedule

    def __call__(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Guided (x0, eps) at x (B, ...) and steps t (B,)."""
        t_both = torch.cat([t, t])
        x0, eps = self.denoise_both(torch.cat([x, x]), t_both)
        uncond, cond = self.prediction.target(x0, eps, t_both, self.schedule).chunk(2)
        guided = uncond + self.scale * (cond - uncond)
        wanted, found = (output.flatten(1).std(dim=1) for output in (cond, guided))
        ratio = torch.where(found > 0, wanted / found, 1.0)  # an untrained network gives zeros
        factor = 1 + self.rescale * (ratio - 1)
        guided = guided * factor.view(-1, *(1,) * (x.ndim - 1))
        return self.prediction.to_x0_eps(guided, x, t, self.schedule)


@dataclass(frozen=True)
class ClassifierGuidance:
    """eps - scale sigma_t grad_x log p(y | x_t) (Dhariwal & Nichol 2021, eq. 14 and algorithm 2).

    By Bayes' rule grad log p(x_t | y) = grad log p(x_t) + grad log p(y | x_t), and
    eps = -sigma_t grad log p: hence the minus. (The LDM paper prints a plus.) x0 is recomputed from
    the guided eps. Wraps any denoiser, also one under classifier-free guidance.

    Args:
        denoise: the denoiser to guide.
        gradient: ``gradient(x (B, ...), t (B,))``, that of log p(y | x_t) with respect to x.
        scale: 0 is off, 1 samples from the conditional distribution, more sharpens it.
        schedule: the noise schedule of both.
    """

    denoise: Denoise
    gradient: Callable[[Tensor, Tensor], Tensor]
    scale: float
    schedule: NoiseSchedule

    def __call__(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Guided (x0, eps) at x (B, ...) and steps t (B,)."""
        x0, eps = self.denoise(x, t)
        if self.scale == 0:
            return x0, eps
        eps = eps - self.scale * self.schedule.sigma(t, x) * self.gradient(x, t)
        return self.schedule.x0_from_eps(x, eps, t), eps


LogLikelihood = Callable[[Tensor], Tensor]
"""``log_likelihood(images (B, 3, H, W)) -> (B,)``, each sample's log p(y | x) up to a constant."""


@dataclass(frozen=True)
class ImageGuidance:
    """eps - scale sigma_t grad_z log p(y | D(z_0(z_t))) (LDM, appendix C; sign of ADM).

    The likelihood of y is that of the decoded estimate z_0(z_t) of the clean latent, and no network
    has to be trained for it. That replaces the mean over the images that z_t can come from by their
    mean image: exact where they hardly differ (late in sampling), else too confident. With a
    Gaussian prior and a Gaussian likelihood of a linear T, the gradient lacks the factor
    1 / (1 + v) in every direction, where v is the variance that z_0 given z_t leaves to T(D(z_0)),
    in units of the likelihood's own variance. So ``scale`` is to be tried out, mostly below 1 where
    the likelihood is sharp.

    Wraps any denoiser, also one under classifier-free guidance, and composes with every sampler.
    The gradient is taken under ``torch.no_grad`` too, and no parameter gets a ``.grad``.

    Args:
        denoise: the denoiser to guide.
        decode: from scaled latents to images, ``LatentDiffusion.decode`` (the identity where there
            is no first stage). VQ: rounding to the codebook has the gradient of the identity.
        log_likelihood: of images (B, C, H, W), per sample (B,), e.g. ``DownsampledL2``.
        scale: strength; 0 is off, 1 is Bayes' rule as far as the approximation is good.
        schedule: the noise schedule of the denoiser.
        through_denoiser: differentiate the estimate z_0(z_t) through the network. False holds its
            noise estimate fixed, which leaves dz_0/dz_t = 1/alpha_t: about a third of the cost and
            memory of a step in the network, but a gradient that is too large at high noise.
    """

    denoise: Denoise
    decode: Callable[[Tensor], Tensor]
    log_likelihood: LogLikelihood
    scale: float
    schedule: NoiseSchedule
    through_denoiser: bool = True

    def __call__(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Guided (x0, eps) at x (B, ...) and steps t (B,)."""
        if self.scale == 0:
            return self.denoise(x, t)
        eps, gradient = self._eps_and_gradient(x, t)
        eps = eps - self.scale * self.schedule.sigma(t, x) * gradient
        return self.schedule.x0_from_eps(x, eps, t), eps

    def _eps_and_gradient(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The noise estimate at x, and the gradient of the log-likelihood with respect to x."""
        with torch.inference_mode(False), torch.enable_grad():
            z_t = x.detach().clone().requires_grad_()
            if self.through_denoiser:
                x0, eps = self.denoise(z_t, t)
            else:
                with torch.no_grad():
                    _, eps = self.denoise(z_t, t)
                x0 = self.schedule.x0_from_eps(z_t, eps, t)
            log_likelihood = self.log_likelihood(self.decode(x0))
            if log_likelihood.shape != (len(x),):
                raise ValueError(
                    f"a log-likelihood of {len(x)} images must be ({len(x)},), got "
                    f"{tuple(log_likelihood.shape)}"
                )
            (gradient,) = torch.autograd.grad(log_likelihood.sum(), z_t)
        return eps.detach(), gradient


@dataclass(frozen=True)
class DownsampledL2:
    """-1/2 ||y - T(x)||^2, T the bicubic reduction by a factor (LDM, appendix C, figure 14).

    The sum over all channels and pixels of y, as in the paper: unit variance per value.

    Args:
        target: y (B, C, h, w) or (1, C, h, w), in [-1, 1].
        factor: by which the sides of images are larger than those of the target.
    """

    target: Tensor
    factor: int

    def __call__(self, images: Tensor) -> Tensor:
        """Log-likelihood (B,) of images (B, C, factor * h, factor * w)."""
        y = _fitting(self.target, images, self.factor)
        return -0.5 * (y - reduce(images, self.factor)).square().flatten(1).sum(1)


@dataclass(frozen=True)
class Perceptual:
    """-d(y, T(x)), with LPIPS as the distance d in place of half the squared error.

    LPIPS is a *mean* over the picture: scales are to be larger than for ``DownsampledL2``, by about
    the number of values in y.

    Args:
        target: y (B, 3, h, w) or (1, 3, h, w), in [-1, 1].
        lpips: distance ``(x, y) -> (B, 1, 1, 1)`` of images, e.g. ``ldm.losses.LPIPS``.
        factor: by which the sides of images are larger than those of the target.
    """

    target: Tensor
    lpips: Callable[[Tensor, Tensor], Tensor]
    factor: int = 1

    def __call__(self, images: Tensor) -> Tensor:
        """Log-likelihood (B,) of images (B, 3, factor * h, factor * w)."""
        y = _fitting(self.target, images, self.factor)
        return -self.lpips(reduce(images, self.factor), y).flatten(1).sum(1)


def reduce(images: Tensor, factor: int) -> Tensor:
    """Bicubic, antialiased reduction of images (B, C, H, W) to (B, C, H / factor, W / factor)."""
    if factor == 1:
        return images
    size = (images.shape[2] // factor, images.shape[3] // factor)
    exact = images if images.dtype == torch.float64 else images.float()
    return F.interpolate(exact, size, mode="bicubic", antialias=True, align_corners=False)


def _fitting(target: Tensor, images: Tensor, factor: int) -> Tensor:
    """The target, one per image, where and of the type that they are."""
    height, width = target.shape[2] * factor, target.shape[3] * factor
    wanted = (target.shape[1], height, width)
    if images.shape[1:] != wanted or len(target) not in (1, len(images)):
        raise ValueError(
            f"a target {tuple(target.shape)} with factor {factor} is for images "
            f"{(len(target), *wanted)}, got {tuple(images.shape)}"
        )
    return target.to(images).expand(len(images), -1, -1, -1)
