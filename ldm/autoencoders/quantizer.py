"""Vector quantisation with a learned codebook (VQ-VAE, van den Oord et al., 2017)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.distributed import broadcast, sum_over_processes

MAX_DISTANCES = 2**26
"""Entries of the largest distance matrix, 256 MB in float32."""
MAX_DISTANCES_CPU = 2**22
"""The same on processors: 16 MB stay in the cache (2 to 3 times faster than 256 MB)."""


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
        ema_decay: None trains the codes by the codebook term, as published. A number in (0, 1)
            makes every code the exponential moving average of the latents that chose it (van den
            Oord et al., appendix A.1); the loss is then the commitment term alone, weighted by
            ``beta`` (with ``legacy_beta`` by 1), and the codes get no gradient.
        restart_after: A code that no latent has chosen for this many training batches jumps to a
            random latent of the present batch; None never restarts, as published.

    With ``ema_decay`` or ``restart_after``, whoever trains calls :meth:`update_codebook` after each
    optimiser step: a batch may come in parts, and may turn out not to be fit for learning from.
    """

    idle: Tensor
    ema_count: Tensor
    ema_sum: Tensor

    def __init__(
        self,
        num_codes: int,
        dim: int,
        beta: float = 0.25,
        legacy_beta: bool = True,
        ema_decay: float | None = None,
        restart_after: int | None = None,
    ) -> None:
        super().__init__()
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise ValueError(f"ema_decay must lie in (0, 1), got {ema_decay}")
        if restart_after is not None and restart_after < 1:
            raise ValueError(f"restart_after must be at least 1 batch, got {restart_after}")
        self.num_codes = num_codes
        self.dim = dim
        self.codebook_weight, self.commitment_weight = (beta, 1.0) if legacy_beta else (1.0, beta)
        self.ema_decay = ema_decay
        self.restart_after = restart_after
        self.embedding = nn.Embedding(num_codes, dim)
        nn.init.uniform_(self.embedding.weight, -1.0 / num_codes, 1.0 / num_codes)
        if ema_decay is not None:
            self.embedding.requires_grad_(False)
            self.codebook_weight = 0.0
            self.register_buffer("ema_count", torch.zeros(num_codes))  # 0: not yet begun
            self.register_buffer("ema_sum", torch.zeros(num_codes, dim))
        if restart_after is not None:
            self.register_buffer("idle", torch.zeros(num_codes, dtype=torch.int64))
        self._seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, z: Tensor) -> Quantized:
        """Quantise latents (B, dim, h, w); in training mode remember them for the codebook."""
        if z.ndim != 4 or z.shape[1] != self.dim:
            raise ValueError(f"latents must be (B, {self.dim}, h, w), got {tuple(z.shape)}")
        indices = self.nearest(z)
        codes = self.lookup(indices).float()
        latents = z.float()
        loss = self.commitment_weight * F.mse_loss(codes.detach(), latents)
        if self.codebook_weight:
            loss = loss + self.codebook_weight * F.mse_loss(codes, latents.detach())
        straight_through = latents + (codes - latents).detach()
        looked_after = self.ema_decay is not None or self.restart_after is not None
        if looked_after and self.training and torch.is_grad_enabled():
            tokens = rearrange(latents, "b c h w -> (b h w) c").detach()
            self._seen.append((tokens, indices.flatten()))
        return Quantized(straight_through.to(z.dtype), loss, indices)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Indices (B, h, w) of the codes nearest to latents (B, dim, h, w).

        Distances are float32 under mixed precision too: rounded ones choose other codes.
        """
        with torch.autocast(z.device.type, enabled=False):
            tokens = rearrange(z, "b c h w -> (b h w) c").float()
            codes = self.embedding.weight.float()
            centre = codes.mean(dim=0)  # far from 0, the differences would drown in the squares
            tokens, codes = tokens - centre, codes - centre
            norms = codes.square().sum(dim=1)
            limit = MAX_DISTANCES_CPU if z.device.type == "cpu" else MAX_DISTANCES
            chunk = max(1, limit // self.num_codes)
            # One buffer for all parts: allocated anew for each, they would fragment the heap.
            distances = norms.new_empty(min(chunk, len(tokens)), self.num_codes)
            indices = torch.empty(len(tokens), dtype=torch.int64, device=z.device)
            for part, found in zip(tokens.split(chunk), indices.split(chunk), strict=True):
                rows = distances[: len(part)]
                torch.addmm(norms, part, codes.t(), alpha=-2.0, out=rows)
                torch.argmin(rows, dim=1, out=found)
        return indices.view(z.shape[0], *z.shape[2:])

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes (B, dim, h, w) of indices (B, h, w)."""
        return self.embedding(indices).movedim(-1, 1)

    def forget(self) -> None:
        """Drop what was seen since the last update: nothing is to be learned from it."""
        self._seen.clear()

    @torch.no_grad()
    def update_codebook(self) -> None:
        """Move averaged and idle codes by the batch seen since the last call, in all processes."""
        if not self._seen:
            return
        tokens, indices = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self.forget()
        count = torch.zeros(self.num_codes, device=tokens.device)
        count.index_add_(0, indices, torch.ones_like(indices, dtype=count.dtype))
        count = sum_over_processes(count)
        if self.ema_decay is not None:
            total = torch.zeros(self.num_codes, self.dim, device=tokens.device)
            total = sum_over_processes(total.index_add_(0, indices, tokens))
            self._average(count, total, self.ema_decay)
        if self.restart_after is not None:
            self.idle.add_(1).masked_fill_(count > 0, 0)
            self._restart(tokens, self.idle >= self.restart_after)

    def _average(self, count: Tensor, total: Tensor, decay: float) -> None:
        fresh = self.ema_count == 0
        self.ema_count.masked_fill_(fresh, 1.0)
        self.ema_sum.copy_(torch.where(fresh[:, None], self.embedding.weight, self.ema_sum))
        self.ema_count.lerp_(count, 1 - decay)
        self.ema_sum.lerp_(total, 1 - decay)
        mean = self.ema_sum / self.ema_count[:, None]
        # Both decay alike, so a code that was not chosen stays where it is.
        weight = self.embedding.weight
        weight.copy_(torch.where(count[:, None] > 0, mean, weight))

    def _restart(self, tokens: Tensor, dead: Tensor) -> None:
        chosen = torch.randint(len(tokens), (self.num_codes,), device=tokens.device)
        proposals = torch.cat([tokens[chosen], dead[:, None].to(tokens.dtype)], dim=1)
        broadcast(proposals)
        latents, moved = proposals[:, :-1], proposals[:, -1:] > 0
        self.embedding.weight.copy_(torch.where(moved, latents, self.embedding.weight))
        self.idle.masked_fill_(moved[:, 0], 0)
        if self.ema_decay is not None:
            self.ema_sum.copy_(torch.where(moved, latents, self.ema_sum))
            self.ema_count.masked_fill_(moved[:, 0], 1.0)
