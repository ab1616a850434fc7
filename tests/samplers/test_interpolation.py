from __future__ import annotations

import math

import pytest
import torch

from ldm.diffusion.conditioning import Conditioning
from ldm.errors import DataError
from ldm.samplers.interpolation import interpolate_conditions, slerp


def noise(seed: int, shape: tuple[int, ...] = (3, 4, 16, 16)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_in_the_plane() -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    angle = math.pi / 2 * 0.25
    want = 1.5 * torch.tensor([[math.cos(angle), math.sin(angle)]])
    torch.testing.assert_close(slerp(a, b, 0.25), want)


def test_ends_and_lengths() -> None:
    a, b = noise(0), noise(1)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    for weight in (0.2, 0.5, 0.9):
        between = slerp(a, b, weight)
        lengths = (1 - weight) * a.flatten(1).norm(dim=1) + weight * b.flatten(1).norm(dim=1)
        torch.testing.assert_close(between.flatten(1).norm(dim=1), lengths)
        assert torch.lerp(a, b, 0.5).norm() < 0.75 * a.norm()
    assert abs(slerp(a, b, 0.5).std() - 1) < 0.02


def test_samples_do_not_depend_on_each_other() -> None:
    a, b = noise(0), noise(1)
    assert torch.equal(slerp(a, b, 0.3)[1:2], slerp(a[1:2], b[1:2], 0.3))


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_parallel_and_opposite_and_zero(factor: float) -> None:
    a = noise(0)
    torch.testing.assert_close(slerp(a, factor * a, 0.25), (0.75 + 0.25 * factor) * a)


def test_other_shapes() -> None:
    with pytest.raises(ValueError, match="cannot interpolate between shapes"):
        slerp(noise(0), noise(0)[:1], 0.5)


def test_conditions_on_a_line() -> None:
    a = Conditioning(torch.zeros(2, 3, 4), torch.ones(2, 1, 5, 5), torch.zeros(2, 6))
    b = Conditioning(torch.ones(2, 3, 4), -torch.ones(2, 1, 5, 5), torch.full((2, 6), 4.0))
    between = interpolate_conditions(a, b, 0.25)
    assert between.context is not None
    assert between.concat is not None
    assert between.y is not None
    assert between.context.unique().tolist() == [0.25]
    assert between.concat.unique().tolist() == [0.5]
    assert between.y.unique().tolist() == [1.0]


def test_conditions_that_have_nothing_between_them() -> None:
    ids = Conditioning(y=torch.tensor([1, 2]))
    assert interpolate_conditions(ids, ids, 0.5) == ids
    with pytest.raises(DataError, match="class ids of the route 'adm'"):
        interpolate_conditions(ids, Conditioning(y=torch.tensor([1, 3])), 0.5)
    with pytest.raises(DataError, match="only one side has conditions of kind 'y'"):
        interpolate_conditions(ids, Conditioning(), 0.5)
    with pytest.raises(DataError, match="between shapes"):
        interpolate_conditions(
            Conditioning(torch.zeros(1, 2, 3)), Conditioning(torch.zeros(1, 4, 3)), 0.5
        )
