"""Use of a codebook over a whole epoch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ldm.layers.codebook import code_counts, codes_used, perplexity


class CodeUsage:
    """Counts chosen codes until asked; a single batch says little about a large codebook.

    Args:
        num_codes: size of the codebook.
    """

    def __init__(self, num_codes: int) -> None:
        self.num_codes = num_codes
        self._counts: Tensor | None = None

    def add(self, indices: Tensor) -> None:
        """Count the codes of a batch; indices have any shape."""
        counts = code_counts(indices, self.num_codes)
        before = self._counts
        self._counts = counts if before is None else before.to(counts.device) + counts

    def state(self) -> Tensor | None:
        """What all processes have counted since the last summary, for a checkpoint."""
        return None if self._counts is None else _over_processes(self._counts.clone())

    def load(self, counts: Tensor | None) -> None:
        """Go on counting from a state, in one of the processes."""
        first = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
        if counts is not None:
            self._counts = counts if first else torch.zeros_like(counts)

    def to(self, device: torch.device) -> None:
        """Count there: processes of GPUs can only add what lies on them."""
        self._counts = None if self._counts is None else self._counts.to(device)

    def summary(self) -> dict[str, Tensor]:
        """What was seen in all processes since the last call.

        Returns:
            ``epoch_perplexity`` and ``codebook_usage``, the share of codes used at least once;
            nothing if no batch was seen.
        """
        counts, self._counts = self._counts, None
        if counts is None:
            return {}
        counts = _over_processes(counts)
        share = codes_used(counts).float() / self.num_codes
        return {"epoch_perplexity": perplexity(counts), "codebook_usage": share}


def _over_processes(counts: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts)
    return counts


def mean_logs(logs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Means over the parts of a batch, for scalars that all parts have."""
    return {key: torch.stack([entry[key].float() for entry in logs]).mean() for key in logs[0]}
