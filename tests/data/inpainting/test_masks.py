from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ldm.data.inpainting.masks import SETS, Boxes, MaskFiles, Mixture, Segment, Strokes, lama_masks
from ldm.errors import DataError

# PAPER.md section 7: strokes, length, width; boxes, sides, margin; weights; largest area. The code
# that reads the published numbers of strokes adds one to the largest.
PUBLISHED = """
training-256  1-5  200 100   1-4  30-150 10   1   1.0
thick-512     1-5  450 250   1-4  30-300 10   0.3 0.5
medium-512    4-10 200 100   1-5  30-150 0    0.3 0.5
thin-512      4-70 100 20    -    -      -    0   0.5
thick-256     1-5  200 100   1-3  30-150 10   0.3 0.5
medium-256    4-5  100 50    1-5  10-50  0    0.3 0.5
thin-256      4-50 40  10    -    -      -    0   0.5
"""
ROWS = {words[0]: words[1:] for words in map(str.split, PUBLISHED.strip().split("\n"))}
# Mean share of the image: of 2,000 masks at the size of the set, standard errors below 0.005.
AREAS = {
    "training-256": 0.347,
    "thick-512": 0.265,
    "medium-512": 0.274,
    "thin-512": 0.276,
    "thick-256": 0.265,
    "medium-256": 0.235,
    "thin-256": 0.269,
}


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def bounds(text: str) -> tuple[int, int]:
    low, high = text.split("-")
    return int(low), int(high)


def strokes_of(name: str) -> Strokes:
    kind = SETS[name].kinds[0]
    assert isinstance(kind, Strokes)
    return kind


def side_of(name: str) -> int:
    return int(name[-3:])


# -- the published sets -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_strokes_are_the_published_ones(name: str) -> None:
    count, length, width = bounds(ROWS[name][0]), int(ROWS[name][1]), int(ROWS[name][2])
    side = side_of(name)
    drawn = [strokes_of(name).segments(side, side, rng(0, i)) for i in range(600)]
    numbers = Counter(len(strokes) for strokes in drawn)
    assert (min(numbers), max(numbers)) == (count[0], count[1] + 1)
    parts = Counter(len(stroke) for strokes in drawn for stroke in strokes)
    assert set(parts) == {1, 2, 3, 4, 5}
    assert max(parts.values()) < 1.25 * min(parts.values())
    segments = [s for strokes in drawn for stroke in strokes for s in stroke]
    assert {s.width for s in segments} == set(range(5, width + 5))
    lengths = [math.dist(s.start, s.end) for s in segments if inside(s, side)]
    assert max(lengths) <= length + 9 + math.sqrt(2)  # the same
    assert min(lengths) >= 10 - math.sqrt(2)  # the end is cut to a whole pixel
    if length < side / 2:
        assert max(lengths) > length + 5


def inside(segment: Segment, side: int) -> bool:
    return all(0 < value < side for value in segment.end)


def test_directions_are_four_and_mirrored_for_every_other_stroke() -> None:
    drawn = [strokes_of("thin-512").segments(512, 512, rng(1, i)) for i in range(50)]
    for strokes in drawn:
        for i, stroke in enumerate(strokes):
            for segment in stroke:
                if not inside(segment, 512) or math.dist(segment.start, segment.end) < 40:
                    continue
                (x0, y0), (x1, y1) = segment.start, segment.end
                angle = math.atan2((x1 - x0) * (-1 if i % 2 == 0 else 1), y1 - y0)
                nearest = min(range(4), key=lambda k: abs(math.remainder(angle - k, math.tau)))
                assert abs(math.remainder(angle - nearest - 0.01, math.tau)) < 0.05


def test_strokes_go_on_where_the_last_segment_ended_and_stay_in_the_image() -> None:
    for i in range(50):
        for stroke in strokes_of("thick-512").segments(512, 700, rng(2, i)):
            for before, after in itertools.pairwise(stroke):
                assert before.end == after.start
            assert all(0 <= s.end[0] <= 700 and 0 <= s.end[1] <= 512 for s in stroke)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row[3] != "-"])
def test_boxes_are_the_published_ones(name: str) -> None:
    count, sides, margin = bounds(ROWS[name][3]), bounds(ROWS[name][4]), int(ROWS[name][5])
    boxes, side = SETS[name].kinds[1], side_of(name)
    assert isinstance(boxes, Boxes)
    assert tuple(boxes.count) == count
    single = Boxes(boxes.reference, (1, 1), boxes.side, boxes.margin)
    found = np.array([extent(single(side, side, rng(3, i))) for i in range(1500)])
    widths = found[:, 2:] - found[:, :2]
    assert widths.min() == pytest.approx(sides[0], abs=1)
    assert widths.max() == pytest.approx(sides[1], abs=1)
    assert found[:, :2].min() >= margin
    assert found[:, 2:].max() <= side - margin
    assert found[:, :2].min() <= margin + 4
    assert abs(np.corrcoef(widths.T)[0, 1]) < 0.1


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    assert mask[box[1] : box[3], box[0] : box[2]].all()
    return box


@pytest.mark.parametrize("name", ROWS)
def test_kinds_and_areas(name: str) -> None:
    masks, side = lama_masks(name), side_of(name)
    weight, largest = float(ROWS[name][6]), float(ROWS[name][7])
    assert list(masks.weights) == ([1, weight] if weight else [1])
    assert masks.max_area == largest
    areas = np.array([masks(side // 4, side // 4, rng(4, i)).mean() for i in range(250)])
    assert areas.min() > 0
    assert areas.max() <= largest
    assert abs(areas.mean() - AREAS[name]) < 0.035
    if largest == 1:
        assert 0.15 < (areas > 0.5).mean() < 0.35
    else:
        assert areas.max() > 0.45


def test_kinds_are_drawn_by_their_normalised_weights() -> None:
    drawn: Counter[str] = Counter()

    def kind(name: str) -> object:
        def draw(height: int, width: int, _: np.random.Generator) -> np.ndarray:
            drawn[name] += 1
            return np.eye(height, width, dtype=bool)

        return draw

    masks = Mixture((kind("strokes"), kind("boxes"), kind("never")), (1, 0.3, 0))
    generator = rng(5)
    for _ in range(3000):
        masks(4, 4, generator)
    assert drawn["strokes"] / 3000 == pytest.approx(1 / 1.3, abs=0.03)
    assert drawn["never"] == 0


# -- drawing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["thick-512", "thin-512"])
def test_strokes_are_what_pillow_draws(name: str) -> None:
    strokes = strokes_of(name)
    for i in range(5):
        canvas = Image.new("1", (512, 512))
        pen = ImageDraw.Draw(canvas)
        for stroke in strokes.segments(512, 512, rng(6, i)):
            for s in stroke:
                pen.line([s.start, s.end], 1, s.width)
                for point in (s.start, s.end):
                    pen.circle(point, s.width / 2, 1)
        drawn, expected = strokes(512, 512, rng(6, i)), np.asarray(canvas)
        assert (drawn & expected).sum() / (drawn | expected).sum() > 0.95


@pytest.mark.parametrize("scale", [1, 2, 0.5])
def test_a_segment_covers_its_rectangle_and_two_half_discs(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = Segment((100, 100), (160, 180), 40)
    monkeypatch.setattr(Strokes, "segments", lambda *_: [[segment]])
    side = int(256 * scale)
    mask = Strokes(256, (1, 1), 1, 1)(side, side, rng())
    area = 100 * 40 + math.pi * 20**2
    assert mask.sum() == pytest.approx(area * scale**2, rel=0.01)
    centre = np.argwhere(mask).mean(0)
    assert centre == pytest.approx([140.5 * scale - 0.5, 130.5 * scale - 0.5], abs=0.3)


@pytest.mark.parametrize("kind", [strokes_of("training-256"), SETS["training-256"].kinds[1]])
def test_the_same_shapes_at_every_size(kind: Strokes | Boxes) -> None:
    for i in range(10):
        small = kind(64, 96, rng(7, i))
        large = kind(512, 768, rng(7, i))
        shares = large.reshape(64, 8, 96, 8).mean((1, 3))
        assert np.abs(shares - small).mean() < 0.02
        assert ((shares > 0.5) != small).mean() < 0.015


@pytest.mark.parametrize("size", [(32, 32), (16, 16), (8, 8), (48, 80), (301, 129)])
@pytest.mark.parametrize("name", SETS)
def test_any_size(name: str, size: tuple[int, int]) -> None:
    for i in range(5):
        mask = lama_masks(name)(*size, rng(8, i))
        assert mask.shape == size
        assert mask.dtype == bool
        assert mask.any()


def test_masks_depend_on_the_generator_only() -> None:
    masks = lama_masks("medium-512")
    first = [masks(64, 64, rng(9, i)) for i in range(3)]
    np.random.seed(0)
    assert all(np.array_equal(mask, masks(64, 64, rng(9, i))) for i, mask in enumerate(first))
    assert not np.array_equal(first[0], first[1])


def test_options_that_make_no_sense() -> None:
    with pytest.raises(DataError, match="'thick' is not one of training-256, thick-512"):
        lama_masks("thick")
    with pytest.raises(DataError, match=r"count \[0, 3\] is not"):
        Strokes(256, (0, 3), 10, 10)
    with pytest.raises(DataError, match="must be positive"):
        Strokes(256, (1, 3), 0, 10)
    with pytest.raises(DataError, match=r"sides up to 250 with a margin of 10 do not lie in"):
        Boxes(256, (1, 4), (30, 250), 10)
    with pytest.raises(DataError, match=r"side \[40, 30\]"):
        Boxes(256, (1, 4), (40, 30), 10)
    with pytest.raises(DataError, match="1 kinds do not go with weights"):
        Mixture((strokes_of("thin-512"),), (1, 1))
    with pytest.raises(DataError, match="max_area 0 is not"):
        Mixture((strokes_of("thin-512"),), (1,), 0)
    tiny = Mixture((strokes_of("thick-512"),), (1,), 0.0001)
    with pytest.raises(DataError, match=r"none of 100 of 64 x 64 pixels covers at most 0\.0001"):
        tiny(64, 64, rng())


# -- masks of one's own -----------------------------------------------------------------------


def write(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def test_masks_from_files(tmp_path: Path) -> None:
    left, top = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    left[:, :10], top[:10] = True, True
    write(tmp_path / "left.png", left)
    write(tmp_path / "more" / "top.png", top)
    masks = MaskFiles(tmp_path)
    drawn = [masks(20, 20, rng(10, i)) for i in range(20)]
    assert {(int(m[19, 0]), int(m[0, 19])) for m in drawn} == {(0, 1), (1, 0)}
    assert all(m.mean() == 0.25 and m.dtype == bool for m in drawn)
    assert MaskFiles(tmp_path, invert=True)(20, 20, rng()).mean() == 0.75
    wide = MaskFiles(tmp_path / "more")(20, 40, rng())  # the middle half of the square
    assert wide.shape == (20, 40)
    assert not wide.any()


def test_grey_masks_are_split_in_the_middle(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 127], [128, 255]], np.uint8)).save(tmp_path / "a.png")
    assert MaskFiles(tmp_path)(2, 2, rng()).tolist() == [[False, False], [True, True]]


def test_broken_mask_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match="holds no"):
        MaskFiles(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="not one of 1 images is readable"):
        MaskFiles(tmp_path)(8, 8, rng())
    write(tmp_path / "fine.png", np.ones((8, 8), bool))
    with caplog.at_level(logging.WARNING):
        assert all(MaskFiles(tmp_path)(8, 8, rng(i)).all() for i in range(10))
    assert "broken.png" in caplog.text
