"""One's own boxes: images of a folder and a JSON file of layouts."""

from __future__ import annotations

from pathlib import Path

from ldm.data.box_json import read_layouts
from ldm.data.box_tokens import WHOLE, Box
from ldm.data.file_list import check_first
from ldm.data.folder_items import split_files
from ldm.errors import DataError


class JsonBoxes:
    """A source (``ldm.data.layout_images``) of images with boxes; see ``ldm.data.box_json``.

    Args:
        root: folder of the images.
        layouts: the JSON file, with ``classes``; the name of a layout is the path of its image
            below ``root``.
        split: train, validation or all; see ``folder_listing.choose_split``.
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
        return self.root / self.files[index]

    def boxes(self, index: int) -> list[Box]:
        """Boxes of an image."""
        return self._boxes[self.files[index]]
