"""Balance of the adversarial against the reconstruction loss."""

from __future__ import annotations

import torch
from torch import Tensor


def adaptive_weight(nll_loss: Tensor, g_loss: Tensor, last_layer: Tensor) -> Tensor:
    """|grad nll| / (|grad g| + 1e-4) at the decoder's last layer, clamped to [0, 1e4].

    Esser et al. 2021 (VQGAN), eq. 7. Both norms are taken in float32, also under autocast.

    Args:
        nll_loss: scalar reconstruction loss.
        g_loss: scalar adversarial loss of the generator.
        last_layer: parameter of the last layer of the decoder.

    Returns:
        A detached float32 scalar; 0 where gradients are switched off (evaluation).
    """
    if not torch.is_grad_enabled():
        return torch.zeros((), device=nll_loss.device)
    norms = []
    for loss in (nll_loss, g_loss):
        (gradient,) = torch.autograd.grad(loss, last_layer, retain_graph=True)
        norms.append(gradient.detach().float().norm())
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4)
