"""How evenly the codes of a vector-quantised autoencoder are used."""

from __future__ import annotations

import torch
from torch import Tensor


def code_counts(indices: Tensor, num_codes: int) -> Tensor:
    """How often each code occurs, (num_codes,) int64, in indices of any shape."""
    return torch.bincount(indices.flatten(), minlength=num_codes)


def perplexity(counts: Tensor) -> Tensor:
    """exp(entropy of the code frequencies): 1 if one code does all, num_codes if all are even.

    Args:
        counts: how often each code occurred, (num_codes,).
    """
    share = counts.float() / counts.sum()
    return torch.exp(-(share * torch.log(share + 1e-10)).sum())


def codes_used(counts: Tensor) -> Tensor:
    """Number of codes that occurred at least once."""
    return (counts > 0).sum()
