"""Holes in images: how they are shown to a model, and how a filling is pasted without a seam."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_REGULARISATION = 1e-9
"""Decides that a hole without any known neighbour is not shifted at all."""

_ALL, _HEAD, _TAIL = slice(None), slice(None, -1), slice(1, None)
_NEIGHBOURS = (((_ALL, _HEAD), (_ALL, _TAIL)), ((_HEAD, _ALL), (_TAIL, _ALL)))
"""Pairs of views of an image whose pixels are next to each other: across, and down."""


def paste_seamlessly(filling: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """The image, with the filling in its hole shifted so that it meets the known pixels.

    Where a filling is a little lighter or of another tint than its surroundings, the border of the
    hole shows. The shift is the smoothest one that makes both sides meet: it solves
    Laplace's equation in the hole, which leaves the gradients within as the model made them
    (Pérez et al., Poisson Image Editing, 2003). Known pixels stay as they are.

    Args:
        filling: (C, H, W) in [-1, 1], also where the image is known: what is compared there.
        image: of the same shape; anything in the hole.
        mask: (1, H, W), 1 = hole.

    Returns:
        (C, H, W), clamped to [-1, 1] in the hole.
    """
    hole = mask[0].bool().cpu().numpy()
    if not hole.any():
        return image.clone()
    difference = (image - filling).double().cpu().numpy()
    shift = torch.from_numpy(_membrane(difference, hole)).to(image)
    result = image.clone()
    inside = mask[0].bool()
    result[:, inside] = (filling[:, inside] + shift.to(filling.device)).clamp(-1, 1)
    return result


def _membrane(difference: NDArray[np.float64], hole: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The harmonic continuation (C, N) of a difference (C, H, W), known outside, into a hole."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import splu

    count = int(hole.sum())
    number = np.full(hole.shape, -1)
    number[hole] = np.arange(count)
    diagonal = np.full(count, _REGULARISATION)
    right = np.zeros((count, len(difference)))
    rows, columns = [], []
    for first, second in _NEIGHBOURS:
        for here, there in ((first, second), (second, first)):
            own, other = number[here], number[there]
            inside = own >= 0
            np.add.at(diagonal, own[inside], 1.0)
            both = inside & (other >= 0)
            rows.append(own[both])
            columns.append(other[both])
            border = inside & (other < 0)
            np.add.at(right, own[border], difference[(slice(None), *there)][:, border].T)
    index = np.arange(count)
    values = np.concatenate([diagonal, -np.ones(sum(map(len, rows)))])
    places = (np.concatenate([index, *rows]), np.concatenate([index, *columns]))
    matrix = coo_matrix((values, places), shape=(count, count)).tocsc()
    return np.ascontiguousarray(splu(matrix).solve(right).T)


def fill_with_mean(image: Tensor, mask: Tensor) -> Tensor:
    """Fill a hole with the mean colour of what is known; with mid-grey where nothing is.

    For an encoder that has never seen holes: the mean is the colour that shows least.

    Args:
        image: (C, H, W) in [-1, 1].
        mask: (1, H, W), 1 = hole.
    """
    known = 1 - mask
    count = known.sum()
    mean = (image * known).sum((1, 2), keepdim=True) / count.clamp_min(1)
    return torch.where(mask == 1, mean, image)


def hide(image: Tensor, mask: Tensor, value: float = -1.0) -> Tensor:
    """An image whose hole has one value.

    Args:
        image: (..., C, H, W) in [-1, 1].
        mask: (..., 1, H, W), 1 = hole.
        value: -1, black, as (1 - mask) * image in [0, 1] of the published inpainting model has it;
            0, mid-grey, in Stable Diffusion's.
    """
    return image.masked_fill(mask == 1, value)


def paste(filling: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """The filling in the hole, the image itself everywhere else.

    Args:
        filling: (..., C, H, W) in [-1, 1].
        image: of the same shape.
        mask: (..., 1, H, W), 1 = hole.
    """
    return torch.where(mask == 1, filling, image)
