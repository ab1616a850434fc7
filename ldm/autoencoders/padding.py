"""First stages on images of any height and width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.autoencoders.base import Autoencoder


def reconstruct(model: Autoencoder, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Encode and decode images whose sides need not be multiples of f.

    Args:
        model: a first stage.
        x: images (B, C, H, W) in [-1, 1].
        generator: draws the latent; None decodes the most probable one.

    Returns:
        Reconstructions (B, C, H, W); values may lie outside [-1, 1].
    """
    posterior = model.encode(pad_to_multiple(x, model.downsampling_factor))
    z = posterior.mode() if generator is None else posterior.sample(generator)
    return model.decode(z)[:, :, : x.shape[2], : x.shape[3]]


def pad_to_multiple(x: Tensor, factor: int) -> Tensor:
    """Images (B, C, H, W) continued to the right and below, until ``factor`` divides the sides.

    By their mirror image, which goes on as the picture does. A side too short for that is continued
    by its last row or column.
    """
    for axis in (-2, -1):
        side = x.shape[axis]
        missing = -side % factor
        if missing:
            padding = (0, 0, 0, missing) if axis == -2 else (0, missing, 0, 0)
            x = F.pad(x, padding, mode="reflect" if missing < side else "replicate")
    return x
