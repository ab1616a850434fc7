"""Layouts in a JSON file: what objects an image is to hold, or holds, and where.

A file holds one layout, a list of them, or ``{"classes": [...], "layouts": [...]}``::

    {
      "classes": ["cat", "sofa"],
      "layouts": [
        {
          "name": "evening",
          "objects": [
            {"class": "cat", "box": [0.3, 0.4, 0.6, 0.8]},
            {"class": 1, "box": [0.1, 0.5, 0.9, 1.0], "occluded": true}
          ],
          "crop": [0.0, 0.0, 1.0, 1.0]
        }
      ]
    }

A class is a name of ``classes`` or an id, its place in that list. A box is [x0, y0, x1, y1], its
left, upper, right and lower edge as shares 0 to 1 of width and height. ``classes``, ``name`` (in a
data set, the image file), ``crop`` (the part that is shown) and the flags ``group``, ``occluded``,
``depiction`` and ``inside`` may be left out. ``JsonBoxes`` trains on such a file.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.data.datasets.lists import check_first
from ldm.data.layouts.boxes import WHOLE, Box, Crop
from ldm.data.listing import split_files
from ldm.data.names import Folder, may_be_a_file, normal
from ldm.errors import DataError
from ldm.files import read_json, read_text, reason, shown

FLAGS = ("group", "occluded", "depiction", "inside")
TOLERANCE = 0.005
"""How far, as a share of the image, rounding may put an edge outside."""


@dataclass(frozen=True)
class Layout:
    """What an image is to show.

    Attributes:
        name: unique in its file.
        boxes: the objects, in coordinates of the whole image.
        crop: the part of the image that is shown.
    """

    name: str
    boxes: tuple[Box, ...]
    crop: Crop = WHOLE


def read_layouts(
    path: Path,
    classes: Sequence[str] = (),
    num_classes: int | None = None,
    max_objects: int | None = None,
) -> tuple[list[Layout], tuple[str, ...]]:
    """Read a file of layouts, see above.

    Args:
        path: the JSON file.
        classes: names of the classes by id; those of the file must be the same.
        num_classes: number of classes, where names are not known.
        max_objects: most objects of a layout.

    Returns:
        The layouts, named by their place ("00000") where they have no name; and the names of the
        classes, none if neither file nor caller knows them.

    Raises:
        DataError: the file is not like that; the message names it, the layout and the object.
    """
    where = f"layouts {shown(path)}"
    tree = _parse(path, where)
    if isinstance(tree, dict) and "layouts" in tree:
        _check_keys(tree, ("classes", "layouts"), where)
        classes = _class_names(tree.get("classes"), classes, where)
        tree = tree["layouts"]
    items = tree if isinstance(tree, list) else [tree]
    if not items:
        raise DataError(f"{where}: it holds no layout")
    classes = _class_names(None, classes, where)
    limit = len(classes) if classes else num_classes
    layouts = []
    for i, item in enumerate(items):
        here = f"{where}, layout {i}"
        layout = _layout(item, f"{i:05d}", _Classes(classes, limit), here)
        if max_objects is not None and len(layout.boxes) > max_objects:
            raise DataError(
                f"{here}: {len(layout.boxes)} objects, the model takes at most {max_objects}"
            )
        layouts.append(layout)
    _check_unique([layout.name for layout in layouts], where)
    return layouts, tuple(classes)


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names of classes from a text file with one a line, in the order of their ids.

    Raises:
        DataError: the file is missing, not text, empty, or a name comes twice.
    """
    where = f"class names {shown(path)}"
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: cannot be read ({reason(error)}): give a text file") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise DataError(f"{where}: it holds none; write one a line")
    _check_unique([normal(name) for name in names], where)
    return names


@dataclass(frozen=True)
class _Classes:
    """Names by id, and the number of classes where it is known."""

    names: Sequence[str]
    limit: int | None

    def id_of(self, value: Any, where: str) -> int:
        if isinstance(value, str):
            if value in self.names:
                return self.names.index(value)
            known = [normal(name) for name in self.names]
            if normal(value) in known:
                return known.index(normal(value))
            raise DataError(f"{where}: unknown class {value!r}{self._advice(value)}")
        if not isinstance(value, int) or isinstance(value, bool):
            raise DataError(f"{where}: class must be a name or an id, got {value!r}")
        if value < 0 or (self.limit is not None and value >= self.limit):
            upper = "up" if self.limit is None else f"{self.limit - 1}"
            raise DataError(f"{where}: unknown class id {value}, it must be 0 to {upper}")
        return value

    def _advice(self, name: str) -> str:
        if not self.names:
            return ": the names are not known, list them as 'classes' or give ids"
        near = difflib.get_close_matches(name, self.names, n=1, cutoff=0.6)
        return f"; did you mean {near[0]!r}?" if near else f", none of {len(self.names)} names"


def _parse(path: Path, where: str) -> Any:
    return read_json(path, DataError, where)


def _class_names(found: Any, given: Sequence[str], where: str) -> Sequence[str]:
    if found is None:
        return given
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise DataError(f"{where}: classes must be a list of names")
    _check_unique([normal(name) for name in found], f"{where}: classes")
    if given and list(given) != found:
        raise DataError(f"{where}: its classes are not the {len(given)} that were given beside it")
    return found


def _layout(item: Any, name: str, classes: _Classes, where: str) -> Layout:
    if not isinstance(item, dict) or not isinstance(item.get("objects"), list):
        raise DataError(f"{where}: must be an object with a list 'objects'")
    _check_keys(item, ("name", "objects", "crop"), where)
    name = item.get("name", name)
    if not isinstance(name, str) or not name.strip() or not may_be_a_file(name):
        raise DataError(f"{where}: name must be text that may name a file, got {name!r}")
    boxes = tuple(
        _object(entry, classes, f"{where} ({name}), object {i}")
        for i, entry in enumerate(item["objects"])
    )
    if "crop" not in item:
        return Layout(name, boxes)
    return Layout(name, boxes, _edges(item["crop"], f"{where} ({name})", "crop"))


def _object(entry: Any, classes: _Classes, where: str) -> Box:
    if not isinstance(entry, dict) or not {"class", "box"} <= entry.keys():
        raise DataError(f"{where}: must be an object with 'class' and 'box'")
    _check_keys(entry, ("class", "box", *FLAGS), where)
    flags = {flag: entry[flag] for flag in FLAGS if flag in entry}
    for flag, value in flags.items():
        if not isinstance(value, bool):
            raise DataError(f"{where}: {flag} must be true or false, got {value!r}")
    edges = _edges(entry["box"], where, "box")
    return Box(classes.id_of(entry["class"], where), *edges, **flags)


def _edges(value: Any, where: str, what: str) -> Crop:
    """The edges of a box or crop, cut at those of the image."""
    numbers = isinstance(value, list) and all(
        isinstance(edge, (int, float)) and not isinstance(edge, bool) for edge in value
    )
    if not numbers or len(value) != 4:
        raise DataError(f"{where}: {what} must be four numbers [x0, y0, x1, y1], got {value!r}")
    if not all(-TOLERANCE <= edge <= 1 + TOLERANCE for edge in value):
        raise DataError(
            f"{where}: {what} {value} reaches outside the image: edges are shares of its width and "
            "height, 0 to 1, not pixels"
        )
    x0, y0, x1, y1 = (min(max(float(edge), 0.0), 1.0) for edge in value)
    if x1 <= x0 or y1 <= y0:
        raise DataError(f"{where}: {what} {value} has no area: x0 < x1 and y0 < y1 must hold")
    return x0, y0, x1, y1


def _check_keys(found: dict[str, Any], known: Collection[str], where: str) -> None:
    for key in found:
        if key not in known:
            raise DataError(f"{where}: unknown key {key!r}; known are {', '.join(known)}")


def _check_unique(names: Sequence[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{where}: {name!r} comes twice")
        seen.add(name)


class JsonBoxes:
    """A source (for ``ldm.data.LayoutImages``) of images with boxes from a JSON file.

    Args:
        root: folder of the images.
        layouts: the JSON file, with ``classes``; the name of a layout is the path of its image
            below ``root``.
        split: train, validation or all; see ``ldm.data.listing.choose_split``.
        validation_fraction: share of the images that are held out for validation.
        seed: of that choice.

    Raises:
        DataError: something is missing or does not fit.
    """

    def __init__(
        self,
        root: str | Path,
        layouts: str | Path,
        split: str = "all",
        validation_fraction: float = 0.05,
        seed: int = 0,
    ) -> None:
        self.root = Path(root).expanduser()
        self._folder = Folder(self.root)
        found, classes = read_layouts(Path(layouts).expanduser())
        if not classes:
            raise DataError(f"layouts {layouts}: name the classes as 'classes'")
        cropped = next((layout for layout in found if layout.crop != WHOLE), None)
        if cropped is not None:
            raise DataError(
                f"layouts {layouts}: '{cropped.name}' has a crop, but the data set crops by itself"
            )
        self.classes = classes
        self._boxes = {layout.name: list(layout.boxes) for layout in found}
        files = list(self._boxes)
        check_first(self.root, files, f"layouts {layouts}")
        self.files = split_files(self.root, files, split, validation_fraction, seed)

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> Path:
        """File of an image."""
        return self._folder.path(self.files[index])

    def boxes(self, index: int) -> list[Box]:
        """Boxes of an image."""
        return self._boxes[self.files[index]]
