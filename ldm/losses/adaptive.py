"""Balance of the adversarial against the reconstruction loss."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


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
    mean = _mean_over_processes(torch.stack(gradients))
    if earlier is not None and earlier.maxlen != 1:
        earlier.append(mean)
        mean = torch.stack([part.to(mean.device) for part in earlier]).mean(dim=0)
    norms = mean.norm(dim=1)
    ratio = (norms[0] / (norms[1] + 1e-4)).clamp(0, max_weight)
    weight = ratio.where(norms.isfinite().all(), torch.nan)
    return Balance(weight, norms[0], norms[1])


def _mean_over_processes(values: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values
    dist.all_reduce(values)
    return values / dist.get_world_size()
