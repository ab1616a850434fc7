"""3x3 convolutions with a quarter of the multiplications, for processors (Lavin & Gray, 2015).

A convolution is a product of polynomials, and a product is known from its values at enough points.
F(4x4, 3x3) cuts a map into tiles of 4x4 results, which depend on 6x6 values. Along one dimension,
4 results y of 6 values d and 3 weights g are ``y = A [(G g) * (B d)]``: the weights and the values
are taken to six points, multiplied there, and the products taken back. In two dimensions that is 36
products for 16 results instead of 144, and, summed over the channels, 36 products of matrices.

What is computed from a weight alone is kept between calls inside ``constant_weights``. Whether this
is the faster convolution is decided in ``ldm.layers.cpu``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_kept: ContextVar[dict[Any, tuple[Tensor, Tensor]] | None] = ContextVar("_kept", default=None)


@contextmanager
def constant_weights() -> Iterator[None]:
    """Promise that no weight changes inside a ``with`` block (of this thread), as in sampling."""
    outer = _kept.get()
    token = _kept.set({} if outer is None else outer)
    try:
        yield
    finally:
        _kept.reset(token)


def are_constant() -> bool:
    """Whether weights are promised not to change."""
    return _kept.get() is not None


def computed_once(function: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
    """``function(weight)``; that of a parameter is kept to the end of ``constant_weights``."""
    kept = _kept.get()
    if kept is None or not isinstance(weight, nn.Parameter):  # others may be made anew each time
        return function(weight)
    key = function, id(weight)
    if key not in kept:
        kept[key] = weight, function(weight)  # with the weight, lest another takes its id
    return kept[key][1]


POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
"""And infinity. With these rounding errors are 2 to 8 times those of the direct sum."""
TILE = 4
WINDOW = TILE + 2
CHUNK = 64
"""Tiles that a thread works on at a time: all they need stays in its cache."""


class _Matrices(NamedTuple):
    """A, G and B for two dimensions, (16, 36), (36, 9) and (36, 36)."""

    results: Tensor
    weights: Tensor
    values: Tensor


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``conv2d(x, weight, bias, padding=1)`` in float32 or float64, with gradients.

    Args:
        x: (B, C, h, w).
        weight: (C', C, 3, 3).
        bias: (C',).

    Returns:
        (B, C', h, w), channels_last.
    """
    result: Tensor = _Convolution.apply(x, weight, bias)
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, computed_once(_transformed, weight), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if torch.is_grad_enabled():  # these gradients are to be differentiated again
            return _differentiable_gradients(x, weight, gradient, wanted)
        return (
            _convolve(gradient, _transformed_back(weight), None) if wanted[0] else None,
            _weight_gradient(x, gradient) if wanted[1] else None,
            gradient.sum((0, 2, 3)) if wanted[2] else None,
        )


def _differentiable_gradients(
    x: Tensor, weight: Tensor, gradient: Tensor, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    ones = [1, 1]
    gradients: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        gradient, x, weight, [len(weight)], ones, ones, ones, False, [0, 0], 1, list(wanted)
    )
    return gradients


def _convolve(x: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution with the kernels of ``_transformed``."""
    height, width = x.shape[2:]
    matrices, windows = _matrices(x.dtype), _windows(x)
    n, rows, columns = windows.shape[2:5]
    out = x.new_empty(n, rows, TILE, columns, TILE, kernels.shape[2])
    for part in _chunks(n, rows, columns):
        products = torch.bmm(_at_points(matrices.values, windows[:, :, part[0], part[1]]), kernels)
        if bias is not None:  # a constant is 1 at the point (1, 1) and 0 at all others
            products[WINDOW + 1] += bias
        tiles = matrices.results @ products.flatten(1)
        to = out[part]
        to.copy_(tiles.view(TILE, TILE, *to.shape[:2], columns, -1).permute(2, 3, 0, 4, 1, 5))
    whole = out.view(n, rows * TILE, columns * TILE, -1)[:, :height, :width]
    # No view to autograd, so that an activation may follow in place.
    return whole.contiguous().permute(0, 3, 1, 2).detach()


def _weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    matrices, windows, tiles = _matrices(x.dtype), _windows(x), _tiles(gradient)
    back = matrices.results.T.contiguous()
    total = x.new_zeros(WINDOW**2, gradient.shape[1], x.shape[1])
    for part in _chunks(*windows.shape[2:5]):
        values = _at_points(matrices.values, windows[:, :, part[0], part[1]])
        errors = _at_points(back, tiles[:, :, part[0], part[1]])
        total.baddbmm_(errors.transpose(1, 2), values)
    weights = matrices.weights.T @ total.flatten(1)
    return weights.view(3, 3, *total.shape[1:]).permute(2, 3, 0, 1)


def _transformed(weight: Tensor) -> Tensor:
    """(C', C, 3, 3) -> (36, C, C'): the kernels at the points."""
    return _weights_at_points(_matrices(weight.dtype).weights, weight).transpose(1, 2)


def _transformed_back(weight: Tensor) -> Tensor:
    """(C', C, 3, 3) -> (36, C', C): the same for the gradients, by the kernels turned around."""
    return _weights_at_points(_matrices(weight.dtype).weights.flip(1), weight)


def _weights_at_points(matrix: Tensor, weight: Tensor) -> Tensor:
    taps = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return (matrix @ taps).view(-1, *weight.shape[:2])


def _at_points(matrix: Tensor, tiles: Tensor) -> Tensor:
    """Tiles (a, a, n, rows, columns, C) at the points, (36, tiles, C)."""
    return (matrix @ tiles.reshape(matrix.shape[1], -1)).view(len(matrix), -1, tiles.shape[-1])


def _windows(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (6, 6, B, rows, columns, C), what the 4x4 results of each tile depend on."""
    n, channels, height, width = x.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    padded = x.new_zeros(n, rows * TILE + 2, columns * TILE + 2, channels)
    padded[:, 1 : height + 1, 1 : width + 1] = x.permute(0, 2, 3, 1)
    image, row, column, _ = padded.stride()
    return padded.as_strided(
        (WINDOW, WINDOW, n, rows, columns, channels),
        (row, column, image, TILE * row, TILE * column, 1),
    )


def _tiles(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (4, 4, B, rows, columns, C), filled up with zeros."""
    n, channels, height, width = x.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    whole = x.permute(0, 2, 3, 1)
    if (height, width) != (rows * TILE, columns * TILE):
        whole = x.new_zeros(n, rows * TILE, columns * TILE, channels)
        whole[:, :height, :width] = x.permute(0, 2, 3, 1)
    return whole.reshape(n, rows, TILE, columns, TILE, channels).permute(2, 4, 0, 1, 3, 5)


def _chunks(n: int, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Parts of about ``CHUNK`` tiles a thread: whole images if they are small, else rows of one."""
    tiles = CHUNK * torch.get_num_threads()
    images = max(1, tiles // (rows * columns))
    some = rows if images > 1 else max(1, tiles // columns)
    for image in range(0, n, images):
        for row in range(0, rows, some):
            yield slice(image, image + images), slice(row, row + some)


@cache
def _matrices(dtype: torch.dtype) -> _Matrices:
    """The matrices of Toom and Cook for two dimensions; infinity is the last point."""
    others = {p: [q for q in POINTS if q != p] for p in POINTS}
    scales = {p: prod(p - q for q in others[p]) for p in POINTS}
    results = [[*(p**i for p in POINTS), float(i == TILE - 1)] for i in range(TILE)]
    weights = [*([p**i / scales[p] for i in range(3)] for p in POINTS), [0.0, 0.0, 1.0]]
    values = [*([*_coefficients(others[p]), 0.0] for p in POINTS), _coefficients(POINTS)]
    both = (torch.tensor(m, dtype=torch.float64, device="cpu") for m in (results, weights, values))
    return _Matrices(*(torch.kron(m, m).to(dtype) for m in both))


def _coefficients(roots: Sequence[float]) -> list[float]:
    """Of the polynomial with these roots, constant first."""
    result = [1.0]
    for root in roots:
        result = [a - root * b for a, b in zip([0.0, *result], [*result, 0.0], strict=True)]
    return result
