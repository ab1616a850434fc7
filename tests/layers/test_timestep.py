from __future__ import annotations

import pytest
import torch

from ldm.layers.basics import timestep_embedding
from tests.parity import load_case

CASE = load_case("timestep_embeddings")


@pytest.mark.parametrize("dim", CASE.config["dims"])
@pytest.mark.parametrize("max_period", CASE.config["max_period"])
def test_golden(dim: int, max_period: int) -> None:
    got = timestep_embedding(CASE.inputs["t"], dim, max_period)
    # Angles up to 999 rad in float32: sine and cosine are known to about 1e-4 there.
    torch.testing.assert_close(
        got, CASE.outputs[f"dim{dim}.period{max_period}"], rtol=1e-5, atol=1e-4
    )
    small = CASE.inputs["t"] < 500
    want = CASE.outputs[f"dim{dim}.period{max_period}"][small]
    torch.testing.assert_close(got[small], want, rtol=1e-5, atol=4e-5)


@pytest.mark.parametrize("dim", CASE.config["dims"])
def test_golden_fractional_steps(dim: int) -> None:
    got = timestep_embedding(CASE.inputs["t_frac"], dim)
    torch.testing.assert_close(got, CASE.outputs[f"dim{dim}.frac"], rtol=1e-5, atol=1e-4)


def test_float32_whatever_the_precision_around_it() -> None:
    t = torch.tensor([0, 7, 999])
    want = timestep_embedding(t, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = timestep_embedding(t, 32)
    assert got.dtype == torch.float32
    assert torch.equal(got, want)
