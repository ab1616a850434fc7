from __future__ import annotations

import pytest
import torch

from ldm.samplers.noise import SeededNoise


def test_a_seed_names_a_sample() -> None:
    pair, single = SeededNoise([3, 4]), SeededNoise([4])
    for shape in ((3, 8, 8), (2,)):
        assert torch.equal(pair(torch.empty(2, *shape))[1:], single(torch.empty(1, *shape)))


def test_draws_go_on_and_are_normal() -> None:
    noise = SeededNoise([0])
    first, second = noise(torch.empty(1, 100, 100)), noise(torch.empty(1, 100, 100))
    assert not torch.equal(first, second)
    assert abs(first.mean()) < 0.03
    assert abs(first.std() - 1) < 0.03


def test_dtype_follows_but_the_numbers_stay() -> None:
    half = SeededNoise([7])(torch.empty(1, 4, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, SeededNoise([7])(torch.empty(1, 4)).bfloat16())


def test_wrong_batch_size() -> None:
    with pytest.raises(ValueError, match="2 seeds for a batch of 3"):
        SeededNoise([0, 1])(torch.empty(3, 2))
