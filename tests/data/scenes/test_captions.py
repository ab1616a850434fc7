from __future__ import annotations

import itertools

import pytest

from ldm.data.scenes.captions import (
    CLASS_NAMES,
    COLOURS,
    SHAPES,
    Item,
    SceneSpec,
    class_index,
    describe,
    parse_caption,
    relation_between,
    write_caption,
)
from ldm.data.scenes.dataset import SceneDataset
from ldm.errors import DataError


@pytest.mark.parametrize(
    ("caption", "spec"),
    [
        ("a red circle", SceneSpec((Item("circle", "red"),))),
        ("three blue crosses", SceneSpec((Item("cross", "blue", 3),))),
        (
            "a red circle left of a blue square",
            SceneSpec((Item("circle", "red"), Item("square", "blue")), "left of"),
        ),
        (
            "a cyan cross below a cyan triangle",
            SceneSpec((Item("cross", "cyan"), Item("triangle", "cyan")), "below"),
        ),
        (
            "a red circle, a blue square and a green cross",
            SceneSpec((Item("circle", "red"), Item("square", "blue"), Item("cross", "green"))),
        ),
        (
            "two red circles and a yellow square",
            SceneSpec((Item("circle", "red", 2), Item("square", "yellow"))),
        ),
    ],
)
def test_captions_and_specs_are_inverse(caption: str, spec: SceneSpec) -> None:
    assert parse_caption(caption) == spec
    assert write_caption(spec) == caption


def test_every_caption_of_the_data_set_is_read_back() -> None:
    dataset = SceneDataset(16, 500, seed=9)
    for i in range(500):
        caption = dataset[i]["caption"]
        assert write_caption(parse_caption(caption)) == caption


def test_an_unknown_word_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'pink'.*purple.*triangles"):
        parse_caption("a pink circle")


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "red circle",
        "a red",
        "a circle red",
        "two red circle",
        "a red circles",
        "a red circle left a blue square",
        "a red circle left of",
        "a red circle, a blue square",
        "a red circle a blue square",
        "a red circle and",
        "a red circle above a blue square below a red cross",
        "two red circles above a blue square left of",
        "a  red circle",
    ],
)
def test_a_malformed_caption_is_refused(caption: str) -> None:
    with pytest.raises(DataError, match="is not of the form"):
        parse_caption(caption)


def test_class_indices_follow_the_names() -> None:
    assert len(CLASS_NAMES) == 24
    for shape, colour in itertools.product(SHAPES, COLOURS):
        assert CLASS_NAMES[class_index(shape, colour)] == f"{colour} {shape}"


def test_describe_counts_equal_objects() -> None:
    red, blue = ("circle", "red"), ("square", "blue")
    assert write_caption(describe([red, red], "above")) == "two red circles"
    assert write_caption(describe([red, blue], "above")) == "a red circle above a blue square"
    assert write_caption(describe([red, blue, red], None)) == "two red circles and a blue square"


def test_relation_is_taken_along_the_larger_distance() -> None:
    left, right = (0.0, 0.3, 0.2, 0.5), (0.7, 0.4, 0.9, 0.6)
    assert relation_between(left, right) == "left of"
    assert relation_between(right, left) == "right of"
    assert relation_between((0.4, 0.0, 0.6, 0.2), (0.5, 0.7, 0.7, 0.9)) == "above"
    assert relation_between((0.0, 0.7, 0.2, 0.9), (0.3, 0.0, 0.5, 0.2)) == "below"
    assert relation_between(left, (0.1, 0.5, 0.3, 0.7), aspect=4.0) == "left of"
