from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ldm.evaluation.metrics.precision_recall import (
    centre_of,
    density_coverage,
    distance_tiles,
    precision_recall,
    squared_radii,
)


class LargestResult(TorchDispatchMode):
    """Remembers how large the largest tensor was that an operation made."""

    elements = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return result


def normal(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("measure", [precision_recall, density_coverage])
def test_memory_is_that_of_a_tile(measure: Any) -> None:
    sizes = []
    for n in (400, 1600):
        real, fake = normal(n, 2, 0), normal(n, 2, 1)
        with LargestResult() as largest:
            measure(real, fake, tile=100)
        sizes.append(largest.elements)
    assert sizes[0] == 100 * 100
    assert sizes[1] == sizes[0]


@pytest.mark.parametrize("tile", [7, 16, 1000])
def test_radii_and_distances(tile: int) -> None:
    a, b = normal(40, 3, 0) + 5, normal(33, 3, 1)
    want = torch.cdist(a.double(), a.double()).square().sort(dim=1).values[:, 4]
    torch.testing.assert_close(squared_radii(a, 4, centre_of(a), tile), want)
    found = torch.full((40, 33), torch.nan, dtype=torch.float64)
    for rows, columns, squares in distance_tiles(a, b, centre_of(a), tile):
        found[rows, columns] = squares
    torch.testing.assert_close(found, torch.cdist(a.double(), b.double()).square())


def test_more_neighbours_than_a_tile_has_columns() -> None:
    x = normal(20, 3, 0)
    centre = centre_of(x)
    torch.testing.assert_close(squared_radii(x, 9, centre, 4), squared_radii(x, 9, centre, 99))
