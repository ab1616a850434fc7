from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ldm.evaluation.metrics.alignment import paired_similarity


def points(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(9)


def test_own_is_the_mean_cosine() -> None:
    samples, neighbours = points(20, 8, seed=0), points(20, 4, 8, seed=1)
    result = paired_similarity(samples, neighbours, generator(), 50)
    expected = cosine_similarity(samples[:, None], neighbours, dim=2).mean()
    assert result.own == pytest.approx(expected.item(), abs=1e-6)
    every = torch.stack([cosine_similarity(s[None, None], neighbours, dim=2) for s in samples])
    assert result.shuffled == pytest.approx(every.mean().item(), abs=0.02)
    longer = paired_similarity(3 * samples, 0.1 * neighbours, generator(), 50)
    assert longer == pytest.approx(result)


def test_samples_near_their_neighbours_are_significant() -> None:
    samples = points(50, 16, seed=0)
    neighbours = samples[:, None] + 3 * points(50, 4, 16, seed=1)
    result = paired_similarity(samples, neighbours, generator())
    assert result.own > result.shuffled + 0.1
    assert result.p_value == 1 / 1001
    assert result.z > 5
    opposite = paired_similarity(-samples, neighbours, generator())
    assert opposite.p_value == 1
    assert opposite.z < -5


def test_the_p_value_of_a_model_that_ignores_its_neighbours_is_uniform() -> None:
    results = [
        paired_similarity(points(20, 8, seed=s), points(20, 2, 8, seed=1000 + s), generator(), 99)
        for s in range(200)
    ]
    p = torch.tensor([result.p_value for result in results])
    assert 0.01 <= (p <= 0.05).float().mean() <= 0.1
    assert p.mean() == pytest.approx(0.5, abs=0.06)
    z = torch.tensor([result.z for result in results])
    assert z.mean() == pytest.approx(0, abs=0.2)
    assert z.std() == pytest.approx(1, abs=0.15)


def test_the_p_value_is_that_of_all_permutations() -> None:
    samples, neighbours = points(5, 3, seed=3), points(5, 1, 3, seed=4) + points(5, 1, 3, seed=3)
    cosines = cosine_similarity(samples[:, None], neighbours[None, :, 0], dim=2)
    sums = torch.tensor([cosines[list(p), range(5)].sum() for p in permutations(range(5))])
    exact = (sums >= cosines.trace() - 1e-6).float().mean()
    result = paired_similarity(samples, neighbours, generator(), 4000)
    assert result.p_value == pytest.approx(exact.item(), abs=0.03)
    assert result.shuffled == pytest.approx(sums.mean().item() / 5, abs=0.02)


def test_equal_neighbours_tell_nothing() -> None:
    same = points(1, 3, 8, seed=1).expand(20, 3, 8)
    result = paired_similarity(points(20, 8, seed=0), same, generator(), 100)
    assert result.p_value == 1
    assert abs(result.z) < 0.01


def test_it_is_deterministic() -> None:
    samples, neighbours = points(20, 8, seed=0), points(20, 4, 8, seed=1)
    first = paired_similarity(samples, neighbours, generator())
    assert paired_similarity(samples, neighbours, generator()) == first


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        paired_similarity(points(3, 8, seed=0), points(4, 2, 8, seed=0), generator())
    with pytest.raises(ValueError, match="do not fit"):
        paired_similarity(points(3, 8, seed=0), points(3, 8, seed=0), generator())
    with pytest.raises(ValueError, match="2 and 1 are the least"):
        paired_similarity(points(1, 8, seed=0), points(1, 2, 8, seed=0), generator())
