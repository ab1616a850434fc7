"""LSUN: the lmdb databases as they are distributed, or the images in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from PIL import Image

from ldm.data.image_io import decode_image, read_image
from ldm.data.items import Uniform
from ldm.data.listing import list_folder, read_list, split_files
from ldm.errors import DataError

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
            missing = next((n for n in names[:1] if self._database.get(n) is None), None)
        else:
            paths = {_stem(path): path for path in list_folder(self.root).images}
            missing = next((name for name in listed or () if name not in paths), None)
            names = list(paths.values()) if listed is None else [paths.get(n, n) for n in listed]
        if missing is not None:
            raise DataError(f"'{self.root}' lacks '{missing}', an image of '{files}'")
        if listed is None:
            names = split_files(self.root, names, split, validation_fraction, seed)
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Path of the file, or of the database and the key."""
        return str(self.root / self.names[index])

    def read(self, index: int, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
        """The centre square of an image, and its size."""
        if self._database is None:
            image, stored = read_image(self.root / self.names[index], at_least)
        else:
            data = self._database.get(self.names[index])
            if data is None:
                raise DataError(f"'{self.root}' has no image '{self.names[index]}'")
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
                f"database '{path}' is cut short: data.mdb has {size} of {needed} bytes; get it "
                "again"
            )

    def keys(self) -> list[str]:
        """All keys in order."""

        def read(environment: Any) -> list[str]:
            with environment.begin() as transaction:
                found = transaction.cursor().iternext(keys=True, values=False)
                return [key.decode("utf-8", "replace") for key in found]

        return self._using(read)

    def get(self, key: str) -> bytes | None:
        """The value of a key."""

        def read(environment: Any) -> bytes | None:
            with environment.begin() as transaction:
                value: bytes | None = transaction.get(key.encode())
                return value

        return self._using(read)

    def _using(self, read: Callable[[Any], T]) -> T:
        try:
            import lmdb
        except ModuleNotFoundError:
            raise DataError(
                f"'{self.path}' is an lmdb database: pip install lmdb, or export it to a folder of "
                "images"
            ) from None
        options = {"readonly": True, "lock": False, "readahead": False}
        try:
            with lmdb.open(str(self.path), **options) as environment:
                return read(environment)
        except lmdb.Error as error:
            raise DataError(
                f"cannot read database '{self.path}' ({error}): it is damaged or cut short"
            ) from error


def _stem(line: str) -> str:
    name = PurePosixPath(line)
    return name.stem if name.suffix.lower() in (".webp", ".jpg", ".jpeg", ".png") else name.name
