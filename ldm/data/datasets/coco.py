"""COCO: captions and boxes out of the annotation files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ldm.data.captions import captions_in, choose_caption
from ldm.data.datasets.lists import FileSource, check_first
from ldm.data.items import Uniform
from ldm.data.layouts.boxes import Box, BoxFilter, BoxTable
from ldm.data.names import Folder, may_be_a_file
from ldm.errors import DataError
from ldm.files import read_json, shown

_MOST_PIXELS = 1 << 30
_NO_CLASS = "other"
"""The class of stuff_*.json that stands for all things."""
_WHERE = (
    "it is in annotations_trainval2017.zip or stuff_annotations_trainval2017.zip of cocodataset.org"
)

_log = logging.getLogger(__name__)


class CocoCaptions(FileSource):
    """A source (``ldm.data.ImageSource``) of images with ``caption``, one of five by a draw.

    Args:
        root: folder of the images, e.g. train2017.
        annotations: e.g. annotations/captions_train2017.json.

    Raises:
        DataError: something is missing or damaged, or there are no captions.
    """

    def __init__(self, root: str | Path, annotations: str | Path) -> None:
        tree = _read(annotations)
        captions: dict[int, list[str]] = {}
        for item in _list(tree, "annotations", annotations):
            found = captions_in(_get(item, "caption", annotations))
            if found is None:
                raise DataError(f"'{shown(annotations)}': a caption is no text: {str(item)[:80]}")
            texts = [text for text in found if text]
            if texts:
                captions.setdefault(_id(item, "image_id", annotations), []).extend(texts)
        images = _list(tree, "images", annotations)
        kept = [image for image in images if _id(image, "id", annotations) in captions]
        if not kept:
            raise DataError(f"'{shown(annotations)}' holds no captions: take captions_*.json")
        if len(kept) < len(images):
            _log.warning("%s: %d images have no caption", annotations, len(images) - len(kept))
        files = [_name(image, annotations) for image in kept]
        super().__init__(Path(root).expanduser(), files)
        self._captions = [captions[_id(image, "id", annotations)] for image in kept]
        check_first(self.root, self.files, f"'{shown(annotations)}'")

    def entries(self, index: int, uniform: Uniform) -> dict[str, Any]:
        """``caption``."""
        return {"caption": choose_caption(self._captions[index], uniform)}


class CocoBoxes:
    """A source (for ``ldm.data.LayoutImages``) of images with boxes of things and perhaps stuff.

    Class ids follow the ids of COCO, without gaps. A crowd is an object with the flag "group".

    Args:
        root: folder of the images, e.g. train2017.
        annotations: instances_train2017.json, and perhaps stuff_train2017.json.
        keep: which objects and images are kept; None: those of VQGAN+T, 2 to 30 objects.
        part: (start, stop) of the images that are kept, in the order of the first file.

    Raises:
        DataError: something is missing or damaged, or no image is left.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: Sequence[str | Path],
        keep: BoxFilter | None = None,
        part: Sequence[int | None] = (0, None),
    ) -> None:
        self.root = Path(root).expanduser()
        self._folder = Folder(self.root)
        trees = {str(path): _read(path) for path in annotations}
        if not trees:
            raise DataError("COCO boxes: name at least one file as annotations")
        names: dict[int, str] = {}
        for path, tree in trees.items():
            for item in _list(tree, "categories", path):
                names[_id(item, "id", path)] = str(_get(item, "name", path))
        self._others = {category for category, name in names.items() if name == _NO_CLASS}
        names = {category: name for category, name in names.items() if name != _NO_CLASS}
        self._ids = {category: i for i, category in enumerate(sorted(names))}
        self.classes = tuple(names[category] for category in sorted(names))
        first = next(iter(trees))
        images = dict(_image(image, first) for image in _list(trees[first], "images", first))
        rows = (row for path, tree in trees.items() for row in self._rows(tree, path, images))
        self._table = BoxTable(rows, keep or BoxFilter(), " and ".join(trees))
        rank = {name: i for i, (name, _, _) in enumerate(images.values())}
        order = sorted(range(len(self._table)), key=lambda i: rank[self._table.names[i]])
        self._order = order[slice(*part)]
        self._frames = {name: (int(width), int(height)) for name, width, height in images.values()}
        if not self._order:
            raise DataError(f"COCO boxes: part {list(part)} of {len(order)} images is empty")
        check_first(self.root, [self._table.names[i] for i in self._order], f"'{shown(first)}'")

    def __len__(self) -> int:
        return len(self._order)

    def path(self, index: int) -> Path:
        """File of an image."""
        return self._folder.path(self._table.names[self._order[index]])

    def frame(self, index: int) -> tuple[int, int]:
        """(width, height) of the image on which the boxes were drawn, turned upright or not."""
        return self._frames[self._table.names[self._order[index]]]

    def boxes(self, index: int) -> list[Box]:
        """Boxes of an image."""
        return self._table.boxes(self._order[index])

    def _rows(
        self, tree: dict[str, Any], path: str, images: dict[int, tuple[str, float, float]]
    ) -> Iterator[tuple[str, Box]]:
        lost, items = 0, _list(tree, "annotations", path)
        for item in items:
            image, category = _get(item, "image_id", path), _get(item, "category_id", path)
            edges = _get(item, "bbox", path)
            known = isinstance(image, int) and isinstance(category, int)
            if known and category in self._others:
                continue
            if not known or image not in images or category not in self._ids or not _is_box(edges):
                lost += 1
                continue
            name, width, height = images[image]
            x, y, w, h = (float(edge) for edge in edges)
            box = (x / width, y / height, (x + w) / width, (y + h) / height)
            yield name, Box(self._ids[category], *box, group=bool(item.get("iscrowd", 0)))
        if lost:
            _log.warning(
                "%s: %d of %d annotations have no known image, category or box and are left out",
                *(path, lost, len(items)),
            )


def _image(image: dict[str, Any], path: str) -> tuple[int, tuple[str, float, float]]:
    name, (width, height) = _name(image, path), (_get(image, k, path) for k in ("width", "height"))
    sides = (width, height)
    if not all(isinstance(side, (int, float)) and 0 < side < _MOST_PIXELS for side in sides):
        raise DataError(f"'{shown(path)}': image '{name}' has {width} x {height} pixels")
    return _id(image, "id", path), (name, float(width), float(height))


def _is_box(edges: Any) -> bool:
    return (
        isinstance(edges, list)
        and len(edges) == 4
        and all(isinstance(edge, (int, float)) and abs(edge) < _MOST_PIXELS for edge in edges)
    )


def _read(path: str | Path) -> dict[str, Any]:
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"there is no annotation file '{shown(path)}': {_WHERE}")
    where = f"annotation file of COCO '{shown(path)}'"
    tree: dict[str, Any] = read_json(path, DataError, where, "get it again", table=True)
    return tree


def _list(tree: dict[str, Any], key: str, path: str | Path) -> list[dict[str, Any]]:
    found = tree.get(key)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise DataError(
            f"'{shown(path)}' is no such annotation file of COCO: it has no list '{key}'"
        )
    return found


def _id(item: dict[str, Any], key: str, path: str | Path) -> int:
    value = _get(item, key, path)
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"'{shown(path)}': '{key}' is no number: {str(item)[:80]}") from None


def _name(image: dict[str, Any], path: str | Path) -> str:
    name = _get(image, "file_name", path)
    if not isinstance(name, str) or not name or not may_be_a_file(name):
        raise DataError(f"'{shown(path)}': an image has the file_name {name!r}")
    return name


def _get(item: dict[str, Any], key: str, path: str | Path) -> Any:
    if key not in item:
        raise DataError(f"'{shown(path)}': an entry has no '{key}': {str(item)[:80]}")
    return item[key]
