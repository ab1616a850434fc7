"""The adversarial part of training an autoencoder (VQGAN, Esser et al. 2021, section 3.1).

Losses of the patch discriminator, the discriminator itself (Isola et al. 2017), from when on it
takes part, and the weight that balances its term against the reconstruction (eq. 7).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.distributed import mean_over_processes
from ldm.errors import MOST_LAYERS, ConfigError, check_count, check_number
from ldm.layers.basics import GROUPS, group_norm


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
        for name in ("disc_start", "disc_weight", "disc_factor", "disc_warmup", "r1_weight"):
            check_number(name, getattr(self, name), 0)

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


class Balance(NamedTuple):
    """The weight of the adversarial loss and the two norms it is the ratio of (float32)."""

    weight: Tensor
    grad_norm_nll: Tensor
    grad_norm_g: Tensor


def adaptive_weight(
    nll_loss: Tensor,
    g_loss: Tensor,
    last_layer: Tensor,
    max_weight: float = 1e4,
    earlier: deque[Tensor] | None = None,
) -> Balance:
    """|grad nll| / (|grad g| + 1e-4) at the decoder's last layer, clamped to [0, max_weight].

    Esser et al. 2021 (VQGAN), eq. 7. The losses and ``last_layer`` have to be in float32: the
    gradient of nll, a sum over pixels, exceeds float16's 65504, and that of g, a mean, can vanish
    below its smallest numbers. Gradient scalers do not reach the gradients that are taken here.

    With several processes the norms are those of the gradients averaged over all of them, as
    data-parallel training averages gradients before its step. (The average of the processes' own
    ratios is another number: a gradient of fewer images is noisier, hence longer.) So one process
    and many with the same total batch train alike. All processes have to call it together.

    A batch that is worked on in parts needs the same care: a part alone has a longer gradient of
    nll, hence a larger weight, by up to the square root of the number of parts. ``earlier`` lets
    the gradients of the parts before take part in the average.

    Args:
        nll_loss: scalar reconstruction loss.
        g_loss: scalar adversarial loss of the generator.
        last_layer: parameter of the last layer of the decoder.
        max_weight: upper limit of the weight.
        earlier: gradients of earlier parts, of which those of this one become the latest; its
            ``maxlen`` is the number of parts of a batch. They reach back into the batch before,
            whose weights were one step younger. None or 1: only these gradients count.

    Returns:
        Detached float32 scalars. A norm that is not finite makes the weight NaN, so that it is
        seen: clamping would hide it. All are 0 where gradients are switched off (evaluation).
    """
    if not torch.is_grad_enabled():
        zero = torch.zeros((), device=nll_loss.device)
        return Balance(zero, zero, zero)
    gradients = []
    for loss in (nll_loss, g_loss):
        (gradient,) = torch.autograd.grad(loss, last_layer, retain_graph=True)
        gradients.append(gradient.detach().float().flatten())
    mean = mean_over_processes(torch.stack(gradients))
    if earlier is not None and earlier.maxlen != 1:
        earlier.append(mean)
        mean = torch.stack([part.to(mean.device) for part in earlier]).mean(dim=0)
    norms = mean.norm(dim=1)
    ratio = (norms[0] / (norms[1] + 1e-4)).clamp(0, max_weight)
    weight = ratio.where(norms.isfinite().all(), torch.nan)
    return Balance(weight, norms[0], norms[1])


def patch_discriminator(
    in_channels: int = 3, width: int = 64, num_layers: int = 3, norm: str = "batch"
) -> nn.Module:
    """PatchGAN discriminator (Isola et al. 2017), freshly initialised.

    It is taming-transformers' network, whose parameter names ``main.*`` stand in published
    checkpoints. Convolutions start from N(0, 0.02), norm scales from N(1, 0.02).

    Args:
        in_channels: image channels.
        width: channels of the first layer; they double up to eight times that.
        num_layers: number of layers that halve the resolution.
        norm: "batch" as published, or "group" for small batches and the R1 penalty: a batch of one
            or two images has no useful statistics. All weights keep their names, shapes and initial
            values; only batch norm's running statistics fall away.

    Returns:
        A module from images (B, C, H, W) to logits (B, 1, h, w), one per overlapping patch.
    """
    from taming.modules.discriminator.model import NLayerDiscriminator, weights_init

    if norm not in ("batch", "group"):
        raise ConfigError(f"unknown norm {norm!r} of the discriminator: choose batch or group")
    check_count("in_channels", in_channels)
    check_count("width", width)
    check_count("num_layers", num_layers, 0, MOST_LAYERS)
    network: nn.Module = NLayerDiscriminator(in_channels, width, num_layers).apply(weights_init)
    layers = network.main
    assert isinstance(layers, nn.Sequential)
    for i, layer in enumerate(layers):
        if norm == "group" and isinstance(layer, nn.BatchNorm2d):
            layers[i] = _group_norm_like(layer)
    return network


def check_patches(discriminator: nn.Module, sides: Sequence[int]) -> None:
    """Refuse images that are too small for a ``patch_discriminator``; others are not looked at.

    Raises:
        ConfigError: it says what to change.
    """
    side = min(sides)
    layers = getattr(discriminator, "main", None)
    for layer in layers if isinstance(layers, nn.Sequential) else ():
        if isinstance(layer, nn.Conv2d):
            kernel, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
            side = (side + 2 * padding - kernel) // stride + 1
        if side < 1:
            raise ConfigError(
                f"nothing is left of images of {min(sides)} pixels after the discriminator's "
                "layers: give it fewer (discriminator.params.num_layers), or larger images"
            )


def _group_norm_like(layer: nn.BatchNorm2d) -> nn.Module:
    """Up to 32 groups, of four channels or more where the width allows it."""
    channels = layer.num_features
    groups = math.gcd(channels, min(GROUPS, max(1, channels // 4)))
    norm = group_norm(channels, layer.eps, groups)
    norm.weight, norm.bias = layer.weight, layer.bias
    return norm
