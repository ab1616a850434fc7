from __future__ import annotations

from typing import Any

import pytest

from ldm.data.scenes.captions import CLASS_NAMES
from ldm.data.scenes.dataset import SceneDataset
from ldm.evaluation.scenes.judge import UNKNOWN, FoundObject, judge
from ldm.evaluation.scenes.layouts import Box4, LayoutAgreement, box_iou, layout_agreement

LEFT: Box4 = (0.1, 0.4, 0.3, 0.6)
RIGHT: Box4 = (0.7, 0.4, 0.9, 0.6)
RED, BLUE = CLASS_NAMES.index("red circle"), CLASS_NAMES.index("blue circle")


def found(colour: str, box: Box4, shape: str = "circle") -> FoundObject:
    return FoundObject(shape, colour, box, 0.1)


def shifted(box: Box4, dx: float) -> Box4:
    return box[0] + dx, box[1], box[2] + dx, box[3]


def layout(item: dict[str, Any]) -> list[tuple[int, Box4]]:
    pairs = zip(item["box_labels"].tolist(), item["boxes"].tolist(), strict=True)
    return [(label, tuple(box)) for label, box in pairs if label >= 0]


def test_iou_of_boxes() -> None:
    assert box_iou(LEFT, LEFT) == 1
    assert box_iou(LEFT, RIGHT) == 0
    assert box_iou(LEFT, shifted(LEFT, 0.1)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 1, 1), (0.25, 0.25, 0.75, 0.75)) == pytest.approx(1 / 4)
    assert box_iou((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5)) == 0


def test_an_obeyed_layout_and_its_opposite() -> None:
    asked = [(RED, LEFT), (BLUE, RIGHT)]
    assert layout_agreement(asked, [found("blue", RIGHT), found("red", LEFT)]) == (1, 1)
    assert layout_agreement(asked, [found("red", RIGHT), found("blue", LEFT)]) == (0, 1)
    assert layout_agreement(asked, [found("red", LEFT)]) == (0.5, 0.5)
    assert layout_agreement(asked, []) == LayoutAgreement(0, 0)


def test_another_shape_in_the_right_place_is_not_found() -> None:
    square = found("red", LEFT, "square")
    assert layout_agreement([(RED, LEFT)], [square, found(UNKNOWN, LEFT)]) == (0, 0)


def test_objects_of_one_class_are_paired_one_to_one_and_best() -> None:
    asked = [(RED, LEFT), (RED, RIGHT)]
    here, there = found("red", shifted(LEFT, 0.1)), found("red", RIGHT)
    assert layout_agreement(asked, [there, here]).iou == pytest.approx((1 / 3 + 1) / 2)
    # One object cannot be found twice.
    assert layout_agreement([(RED, LEFT), (RED, LEFT)], [found("red", LEFT)]) == (0.5, 1)
    # The first box overlaps both; a greedy pairing would leave the second without a partner.
    middle, aside = shifted(LEFT, 0.05), shifted(LEFT, 0.15)
    asked = [(RED, middle), (RED, shifted(LEFT, -0.1))]
    agreement = layout_agreement(asked, [found("red", LEFT), found("red", aside)])
    assert agreement.iou == pytest.approx((1 / 3 + 1 / 3) / 2)


def test_what_nobody_asked_for_changes_nothing() -> None:
    more = [found("red", LEFT), found("red", RIGHT), found("blue", RIGHT)]
    assert layout_agreement([(RED, LEFT)], more) == (1, 1)


def test_real_scenes_agree_with_their_layouts_and_not_with_others() -> None:
    dataset = SceneDataset(32, 100, split="test")
    items = [dataset[i] for i in range(100)]
    seen = [judge(item["image"]) for item in items]
    own = [layout_agreement(layout(item), s) for item, s in zip(items, seen, strict=True)]
    assert sum(a.iou for a in own) / 100 > 0.9
    assert sum(a.found for a in own) / 100 > 0.99
    others = seen[1:] + seen[:1]
    other = [layout_agreement(layout(item), s) for item, s in zip(items, others, strict=True)]
    assert sum(a.iou for a in other) / 100 < 0.05
    assert sum(a.found for a in other) / 100 < 0.15


def test_bad_layouts_are_refused() -> None:
    with pytest.raises(ValueError, match="no object"):
        layout_agreement([], [])
    with pytest.raises(ValueError, match="class 24 of the layout is not one of 0 to 23"):
        layout_agreement([(RED, LEFT), (24, LEFT)], [])
