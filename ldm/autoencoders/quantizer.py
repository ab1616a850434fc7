"""Vector quantisation with a learned codebook (VQ-VAE, van den Oord et al., 2017)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

MAX_DISTANCES = 2**26
"""Entries of the largest distance matrix, 256 MB in float32."""


class Quantized(NamedTuple):
    """Latents replaced by their nearest codes."""

    z: Tensor
    """(B, C, h, w); its gradient goes straight to the input."""
    loss: Tensor
    """Scalar that pulls codes and latents together."""
    indices: Tensor
    """Codes (B, h, w)."""


class VectorQuantizer(nn.Module):
    """Nearest code for every position.

    The loss has a codebook term mean((z_q - sg[z])^2), which moves codes to latents, and a
    commitment term mean((sg[z_q] - z)^2), which moves latents to codes. ``beta`` was meant to
    weight the commitment; in the code that trained all published VQ models it weights the codebook
    term. ``legacy_beta=True`` keeps that. The value of the loss is the same, its gradients differ.

    Args:
        num_codes: Size of the codebook.
        dim: Channels of a code.
        beta: Weight of one of the two terms.
        legacy_beta: ``beta`` weights the codebook term (True) or the commitment term (False).
    """

    def __init__(
        self, num_codes: int, dim: int, beta: float = 0.25, legacy_beta: bool = True
    ) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.dim = dim
        self.codebook_weight, self.commitment_weight = (beta, 1.0) if legacy_beta else (1.0, beta)
        self.embedding = nn.Embedding(num_codes, dim)
        nn.init.uniform_(self.embedding.weight, -1.0 / num_codes, 1.0 / num_codes)

    def forward(self, z: Tensor) -> Quantized:
        """Quantise latents (B, dim, h, w)."""
        if z.ndim != 4 or z.shape[1] != self.dim:
            raise ValueError(f"latents must be (B, {self.dim}, h, w), got {tuple(z.shape)}")
        indices = self.nearest(z)
        codes = self.lookup(indices).float()
        latents = z.float()
        commitment = F.mse_loss(codes.detach(), latents)
        codebook = F.mse_loss(codes, latents.detach())
        loss = self.commitment_weight * commitment + self.codebook_weight * codebook
        straight_through = latents + (codes - latents).detach()
        return Quantized(straight_through.to(z.dtype), loss, indices)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Indices (B, h, w) of the codes nearest to latents (B, dim, h, w).

        Distances are float32 under mixed precision too: rounded ones choose other codes.
        """
        with torch.autocast(z.device.type, enabled=False):
            tokens = rearrange(z, "b c h w -> (b h w) c").float()
            codes = self.embedding.weight.float()
            norms = codes.square().sum(dim=1)
            chunk = max(1, MAX_DISTANCES // self.num_codes)
            indices = [
                torch.addmm(norms, part, codes.t(), alpha=-2.0).argmin(dim=1)
                for part in tokens.split(chunk)
            ]
        return torch.cat(indices).view(z.shape[0], *z.shape[2:])

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes (B, dim, h, w) of indices (B, h, w)."""
        return self.embedding(indices).movedim(-1, 1)


def codebook_usage(indices: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """How evenly a batch uses a codebook.

    Returns:
        Perplexity, exp(entropy of the code frequencies), between 1 and ``num_codes``; and the
        number of codes used at least once.
    """
    counts = torch.bincount(indices.flatten(), minlength=num_codes)
    frequencies = counts / counts.sum()
    perplexity = torch.exp(-(frequencies * torch.log(frequencies + 1e-10)).sum())
    return perplexity, (counts > 0).sum()
