from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldm.evaluation.metrics.memorization import copies, nearest


def points(n: int, seed: int, dim: int = 8) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_the_nearest_are_those_of_all_distances(chunk: int) -> None:
    queries, references = points(30, 0), points(64, 1)
    found = nearest(queries, references, chunk)
    expected = torch.cdist(queries.double(), references.double()).min(1)
    assert torch.equal(found.indices, expected.indices)
    assert torch.allclose(found.distances, expected.values)


def test_the_distance_of_a_copy_is_0_even_far_from_the_origin() -> None:
    references = points(100, 0) + 1e4
    found = nearest(references.flip(0), references, 30)
    assert torch.equal(found.indices, torch.arange(99, -1, -1))
    assert found.distances.tolist() == [0] * 100


def test_copies_are_found() -> None:
    train, held_out = points(500, 0), points(200, 1)
    result = copies(train[:50], held_out, train)
    assert (result.share, result.samples) == (1, 0)
    assert 0 < result.threshold < result.held_out
    near = copies(train[:50] + 1e-3 * points(50, 2), held_out, train)
    assert near.share == 1
    half = copies(torch.cat([train[:50], held_out[:50]]), held_out, train)
    assert 0.5 <= half.share <= 0.52


def test_held_out_images_are_as_near_as_themselves() -> None:
    train = points(500, 0)
    for n in (200, 700, 1000):
        result = copies(points(n, 1), points(n, 1), train)
        assert result.share == 0.01
        assert result.samples == result.held_out


def test_new_samples_of_the_same_kind_are_not_copies() -> None:
    result = copies(points(1000, 3), points(1000, 1), points(2000, 0))
    assert result.share < 0.03
    assert result.samples == pytest.approx(result.held_out, rel=0.05)


def test_bad_samples_are_far() -> None:
    result = copies(3 * points(200, 3), points(200, 1), points(500, 0))
    assert result.share == 0
    assert result.samples > 1.5 * result.held_out


def test_held_out_images_that_were_trained_on_do_not_hide_copies() -> None:
    train = points(300, 0)
    assert copies(train[:20], train[100:], train).share == 1


def test_bad_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        nearest(points(3, 0, 8), points(3, 0, 9))
    with pytest.raises(ValueError, match="0 queries and 3 references"):
        copies(points(0, 0), points(3, 0), points(3, 1))
