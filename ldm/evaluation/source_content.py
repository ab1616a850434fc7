"""What the images of a source are, in a hash and a few counts; remembered where it is slow."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.atomic_write import write_atomically
from ldm.data.image_files import DECODING_ERRORS

_FORMAT = 1
"""Of the remembered files: another number makes all of them void."""


@dataclass(frozen=True)
class Content:
    """What the images of a source are.

    Attributes:
        sha256: hex digest of names and content, in order.
        count: images, the unreadable ones included.
        formats: how many files there are of each format ("unreadable" where the head is damaged).
        modes: the same of colour modes as stored, in Pillow's words.
        sizes: least and greatest height and width as stored; empty if none is known.
        labels: class ids, where reading the images is what tells them.
    """

    sha256: str
    count: int
    formats: dict[str, int]
    modes: dict[str, int]
    sizes: dict[str, list[int]]
    labels: list[int] | None = None

    def about(self) -> dict[str, Any]:
        """The entries of ``SourceInfo.about``."""
        return {"formats": self.formats, "modes": self.modes, "sizes": self.sizes}


@dataclass(frozen=True)
class Head:
    """One image: name, digest of its content, format, mode, (height, width) as stored."""

    name: str
    digest: str
    format: str
    mode: str = ""
    size: tuple[int, int] | None = None


def read_head(name: str, data: bytes) -> Head:
    """What the bytes of an image file say; pixels are not decoded."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        with Image.open(io.BytesIO(data)) as image:
            return Head(name, digest, image.format or "", image.mode, (image.height, image.width))
    except DECODING_ERRORS:
        return Head(name, digest, "unreadable")


@dataclass
class ContentCounter:
    """Gathers the heads of the images of a source, in their order."""

    count: int = 0
    _digest: Any = field(default_factory=hashlib.sha256)
    _formats: Counter[str] = field(default_factory=Counter)
    _modes: Counter[str] = field(default_factory=Counter)
    _sizes: Counter[tuple[int, int]] = field(default_factory=Counter)

    def add(self, head: Head) -> None:
        """The next image."""
        self._digest.update(f"{head.name}\0{head.digest}\0".encode())
        self.count += 1
        self._formats[head.format] += 1
        if head.size is not None:
            self._modes[head.mode] += 1
            self._sizes[head.size] += 1

    def content(self, labels: list[int] | None = None) -> Content:
        """What has been added."""
        sizes = {}
        if self._sizes:
            heights, widths = zip(*self._sizes, strict=True)
            sizes = {
                "height": [min(heights), max(heights)],
                "width": [min(widths), max(widths)],
            }
        formats, modes = dict(self._formats), dict(self._modes)
        return Content(self._digest.hexdigest(), self.count, formats, modes, sizes, labels)


@dataclass(frozen=True)
class ContentCache:
    """Remembers contents by what, paths, sizes and times of change of the files behind them.

    Attributes:
        folder: where; None: nothing is remembered.
    """

    folder: Path | None = None

    def content(self, what: str, files: Sequence[Path], scan: Callable[[], Content]) -> Content:
        """The content as remembered, else as scanned.

        Args:
            what: all else that decides about the content.
            files: that it is read from.
            scan: reads them.
        """
        if self.folder is None:
            return scan()
        file = self.folder / f"source-{_key(what, files)}.json"
        try:
            return Content(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # absent or damaged: written anew
            content = scan()
        text = json.dumps(asdict(content))
        write_atomically(file, lambda out: out.write(text.encode()))
        return content


def _key(what: str, files: Sequence[Path]) -> str:
    digest = hashlib.sha256(f"{_FORMAT}\0{what}".encode())
    for path in files:
        try:
            stat = path.stat()
            state = f"{stat.st_size}:{stat.st_mtime_ns}"
        except OSError:
            state = "absent"
        digest.update(f"\0{path.absolute()}\0{state}".encode())
    return digest.hexdigest()[:32]
