from __future__ import annotations

import math

import torch

from ldm.layers.codebook import code_counts, codes_used, perplexity
from tests.parity import assert_close, load_case


def test_golden() -> None:
    case = load_case("vector_quantizer")
    counts = code_counts(case.inputs["perplexity_indices"], num_codes=10)
    assert counts.sum() == case.inputs["perplexity_indices"].numel()
    assert_close(perplexity(counts), case.outputs["perplexity"])
    assert_close(codes_used(counts), case.outputs["cluster_use"])


def test_closed_forms() -> None:
    assert_close(perplexity(torch.tensor([0, 9, 0])), torch.tensor(1.0))
    assert_close(perplexity(torch.full((8,), 5)), torch.tensor(8.0))
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert_close(perplexity(torch.tensor([1, 3])), torch.tensor(math.exp(entropy)))
    assert codes_used(torch.tensor([1, 0, 3])) == 2
