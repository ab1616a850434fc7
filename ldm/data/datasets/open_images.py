"""OpenImages: boxes out of the CSV files."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ldm.data.datasets.lists import check_first, read_list
from ldm.data.layouts.boxes import Box, BoxFilter, BoxTable
from ldm.data.names import Folder, normal
from ldm.errors import DataError
from ldm.files import open_regular, reason, shown

COLUMNS = (
    *("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"),
    *("IsGroupOf", "IsOccluded", "IsDepiction", "IsInside"),
)
MIN_AREA = 1e-4
"""VQGAN+T leaves out smaller objects of OpenImages."""


class OpenImagesBoxes:
    """A source (for ``ldm.data.LayoutImages``) of images with boxes and their four flags.

    Args:
        root: folder of the images, e.g. train, named ImageID.jpg.
        boxes: e.g. oidv6-train-annotations-bbox.csv.
        descriptions: class-descriptions-boxable.csv, a class and its name on each line.
        class_list: text file with a name or a class (/m/...) on each line, whose order gives the
            class ids; other objects are left out. None: see ``top``.
        top: without ``class_list``, the number of classes: those with most objects in ``count_in``,
            ordered by their /m/... names; None: all.
        count_in: the boxes in which ``top`` counts: those of the training set also for others.
        keep: which objects and images are kept; None: those of VQGAN+T, 2 to 30 objects.

    Raises:
        DataError: something is missing or damaged, a class is unknown, or no image is left.
    """

    def __init__(
        self,
        root: str | Path,
        boxes: str | Path,
        descriptions: str | Path,
        class_list: str | Path | None = None,
        top: int | None = None,
        count_in: str | Path | None = None,
        keep: BoxFilter | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self._folder = Folder(self.root)
        names = _read_descriptions(Path(descriptions).expanduser())
        if class_list is not None:
            chosen = _read_classes(class_list, names)
        elif top is not None:
            counts = Counter(row[1] for row in _rows(count_in or boxes))
            chosen = sorted(label for label, _ in counts.most_common(top))
        else:
            chosen = sorted(names)
        if top is not None and len(chosen) != top:
            raise DataError(f"OpenImages: there are {len(chosen)} classes, but top says {top}")
        self.classes = tuple(names.get(label, label) for label in chosen)
        ids = {label: i for i, label in enumerate(chosen)}
        keep = keep or BoxFilter(min_area=MIN_AREA)
        self._table = BoxTable(_boxes(boxes, ids), keep, f"'{shown(boxes)}'")
        check_first(self.root, [f"{self._table.names[0]}.jpg"], f"'{shown(boxes)}'")

    def __len__(self) -> int:
        return len(self._table)

    def path(self, index: int) -> Path:
        """File of an image."""
        return self._folder.path(f"{self._table.names[index]}.jpg")

    def boxes(self, index: int) -> list[Box]:
        """Boxes of an image."""
        return self._table.boxes(index)


def _boxes(path: str | Path, ids: dict[str, int]) -> Iterator[tuple[str, Box]]:
    for number, (image, label, *values) in enumerate(_rows(path), start=2):
        if label not in ids:
            continue
        try:
            x0, x1, y0, y1 = (float(value) for value in values[:4])
            flags = [int(value) > 0 for value in values[4:]]  # -1 stands for "unknown"
        except ValueError as error:
            raise DataError(f"'{shown(path)}' line {number}: {error}") from error
        yield image, Box(ids[label], x0, y0, x1, y1, *flags)


def _rows(path: str | Path) -> Iterator[list[str]]:
    """The values of ``COLUMNS`` in each line of a CSV file."""
    path = Path(path).expanduser()
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            head = next(reader, [])
            missing = [column for column in COLUMNS if column not in head]
            if missing:
                raise DataError(
                    f"'{shown(path)}' has no column {missing[0]}: take *-annotations-bbox.csv of "
                    "OpenImages"
                )
            places = [head.index(column) for column in COLUMNS]
            for row in reader:
                if len(row) != len(head):
                    raise DataError(
                        f"'{shown(path)}' line {reader.line_num} has {len(row)} of {len(head)} "
                        "values: get it again"
                    )
                yield [row[place] for place in places]
    except FileNotFoundError:
        raise DataError(
            f"there is no '{shown(path)}': it is on the download page of OpenImages V6 or V7 "
            "(storage.googleapis.com/openimages/web)"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read '{shown(path)}' ({reason(error)}): get it again") from error


def _read_descriptions(path: Path) -> dict[str, str]:
    names, source = {}, "it is class-descriptions-boxable.csv of OpenImages"
    for number, line in read_list(path, source, names=False):
        label, _, name = line.partition(",")
        if not label.startswith("/m/") or not name:
            if number == 1:  # newer versions have a head
                continue
            raise DataError(f"'{shown(path)}' line {number} must be /m/...,name, got '{line}'")
        names[label] = name.strip('"')
    return names


def _read_classes(path: str | Path, names: dict[str, str]) -> list[str]:
    labels = {normal(name).casefold(): label for label, name in names.items()}
    chosen = []
    for number, line in read_list(path, names=False):
        label = line if line in names else labels.get(normal(line).casefold())
        if label is None or label in chosen:
            problem = "comes twice" if label else "is no class of OpenImages"
            raise DataError(f"'{shown(path)}' line {number}: '{line}' {problem}")
        chosen.append(label)
    return chosen
