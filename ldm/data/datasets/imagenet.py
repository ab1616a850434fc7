"""ImageNet: a folder or a tar archive for each synset."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.data.datasets.lists import read_list
from ldm.data.image_io import EXTENSIONS, decode_image, read_image
from ldm.data.items import Uniform
from ldm.data.listing import check_folder, list_folder
from ldm.data.shards.tar import Member, list_members
from ldm.errors import DataError
from ldm.files import shown

EXCLUDED = ("n06596364_9591.JPEG",)
"""What the original leaves out of the training set."""
_SYNSET = re.compile(r"n\d{8}$")

_log = logging.getLogger(__name__)


class ImageNet:
    """A source (``ldm.data.ImageSource``) of images with ``class_label``.

    Class ids are places in the sorted list of synsets (n01440764 is 0), as in the published models.

    Args:
        root: holds a folder n01440764/ or an archive n01440764.tar for each class, not both.
        num_classes: how many classes there must be; None accepts any number.
        synsets: text file with a synset on each line, perhaps followed by its name, of all classes;
            None: the classes are those that are there.
        exclude: names of files that are left out.

    Raises:
        DataError: there are no images, another number of classes, or an unknown synset.
    """

    def __init__(
        self,
        root: str | Path,
        num_classes: int | None = 1000,
        synsets: str | Path | None = None,
        exclude: Sequence[str] = EXCLUDED,
    ) -> None:
        self.root = Path(root).expanduser()
        check_folder(self.root, "ImageNet", "set its path")
        found = self._archives() or self._folders()
        excluded = set(exclude)
        items = [(synset, item) for synset, item in found if _base(item) not in excluded]
        names = _read_synsets(synsets) if synsets else {synset: synset for synset, _ in found}
        self.synsets = tuple(sorted(names))
        self.classes = tuple(names[synset] for synset in self.synsets)
        ids = {synset: i for i, synset in enumerate(self.synsets)}
        unknown = sorted({synset for synset, _ in items} - ids.keys())
        if unknown:
            raise DataError(f"'{shown(self.root / unknown[0])}' is no class of '{synsets}'")
        if num_classes is not None and len(ids) != num_classes:
            raise DataError(
                f"'{shown(synsets or self.root)}' has {len(ids)} classes, but num_classes says "
                f"{num_classes}: add those that are missing, or correct num_classes"
            )
        self._items = [item for _, item in items]
        self._labels = [ids[synset] for synset, _ in items]

    def __len__(self) -> int:
        return len(self._items)

    def name(self, index: int) -> str:
        """Path of the file, or of the archive and the file in it."""
        item = self._items[index]
        return str(item) if isinstance(item, Member) else shown(self.root / item)

    def read(self, index: int, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
        """The image; see ``ldm.data.image_io.read_image``."""
        item = self._items[index]
        if isinstance(item, Member):
            return decode_image(item.read(), str(item), at_least)
        return read_image(self.root / item, at_least)

    def entries(self, index: int, _uniform: Uniform) -> dict[str, Any]:
        """``class_label``."""
        return {"class_label": self._labels[index]}

    def _archives(self) -> list[tuple[str, Member | str]]:
        found = (path for path in self.root.iterdir() if path.suffix.lower() == ".tar")
        archives = sorted(path for path in found if path.is_file())
        for path in archives:
            if not _SYNSET.match(path.stem):
                raise DataError(
                    f"'{shown(path)}' is no archive of one synset such as n01440764.tar: unpack it "
                    "once (tar xf); the archives in it need not be unpacked"
                )
        if archives:
            _log.info("reading the contents of %d archives in %s", len(archives), self.root)
        return [
            (path.stem, member) for path in archives for member in list_members(path, EXTENSIONS)
        ]

    def _folders(self) -> list[tuple[str, Member | str]]:
        images = list_folder(self.root).images
        loose = next((image for image in images if "/" not in image), None)
        if loose is not None:
            raise DataError(
                f"'{shown(self.root / loose)}' lies in no folder of a synset: sort the images into "
                "n01440764/, ... first (the development kit of ImageNet has the classes of the "
                "validation set)"
            )
        return [(image.split("/", 1)[0], image) for image in images]


def _base(item: Member | str) -> str:
    return (item.name if isinstance(item, Member) else item).rsplit("/", 1)[-1]


def _read_synsets(path: str | Path) -> dict[str, str]:
    """Names by synset; ``n01440764 tench, Tinca tinca`` or the synset alone."""
    names = {}
    for number, line in read_list(path, "give a text file with a synset on each line", False):
        synset, _, name = line.partition(" ")
        if not _SYNSET.match(synset):
            raise DataError(f"'{shown(path)}' line {number}: '{line}' does not begin with a synset")
        names[synset] = name.strip() or synset
    return names
