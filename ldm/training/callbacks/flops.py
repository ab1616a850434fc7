"""Floating-point operations: how many a step takes, and how many a device can do."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ldm.layers.cpu import direct_convolutions
from ldm.training.callbacks.informing import OnlyInforms

_ATEN = torch.ops.aten
_FORMULAS = {
    **flop_registry,
    # the kernels of attention on CPUs, which the registry of torch does not know
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        _ATEN._scaled_dot_product_flash_attention
    ],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
}


class FlopCount(TorchDispatchMode):
    """Adds up the operations of products, convolutions and attentions inside a ``with`` block.

    Two for each multiplication and addition, as torch.utils.flop_counter counts them, backward
    passes and what is computed again to save memory included. Convolutions are those of their
    definition, whatever saves products elsewhere; otherwise results are not changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self._direct = ExitStack()
        self._informs = OnlyInforms("operations cannot be counted")

    def __enter__(self) -> FlopCount:
        self._direct.enter_context(direct_convolutions())
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._direct.close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = _FORMULAS.get(func._overloadpacket)
        if formula is not None:
            with self._informs:
                self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


class Peak(NamedTuple):
    """Largest number of dense operations, 1e12 per second; sums in float32."""

    half: float
    """float16 and, where the device has it, bfloat16."""
    tf32: float
    float32: float
    bfloat16: bool = True


_PEAKS = {  # data sheets; without sparsity
    "B200": Peak(2250, 1125, 75),
    "H200": Peak(989, 494, 67),
    "H200 NVL": Peak(835, 417, 60),
    "H100": Peak(989, 494, 67),  # SXM
    "H100 PCIE": Peak(756, 378, 51),
    "H100 NVL": Peak(835, 417, 60),
    "A100 SXM4": Peak(312, 156, 19.5),
    "A100 PCIE": Peak(312, 156, 19.5),
    "A40": Peak(149.7, 74.8, 37.4),
    "A30": Peak(165, 82, 10.3),
    "A10": Peak(125, 62.5, 31.2),
    "A10G": Peak(70, 35, 35),
    "L4": Peak(121, 60, 30.3),
    "L40": Peak(181, 90.5, 90.5),
    "L40S": Peak(362, 183, 91.6),
    "V100 SXM2": Peak(125, 15.7, 15.7, bfloat16=False),
    "V100 PCIE": Peak(112, 14, 14, bfloat16=False),
    "T4": Peak(65, 8.1, 8.1, bfloat16=False),
    "RTX 3090": Peak(71, 35.6, 35.6),
    "RTX 4090": Peak(165, 82.6, 82.6),
    "RTX A6000": Peak(154.8, 77.4, 38.7),
    "RTX 6000 ADA GENERATION": Peak(364, 182, 91.1),
}
_NOT_PART_OF_THE_NAME = re.compile(r"NVIDIA|TESLA|GEFORCE|\d+GB|HBM\d\w*")


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Operations per second that a device can do at best; None if it is not known.

    Args:
        device: where training runs. The peak of a CPU is not known.
        precision: Lightning's name of it, such as "bf16-mixed". In "32-true" the peak is that of
            TF32 if convolutions or products may use it.
    """
    if device.type != "cuda":
        return None
    tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return peak_of(torch.cuda.get_device_name(device), precision, tf32)


def peak_of(name: str, precision: str, tf32: bool) -> float | None:
    """The same from the name of a CUDA device; only what the table has by its full name is known.

    A laptop's, a cut-down or an overclocked variant of a card is another one.
    """
    words = re.split(r"[\s-]+", name.upper())
    peak = _PEAKS.get(" ".join(word for word in words if not _NOT_PART_OF_THE_NAME.fullmatch(word)))
    if peak is None or precision.startswith("64"):
        return None
    if precision.startswith("bf16") and not peak.bfloat16:
        return None
    if precision.startswith(("16", "bf16")):
        return peak.half * 1e12
    return (peak.tf32 if tf32 else peak.float32) * 1e12
