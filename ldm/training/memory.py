"""The most memory that a process has used."""

from __future__ import annotations

import sys

import torch


def peak_memory(device: torch.device) -> float | None:
    """Bytes: of tensors on a CUDA device, otherwise of the process; None where it is not known.

    Loader processes are not part of it.
    """
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
