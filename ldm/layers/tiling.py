"""Networks applied to overlapping tiles of a map, whose outputs are blended into one map."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ldm.layers.basics import run

LEAST_WEIGHT = 0.01
"""Weight of the rim of a tile: small, but a place that no other tile covers still has a value."""

Pair = tuple[int, int]


class Tile(NamedTuple):
    """One tile of a grid."""

    top: int
    left: int
    row: int
    column: int
    """Place in the map and in the grid of tiles."""


@dataclass(frozen=True)
class Tiling:
    """Overlapping tiles of a map, each weighted by the distance to its own border.

    The patch-wise evaluation of the original code, for maps of every size: the last tile of a row
    or column is shifted back to the border of the map, where it overlaps more than the others; a
    map that is smaller than a tile is one tile.

    Args:
        size: height and width of a tile in cells of the input map; one number for squares.
        overlap: cells that neighbouring tiles share along each axis, fewer than ``size``.
        favour_middle: weight tiles also by their distance to the border of the grid of tiles
            (``tie_braker`` in the original).

    Raises:
        ValueError: a size is below 1, or an overlap not within 0 and size - 1.
    """

    size: int | Sequence[int]
    overlap: int | Sequence[int] = 0
    favour_middle: bool = False

    def __post_init__(self) -> None:
        for size, overlap in zip(_pair(self.size), _pair(self.overlap), strict=True):
            if size < 1 or not 0 <= overlap < size:
                raise ValueError(
                    f"tiles need size >= 1 and 0 <= overlap < size, got size={self.size} and "
                    f"overlap={self.overlap}"
                )

    def scaled(self, factor: int) -> Tiling:
        """The same tiles on a map with ``factor`` times as many cells along each axis."""
        height, width = _pair(self.size)
        rows, columns = _pair(self.overlap)
        size, overlap = (height * factor, width * factor), (rows * factor, columns * factor)
        return Tiling(size, overlap, self.favour_middle)

    def grid(self, shape: Sequence[int]) -> Pair:
        """Rows and columns of tiles that cover a map of this height and width."""
        height, width = (
            1 + max(0, math.ceil((side - size) / (size - overlap)))
            for side, size, overlap in zip(
                shape, _pair(self.size), _pair(self.overlap), strict=True
            )
        )
        return height, width

    def tiles(self, shape: Sequence[int]) -> Iterator[Tile]:
        """Tiles of a map of this height and width, row by row."""
        rows, columns = self.grid(shape)
        for row in range(rows):
            for column in range(columns):
                top, left = self._start(0, row, shape), self._start(1, column, shape)
                yield Tile(top, left, row, column)

    def _start(self, axis: int, index: int, shape: Sequence[int]) -> int:
        size, overlap = _pair(self.size)[axis], _pair(self.overlap)[axis]
        return min(index * (size - overlap), max(0, shape[axis] - size))

    def weight(self, tile: Tile, sides: Pair, grid: Pair) -> Tensor:
        """Weights of the cells of a tile's output, float32 with ``sides`` (h, w)."""
        weight = _weights(sides)
        return weight * _weights(grid)[tile.row, tile.column] if self.favour_middle else weight

    def apply(
        self, function: Callable[[Tensor], Tensor], x: Tensor, up: int = 1, down: int = 1
    ) -> Tensor:
        """The weighted mean of ``function`` of every tile, put together.

        One tile after the other is computed and added to the result, so that at no time there is
        more than the result and what ``function`` needs for one tile. The same holds for the
        backward pass, where gradients to ``x`` are wanted: tiles are computed once more then.

        Args:
            function: from a tile (B, C, h, w) to (B, D, h * up / down, w * up / down).
            x: the map (B, C, H, W).
            up: factor by which ``function`` increases the sides.
            down: factor by which it reduces them; of more than one tile, sizes and overlaps must
                be multiples of it, and so must H and W.

        Returns:
            (B, D, H * up / down, W * up / down) in the dtype of the function's result. Where one
            tile is enough, this is ``function(x)`` itself.

        Raises:
            ValueError: sides do not fit ``down``, or a result has other sides than expected.
        """
        shape = (x.shape[2], x.shape[3])
        grid = self.grid(shape)
        if grid == (1, 1):
            return function(x)
        self._check(shape, down)
        size = _pair(self.size)
        height, width = min(size[0], shape[0]), min(size[1], shape[1])
        sides = (height * up // down, width * up // down)
        total = norm = torch.empty(0)
        dtype = x.dtype
        for tile in self.tiles(shape):
            part = x[:, :, tile.top : tile.top + height, tile.left : tile.left + width]
            out = run(function, part, recompute=part.requires_grad)
            if tuple(out.shape[2:]) != sides:
                raise ValueError(
                    f"a tile {tuple(part.shape)} became {tuple(out.shape)}, with sides {sides} "
                    f"expected: is the factor {up}/{down} right?"
                )
            if not total.numel():
                dtype, exact = out.dtype, torch.promote_types(out.dtype, torch.float32)
                whole = (shape[0] * up // down, shape[1] * up // down)
                total = out.new_zeros((*out.shape[:2], *whole), dtype=exact)
                norm = out.new_zeros(whole, dtype=exact)
            weight = self.weight(tile, sides, grid).to(total)
            top, left = tile.top * up // down, tile.left * up // down
            place = (..., slice(top, top + sides[0]), slice(left, left + sides[1]))
            total[place] += weight * out
            norm[place] += weight
        return (total / norm).to(dtype)

    def _check(self, shape: Pair, down: int) -> None:
        numbers = (*_pair(self.size), *_pair(self.overlap), *shape)
        if any(number % down for number in numbers):
            raise ValueError(
                f"tiles of {self.size} cells that overlap by {self.overlap} on a map of {shape}: "
                f"all must be multiples of {down}"
            )


class StandIn(nn.Module):
    """A module in the place of another one, which it holds and whose attributes are also its own.

    Attributes:
        replaces: under which name it holds the other.
    """

    replaces: ClassVar[str]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # not through self: a half-built copy has no modules yet, and would ask for ever
            inner = self.__dict__.get("_modules", {}).get(self.replaces)
            if inner is None:
                raise
            return getattr(inner, name)


def border_distance(height: int, width: int) -> Tensor:
    """Distance of every cell to the nearest border, float32 (height, width).

    In units of the side less one cell: 0 on the rim, 1/2 in the middle. An axis of one cell has no
    border.
    """
    vertical, horizontal = _to_ends(height), _to_ends(width)
    return torch.minimum(vertical[:, None], horizontal[None, :])


def _to_ends(count: int) -> Tensor:
    if count == 1:
        return torch.tensor([0.5])
    place = torch.arange(count) / (count - 1)
    return torch.minimum(place, 1 - place)


def _weights(sides: Pair) -> Tensor:
    return border_distance(*sides).clamp(min=LEAST_WEIGHT)


def _pair(value: int | Sequence[int]) -> Pair:
    if isinstance(value, int):
        return value, value
    first, second = value
    return first, second
