"""What may lie beside each image of a folder: a label map, a mask, another picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.data.cuts import take
from ldm.data.image_files import read_image
from ldm.data.label_maps import check_label_map, read_label_map
from ldm.data.transforms import Cut, to_tensor
from ldm.errors import DataError

NO_CLASS = -1


class Partner(Protocol):
    """A file that belongs to an image, found by the name of the image."""

    root: Path
    factor: int
    """How many times smaller than the image it is."""

    def path(self, image: str) -> str:
        """Its path below ``root``, of that of an image."""
        ...

    def read(self, path: Path) -> Image.Image:
        """The file as something that can be cut; raises ``DataError``."""
        ...

    def tensor(self, partner: Image.Image, cut: Cut, size: tuple[int, int]) -> Tensor:
        """The entry of the batch: the part that a cut of the image names."""
        ...


class LabelMap:
    """Class ids: long (H, W), -1 where there is no class; resized without mixing ids.

    Args:
        root: folder of the maps; see ``ldm.data.label_maps.read_label_map``.
        num_classes: number of classes.
        ending: what replaces the ending of the name of the image.
        offset: added to the stored ids.
        ignore: stored ids that mean "no class".
    """

    factor = 1

    def __init__(
        self,
        root: str | Path,
        num_classes: int,
        ending: str = ".png",
        offset: int = 0,
        ignore: Sequence[int] = (255,),
    ) -> None:
        self.root = Path(root).expanduser()
        self.num_classes, self.ending = num_classes, ending
        self.offset, self.ignore = offset, tuple(ignore)

    def path(self, image: str) -> str:
        """Its path below ``root``."""
        return _partner_path(image, self.ending)

    def read(self, path: Path) -> Image.Image:
        """The ids, as an image of integers.

        Raises:
            DataError: the file is damaged or holds an id that is no class.
        """
        stored = read_label_map(path)
        known = torch.ones_like(stored, dtype=torch.bool)
        for other in self.ignore:
            known &= stored != other
        ids = torch.where(known, stored + self.offset, NO_CLASS)
        check_label_map(ids, self.num_classes, (NO_CLASS,), f"label map {path}")
        return Image.fromarray(ids.numpy().astype(np.int32))

    def tensor(self, partner: Image.Image, cut: Cut, size: tuple[int, int]) -> Tensor:
        """Long (H, W)."""
        ids = np.array(take(partner, cut, size, "nearest"))
        return torch.from_numpy(ids.astype(np.int64))


class Mask:
    """A mask: float (1, H, W), 1 = hole, 0 = known.

    Args:
        root: folder of the masks, images that are white (1) where the hole is.
        ending: what replaces the ending of the name of the image.
        invert: black is the hole.
    """

    factor = 1

    def __init__(self, root: str | Path, ending: str = ".png", invert: bool = False) -> None:
        self.root = Path(root).expanduser()
        self.ending, self.invert = ending, invert

    def path(self, image: str) -> str:
        """Its path below ``root``."""
        return _partner_path(image, self.ending)

    def read(self, path: Path) -> Image.Image:
        """The mask in grey; raises ``DataError``."""
        return read_image(path, mode="L")[0]

    def tensor(self, partner: Image.Image, cut: Cut, size: tuple[int, int]) -> Tensor:
        """Float (1, H, W) of 0 and 1."""
        white = to_tensor(take(partner, cut, size, "nearest")) >= 0
        return (white != self.invert).float()


class Picture:
    """Another image: float (3, H / factor, W / factor) in [-1, 1].

    Args:
        root: folder of the images.
        ending: what replaces the ending of the name of the image.
        factor: how many times smaller it is than the image, e.g. 4 for super-resolution.
        interpolation: how it is resized where the crop asks for it.

    Raises:
        DataError: ``factor`` is below 1.
    """

    def __init__(
        self,
        root: str | Path,
        ending: str = ".png",
        factor: int = 1,
        interpolation: str = "bicubic",
    ) -> None:
        if factor < 1:
            raise DataError(f"factor {factor} of a paired picture must be at least 1")
        self.root = Path(root).expanduser()
        self.ending, self.factor, self.interpolation = ending, factor, interpolation

    def path(self, image: str) -> str:
        """Its path below ``root``."""
        return _partner_path(image, self.ending)

    def read(self, path: Path) -> Image.Image:
        """The image; raises ``DataError``."""
        return read_image(path)[0]

    def tensor(self, partner: Image.Image, cut: Cut, size: tuple[int, int]) -> Tensor:
        """Float (3, H / factor, W / factor) in [-1, 1]."""
        part = take(partner, cut, size, self.interpolation, factor=self.factor)
        return to_tensor(part)


def _partner_path(image: str, ending: str) -> str:
    return str(PurePosixPath(image).with_suffix("")) + ending
