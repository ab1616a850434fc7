from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.scenes.points import DRAWN, SIDE, PointCloud, pixel_centres, points_inside, silhouette
from ldm.errors import DataError


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_silhouettes(name: str) -> None:
    mask = silhouette(name)
    assert mask.shape == (SIDE, SIDE)
    assert 0.1 < mask.mean() < 0.5
    assert not mask[0].any()  # nothing is cut off
    assert not mask[:, 0].any()
    assert not mask[:, -1].any()


def test_they_differ_and_have_holes() -> None:
    cat, rocket = silhouette("cat"), silhouette("rocket")
    assert (cat & rocket).sum() < 0.7 * (cat | rocket).sum()
    assert not rocket[2 * 34, 2 * 50]  # the window
    assert not cat[2 * 31, 2 * 39]  # an eye


def test_a_picture_of_ones_own(tmp_path: Path) -> None:
    dark = np.full((60, 120, 3), 255, np.uint8)
    dark[10:50, 20:40] = 30
    Image.fromarray(dark).save(tmp_path / "dark.png")
    assert silhouette(tmp_path / "dark.png").sum() == 40 * 20
    opaque = np.zeros((60, 120, 4), np.uint8)
    opaque[10:50, 20:40] = 255  # white, but the only thing there
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    assert (silhouette(tmp_path / "opaque.png") == silhouette(tmp_path / "dark.png")).all()


def test_points_lie_inside_and_everywhere() -> None:
    mask = np.zeros((10, 20), bool)
    mask[2, 4:8] = True
    points = points_inside(mask, 4000, np.random.default_rng(0))
    assert points.dtype == np.float32
    # x from -1 + 4/10 to -1 + 8/10, y from 0.5 - 3/10 up to 0.5 - 2/10
    assert points.min(0) == pytest.approx([-0.6, 0.2], abs=2e-3)
    assert points.max(0) == pytest.approx([-0.2, 0.3], abs=2e-3)
    counts, _ = np.histogram(points[:, 0], bins=4, range=(-0.6, -0.2))
    assert counts.min() > 900
    np.testing.assert_allclose(pixel_centres(mask)[:, 0], [-0.55, -0.45, -0.35, -0.25], atol=1e-6)
    np.testing.assert_allclose(pixel_centres(mask)[:, 1], 0.25, atol=1e-6)


def test_items() -> None:
    cloud = PointCloud(["cat", "rocket"], 101)
    assert len(cloud) == 101
    assert [cloud[k]["class_label"] for k in range(4)] == [0, 1, 0, 1]
    assert cloud[5]["image"].shape == (2,)
    assert torch.equal(cloud.of_shape(1)[2], cloud[5]["image"])
    again, other = PointCloud(["cat", "rocket"], 101), PointCloud(["cat", "rocket"], 101, seed=1)
    held_out = PointCloud(["cat", "rocket"], 101, split="validation")
    assert torch.equal(cloud.points, again.points)
    assert not torch.equal(cloud.points, other.points)
    assert not torch.equal(cloud.points, held_out.points)
    with pytest.raises(IndexError):
        cloud[101]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shapes": ["dog"]}, "dog: no image file, and none of the shapes cat, rocket"),
        ({"shapes": []}, "there must be shapes"),
        ({"length": 0}, "length 0 must be positive"),
        ({"split": "half"}, "split 'half'"),
    ],
)
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        PointCloud(**({"shapes": ["cat"], "length": 10} | options))


def test_a_picture_without_a_shape(tmp_path: Path) -> None:
    Image.new("L", (20, 20), 255).save(tmp_path / "white.png")
    with pytest.raises(DataError, match="no pixel is dark"):
        silhouette(tmp_path / "white.png")
