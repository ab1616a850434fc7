from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm.data.layouts.boxes import WHOLE, Box
from ldm.data.layouts.reading import Layout, read_class_names, read_layouts
from ldm.errors import DataError
from ldm.visualization.conditions import draw_layout

CAT = {"class": "cat", "box": [0.1, 0.2, 0.6, 0.9]}


def _file(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "boxes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _read(tmp_path: Path, content: Any, **options: Any) -> list[Layout]:
    return read_layouts(_file(tmp_path, content), **{"classes": ["cat", "dog"], **options})[0]


def test_a_whole_file(tmp_path: Path) -> None:
    content = {
        "classes": ["cat", "dog"],
        "layouts": [
            {
                "name": "one",
                "objects": [CAT, {"class": 1, "box": [0, 0, 1, 1], "occluded": True}],
                "crop": [0, 0.25, 1, 0.75],
            },
            {"objects": []},
        ],
    }
    layouts, classes = read_layouts(_file(tmp_path, content))
    assert classes == ("cat", "dog")
    assert layouts == [
        Layout(
            "one",
            (Box(0, 0.1, 0.2, 0.6, 0.9), Box(1, 0.0, 0.0, 1.0, 1.0, occluded=True)),
            (0.0, 0.25, 1.0, 0.75),
        ),
        Layout("00001", (), WHOLE),
    ]


def test_one_layout_and_a_list_of_them_are_enough(tmp_path: Path) -> None:
    layout = Layout("00000", (Box(0, 0.1, 0.2, 0.6, 0.9),))
    assert _read(tmp_path, {"objects": [CAT]}) == [layout]
    assert _read(tmp_path, [{"objects": [CAT]}]) == [layout]
    ids = [{"objects": [{**CAT, "class": 7}]}]
    assert read_layouts(_file(tmp_path, ids))[0][0].boxes[0].class_id == 7


def test_what_rounding_puts_outside_is_cut(tmp_path: Path) -> None:
    box = {"class": 0, "box": [-0.001, 0, 1.004, 1]}
    assert _read(tmp_path, {"objects": [box]})[0].boxes == (Box(0, 0.0, 0.0, 1.0, 1.0),)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**CAT, "class": "cow"}, "unknown class 'cow', none of 2 names"),
        ({**CAT, "class": "cats"}, "unknown class 'cats'; did you mean 'cat'?"),
        ({**CAT, "class": 2}, "unknown class id 2, it must be 0 to 1"),
        ({**CAT, "class": -1}, "unknown class id -1"),
        ({**CAT, "class": True}, "class must be a name or an id"),
        ({**CAT, "box": [10, 20, 200, 300]}, "shares of its width and height, 0 to 1, not pixels"),
        ({**CAT, "box": [0.5, 0.2, 0.5, 0.9]}, "has no area"),
        ({**CAT, "box": [0.6, 0.2, 0.1, 0.9]}, "has no area"),
        ({**CAT, "box": [0.6, 0.2, 0.1]}, "four numbers"),
        ({**CAT, "box": [0.1, 0.2, float("nan"), 0.9]}, "outside the image"),
        ({**CAT, "box": "everywhere"}, "four numbers"),
        ({**CAT, "group": 1}, "group must be true or false"),
        ({**CAT, "colour": "red"}, "unknown key 'colour'"),
        ({"box": [0, 0, 1, 1]}, "with 'class' and 'box'"),
    ],
)
def test_bad_objects(entry: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        _read(tmp_path, [{"objects": []}, {"name": "two", "objects": [CAT, entry]}])
    text = str(caught.value)
    assert message in text
    assert f"{tmp_path / 'boxes.json'}, layout 1 (two), object 1: " in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ([], "holds no layout"),
        ([3], "layout 0: must be an object with a list 'objects'"),
        ({"layouts": [], "class": []}, "unknown key 'class'"),
        ({"layouts": [{"objects": []}], "classes": ["a", "a"]}, "'a' comes twice"),
        ({"layouts": [{"objects": []}], "classes": ["dog", "cat"]}, "not the 2 that were given"),
        ([{"name": "a", "objects": []}] * 2, "'a' comes twice"),
        ([{"name": 3, "objects": []}], "name must be text"),
        ([{"objects": [], "crop": [0, 0, 0, 1]}], "layout 0 (00000): crop [0, 0, 0, 1] has no"),
        ([{"objects": [CAT] * 3}], "3 objects, the model takes at most 2"),
    ],
)
def test_bad_files(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        _read(tmp_path, content, max_objects=2)
    assert message in str(caught.value)
    assert str(tmp_path / "boxes.json") in str(caught.value)


def test_names_without_a_list_of_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="list them as 'classes' or give ids"):
        _read(tmp_path, [{"objects": [CAT]}], classes=())
    with pytest.raises(DataError, match="unknown class id 5, it must be 0 to 4"):
        _read(tmp_path, [{"objects": [{**CAT, "class": 5}]}], classes=(), num_classes=5)


def test_class_names_from_a_text_file(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("traffic light\n\ndog\n")
    assert read_class_names(file) == ("traffic light", "dog")
    file.write_text("\n")
    with pytest.raises(DataError, match="holds none"):
        read_class_names(file)
    with pytest.raises(DataError, match=r"none\.txt: cannot be read"):
        read_class_names(tmp_path / "none.txt")


def test_layouts_are_drawn_as_the_crop_shows_them() -> None:
    layout = Layout("", (Box(0, 0.0, 0.0, 0.2, 0.2), Box(1, 0.5, 0.5, 0.75, 1.0)), (0.5, 0, 1, 1))
    image = draw_layout(layout, (96, 192), ["cat", "dog"])
    assert image.shape == (3, 96, 192)
    coloured = np.argwhere((image.amax(0) - image.amin(0) > 0.3).numpy())
    # the first box is not in the crop; the second fills the lower left quarter of it
    assert coloured.min(0).tolist() == [48, 0]
    assert coloured.max(0).tolist() == [95, 96]
