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
        self._counts = counts if self._counts is None else self._counts + counts

    def summary(self) -> dict[str, Tensor]:
        """What was seen in all processes since the last call.

        Returns:
            ``epoch_perplexity`` and ``codebook_usage``, the share of codes used at least once;
            nothing if no batch was seen.
        """
        counts, self._counts = self._counts, None
        if counts is None:
            return {}
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
        share = codes_used(counts).float() / self.num_codes
        return {"epoch_perplexity": perplexity(counts), "codebook_usage": share}


def mean_logs(logs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Means over the parts of a batch, for scalars that all parts have."""
    return {key: torch.stack([entry[key].float() for entry in logs]).mean() for key in logs[0]}
