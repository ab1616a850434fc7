from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.layers.tiling import Tiling, border_distance
from tests.parity import assert_close, load_case

GOLDEN = load_case("fold_unfold")


def tiling_of(name: str) -> Tiling:
    config = GOLDEN.config[name]
    overlap = [size - stride for size, stride in zip(config["ks"], config["stride"], strict=True)]
    return Tiling(config["ks"], overlap, favour_middle=config.get("tie", False))


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], int, int]] = {
    "plain": (lambda x: x, 1, 1),
    "tie": (lambda x: x, 1, 1),
    "up": (lambda x: F.interpolate(x, scale_factor=2.0), 2, 1),
    "down": (lambda x: x[:, :, ::4, ::4], 1, 4),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_golden(name: str) -> None:
    x, tiling = GOLDEN.inputs[f"{name}.x"], tiling_of(name)
    function, up, down = FUNCTIONS[name]
    want = GOLDEN.outputs[f"{name}.weighting"]
    sides, grid = tuple(want.shape[2:4]), tiling.grid(x.shape[2:])
    tiles = list(tiling.tiles(x.shape[2:]))
    assert len(tiles) == want.shape[-1]
    weights = torch.stack([tiling.weight(tile, sides, grid) for tile in tiles], dim=-1)
    assert_close(weights, want[0, 0])
    assert_close(tiling.apply(function, x, up=up, down=down), GOLDEN.outputs[f"{name}.stitched"])


def test_golden_border_distance() -> None:
    height, width = GOLDEN.inputs["border_hw"].tolist()
    assert_close(border_distance(height, width), GOLDEN.outputs["delta_border"])


@pytest.mark.parametrize("shape", [(7, 9), (8, 8), (13, 31), (40, 5), (64, 64)])
@pytest.mark.parametrize(("size", "overlap"), [(8, 0), (8, 3), (8, 7), ((16, 4), (8, 1))])
def test_any_size_is_covered(shape: tuple[int, int], size, overlap) -> None:  # type: ignore[no-untyped-def]
    tiling = Tiling(size, overlap)
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tiling.apply(lambda tile: tile, x), x)
    for tile in tiling.tiles(shape):
        assert tile.top >= 0
        assert tile.left >= 0


def test_one_tile_is_the_function_itself() -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(x.shape)
        return x.half()

    x = torch.randn(1, 2, 8, 5)
    assert torch.equal(Tiling(8, 2).apply(function, x), x.half())
    assert seen == [x.shape]


def test_memory_is_bounded_and_the_dtype_kept() -> None:
    largest = []

    def function(x: Tensor) -> Tensor:
        largest.append(x.shape[2:].numel())
        return x.bfloat16()

    out = Tiling(16, 8).apply(function, torch.randn(1, 2, 100, 130))
    assert out.dtype == torch.bfloat16
    assert max(largest) == 16 * 16
    assert len(largest) == 12 * 16  # 1 + ceil(84 / 8) rows, 1 + ceil(114 / 8) + ... columns


def test_a_convolution_far_from_borders_is_exact() -> None:
    """Where every tile that covers a place sees all that the kernel reaches."""
    torch.manual_seed(0)
    network = nn.Conv2d(2, 3, 3, padding=1)
    x = torch.randn(1, 2, 24, 24)
    with torch.no_grad():
        whole, tiled = network(x), Tiling(12, 6).apply(network, x)
    difference = (whole - tiled).abs()[0].amax(0)
    assert difference[13:17, 13:17].max() < 1e-5 or difference[7:11, 7:11].max() < 1e-5
    assert difference.max() > 1e-3  # rims of tiles are padded with zeros
    assert difference.max() < whole.abs().max()


def test_gradients_reach_the_input() -> None:
    x = torch.randn(1, 1, 20, 20, requires_grad=True)
    Tiling(8, 4).apply(lambda tile: tile**2, x).sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())


@pytest.mark.parametrize(
    ("size", "overlap"), [(0, 0), (4, 4), (4, -1), ((4, 0), 0), ((8, 4), (2, 4))]
)
def test_wrong_tiles(size, overlap) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="tiles need size >= 1"):
        Tiling(size, overlap)


def test_wrong_factors() -> None:
    x = torch.zeros(1, 1, 16, 16)
    with pytest.raises(ValueError, match="is the factor 1/1 right"):
        Tiling(8).apply(lambda tile: tile[:, :, ::2], x)
    with pytest.raises(ValueError, match="all must be multiples of 4"):
        Tiling(8, 2).apply(lambda tile: tile[:, :, ::4, ::4], x, down=4)
