"""Access to the golden numbers that were computed with the authors' original code.

Files up to 200 KB are part of the repository (``tests/fixtures``); the larger ones are read from
``../shared/parity`` beside the checkout and their tests are skipped where that folder is absent.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

FIXTURES = Path(__file__).parent / "fixtures"
SHARED = Path(os.environ.get("LDM_SHARED", Path(__file__).parents[2] / "shared"))

RTOL = 5e-5
"""Largest difference allowed, as a share of the largest magnitude of the expected tensor."""


@dataclass(frozen=True)
class Case:
    """One golden file: what went in, what came out, and how the original was configured."""

    name: str
    config: Any
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def load_case(name: str) -> Case:
    """Read a golden case; skip the calling test where only ``../shared`` would have it."""
    path = FIXTURES / "golden" / f"{name}.safetensors"
    if not path.exists():
        path = SHARED / "parity" / "golden" / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"golden case {name} is larger than 200 KB and {path} is absent")
    groups: dict[str, dict[str, Tensor]] = {"weight": {}, "in": {}, "out": {}}
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["json"])["config"]
        for key in file.keys():  # noqa: SIM118 - safe_open is not iterable
            group, _, rest = key.partition(".")
            groups[group][rest] = file.get_tensor(key)
    return Case(name, config, groups["weight"], groups["in"], groups["out"])


def assert_close(got: Tensor, want: Tensor, rtol: float = RTOL, what: str = "tensor") -> None:
    """Fail unless ``max|got - want| <= rtol * max|want|``; integer tensors must be equal."""
    assert tuple(got.shape) == tuple(want.shape), f"{what}: {tuple(got.shape)} {tuple(want.shape)}"
    if not want.is_floating_point():
        assert torch.equal(got.cpu(), want), f"{what}: integer tensors differ"
        return
    got, want = got.detach().double().cpu(), want.double()
    error = (got - want).abs().max().item()
    bound = rtol * want.abs().max().item()
    assert error <= bound, f"{what}: largest difference {error:.3g} exceeds {bound:.3g}"


def formula_value(key: str, shape: Sequence[int], seed: int) -> Tensor:
    """Value of one parameter under the weight formula of the parity data (its README, part 2)."""
    count = int(np.prod(shape)) if len(shape) else 1
    index = np.arange(count, dtype=np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    start = np.uint64((zlib.crc32(key.encode()) ^ seed) & 0xFFFFFFFF)
    x = (index * np.uint64(0x9E3779B9) + start) & mask
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint64(shift)
        x = (x * np.uint64(factor)) & mask
    x ^= x >> np.uint64(16)
    v = x.astype(np.float64) / 2**31 - 1
    if len(shape) >= 2:
        value = v * np.sqrt(3) * min(0.1, max(0.02, (count / shape[0]) ** -0.5))
    elif key.endswith("weight"):
        value = 1 + 0.15 * v
    else:
        value = 0.1 * v
    return torch.from_numpy(value.astype(np.float32)).reshape(tuple(shape))


def formula_weights(module: torch.nn.Module, seed: int, prefix: str = "") -> None:
    """Give every parameter of ``module`` its formula value (keys get ``prefix`` first)."""
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            parameter.copy_(formula_value(prefix + key, parameter.shape, seed))


def official_keys(name: str) -> dict[str, Any]:
    """Checkpoint keys, shapes and counts of a published model, e.g. ``models__ldm__cin256``."""
    with gzip.open(FIXTURES / "keys" / f"{name}.json.gz", "rt") as file:
        result: dict[str, Any] = json.load(file)
    return result


def official_names() -> list[str]:
    """Names of all published configurations with a key list."""
    return sorted(path.name.removesuffix(".json.gz") for path in (FIXTURES / "keys").glob("*.gz"))


def published_configs() -> Mapping[str, Any]:
    """The 32 published YAML files as trees; skips where ``../shared`` is absent."""
    path = SHARED / "parity" / "published_configs.json"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    result: Mapping[str, Any] = json.loads(path.read_text())
    return result
