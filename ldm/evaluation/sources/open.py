"""Any source of images, or of what is known of images, by what the user calls it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ldm.data.image_io import EXTENSIONS
from ldm.errors import UserError
from ldm.evaluation.sources.base import ContentCache, ImageSource
from ldm.evaluation.sources.dataset import open_dataset
from ldm.evaluation.sources.folder import FolderSource
from ldm.evaluation.sources.npz import NpzSource
from ldm.evaluation.sources.record import has_record
from ldm.evaluation.sources.shards import ShardSource
from ldm.evaluation.sources.statistics import StoredStatistics, holds_statistics, read_statistics
from ldm.files import reason, shown
from ldm.places import split_name

FORMS = (
    "a folder of images, an npz file, tar shards (FOLDER/*.tar, {00..09}.tar) or a YAML with a "
    "data node (DATA.yaml, DATA.yaml#train)"
)
_ARCHIVES = (".tar", ".tar.gz", ".tgz")


def open_source(
    where: str,
    *,
    skip_corrupt: bool = False,
    num: int | None = None,
    classes: str | Sequence[str] = "auto",
    cache: Path | None = None,
    trust: bool = False,
) -> ImageSource | StoredStatistics:
    """Open what a user names.

    Args:
        where: one of ``FORMS``. An npz with mu and sigma is stored statistics, with images besides
            where it also holds arr_0.
        skip_corrupt: leave out images that cannot be read instead of raising at the end of a pass.
        num: use the first so many images, in order.
        classes: of a folder: auto, folder, none, or the names of the class folders by class id.
        cache: folder that remembers hashes of what is slow to read.
        trust: of a YAML that lies beside weights, see ``ldm.load.load_model``.

    Raises:
        UserError: it is none of these, is empty, or has fewer images than ``num``.
    """
    path, remembered = Path(os.path.expanduser(where)), ContentCache(cache)
    if _is_folder(path):
        if _is_shard_folder(path):
            return ShardSource(where, num, skip_corrupt, remembered)
        return FolderSource(where, num, skip_corrupt, classes, remembered)
    if path.suffix == ".npz":
        if holds_statistics(path):
            return read_statistics(where, num, remembered)
        return NpzSource(where, num, remembered)
    if split_name(where)[0].endswith((".yaml", ".yml")):
        return open_dataset(where, num, skip_corrupt, remembered, trust)
    if where.lower().endswith(_ARCHIVES):
        return ShardSource(where, num, skip_corrupt, remembered)
    problem = "is none of the known forms" if os.path.lexists(path) else "does not exist"
    raise UserError(f"'{shown(where)}' {problem}: give {FORMS}")


def _is_shard_folder(folder: Path) -> bool:
    """Whether shards are what it holds.

    Raises:
        UserError: it is a run, or could be meant in two ways.
    """
    if has_record(folder):
        return False
    if (folder / "config.yaml").is_file() and (folder / "status.json").is_file():
        raise UserError(
            f"'{shown(folder)}' is a run, not a folder of images: sample it first, and name the "
            "folder of the samples"
        )
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise UserError(f"cannot list folder '{shown(folder)}' ({reason(error)})") from error
    if not any(name.lower().endswith(".tar") for name in names):
        return False
    loose = next((name for name in sorted(names) if name.lower().endswith(EXTENSIONS)), None)
    if loose is not None:
        raise UserError(
            f"'{shown(folder)}' holds shards and images ({shown(loose)}): name one, "
            f"{shown(folder)}/*.tar for the shards, or move the images to a folder of their own"
        )
    return True


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long, or a zero byte
        return False
