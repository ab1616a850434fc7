"""LSUN: the lmdb databases as they are distributed, or the images in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from PIL import Image

from ldm.data.datasets.lists import read_list
from ldm.data.image_io import decode_image, read_image
from ldm.data.items import Uniform
from ldm.data.listing import list_folder, split_files
from ldm.data.names import Names
from ldm.errors import DataError
from ldm.files import shown

T = TypeVar("T")

LISTS = (
    "the split of the original is at ommer-lab.com/files/lsun.zip; with files=null a random share "
    "is held out"
)


class Lsun:
    """A source (``ldm.data.ImageSource``) of centre squares.

    The square is cut out before anything is resized, as the original does
    (``image[(h - side) // 2:(h + side) // 2, ...]``); its framing is then a resize alone.

    Args:
        root: a database (with ``data.mdb``, e.g. church_outdoor_train_lmdb) or a folder of images,
            nested or not.
        files: a text file with the name of an image on each line, with or without folders and
            ending; None: a share of all images by their hash (``ldm.data.listing``).
        split: without ``files``: train, validation or all.
        validation_fraction: without ``files``: share that is held out.
        seed: of that choice.

    Raises:
        DataError: list, folder or database is missing, damaged or empty, or lacks listed images.
    """

    def __init__(
        self,
        root: str | Path,
        files: str | Path | None = None,
        split: str = "all",
        validation_fraction: float = 0.01,
        seed: int = 0,
    ) -> None:
        self.root = Path(root).expanduser()
        self._database = Database(self.root) if (self.root / "data.mdb").is_file() else None
        listed = None if files is None else [_stem(line) for _, line in read_list(files, LISTS)]
        if self._database is not None:
            names = listed if listed is not None else self._database.keys()
            if names and self._database.get(names[0]) is None:
                raise _absent(self.root, names[0], files)
        else:
            names = list_folder(self.root).images
            if listed is not None:
                names = _listed(self.root, names, listed, files)
        if listed is None:
            names = split_files(self.root, names, split, validation_fraction, seed)
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Path of the file, or of the database and the key."""
        return shown(self.root / self.names[index])

    def read(self, index: int, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
        """The centre square of an image, and its size."""
        if self._database is None:
            image, stored = read_image(self.root / self.names[index], at_least)
        else:
            data = self._database.get(self.names[index])
            if data is None:
                raise DataError(f"'{shown(self.root)}' has no image '{self.names[index]}'")
            image, stored = decode_image(data, self.name(index), at_least)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.crop((left, top, left + side, top + side)), (min(stored), min(stored))

    def entries(self, _index: int, _uniform: Uniform) -> dict[str, Any]:
        """Nothing more is known of them."""
        return {}


class Database:
    """Read-only access to an lmdb database.

    It is opened for every read, which costs little beside decoding an image: lmdb neither opens a
    database twice in one process nor lets a forked worker use or reopen that of its parent.

    Args:
        path: folder with ``data.mdb``.

    Raises:
        DataError: the package lmdb is missing, or the database is damaged or cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        needed = self._using(lambda env: (env.info()["last_pgno"] + 1) * env.stat()["psize"])
        size = (path / "data.mdb").stat().st_size
        if size < needed:  # reading beyond the end would kill the process
            raise DataError(
                f"database '{shown(path)}' is cut short: data.mdb has {size} of {needed} bytes; "
                "get it again"
            )

    def keys(self) -> list[str]:
        """All keys in order."""

        def read(environment: Any) -> list[str]:
            with environment.begin() as transaction:
                found = transaction.cursor().iternext(keys=True, values=False)
                return [os.fsdecode(key) for key in found]

        return self._using(read)

    def get(self, key: str) -> bytes | None:
        """The value of a key."""

        def read(environment: Any) -> bytes | None:
            with environment.begin() as transaction:
                value: bytes | None = transaction.get(os.fsencode(key))
                return value

        return self._using(read)

    def _using(self, read: Callable[[Any], T]) -> T:
        try:
            import lmdb
        except ModuleNotFoundError:
            raise DataError(
                f"'{shown(self.path)}' is an lmdb database: pip install lmdb, or export it to a "
                "folder of images"
            ) from None
        options = {"readonly": True, "lock": False, "readahead": False}
        try:
            with lmdb.open(os.fsencode(self.path), **options) as environment:
                return read(environment)
        except lmdb.Error as error:
            raise DataError(
                f"cannot read database '{shown(self.path)}' ({error}): it is damaged or cut short"
            ) from error


def _listed(
    root: Path, images: Sequence[str], listed: Sequence[str], files: str | Path | None
) -> list[str]:
    """The paths of listed images, which are known by their names alone."""
    paths: dict[str, list[str]] = {}
    for path in images:
        paths.setdefault(_stem(path), []).append(path)
    names = Names(paths, f"folder '{shown(root)}'")
    found = []
    for name in listed:
        stem = names.find(name, "")
        if stem is None:
            raise _absent(root, name, files)
        if len(paths[stem]) > 1:
            first, second = (shown(root / path) for path in paths[stem][:2])
            raise DataError(
                f"'{first}' and '{second}' have one name, which a list names: keep one of them"
            )
        found.append(paths[stem][0])
    return found


def _absent(root: Path, name: str, files: str | Path | None) -> DataError:
    return DataError(f"'{shown(root)}' lacks '{shown(name)}', an image of '{files}'")


def _stem(line: str) -> str:
    name = PurePosixPath(line)
    return name.stem if name.suffix.lower() in (".webp", ".jpg", ".jpeg", ".png") else name.name
