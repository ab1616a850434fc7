"""Images with holes, for inpainting."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

from ldm.data.inpainting.blending import blacken
from ldm.data.inpainting.masks import Masks
from ldm.data.items import Skips, WrappedItems


class Inpainting(Dataset[dict[str, Any]]):
    """Any data set of images with a random mask for each.

    Items are those of ``images`` with, besides,

    - ``mask``: float (1, H, W), 1 = to be filled in, 0 = known
    - ``masked_image``: float (C, H, W) in [-1, 1], the image with -1 in the hole. That is
      (1 - mask) * image in [0, 1], as the published model has it.

    The masks depend on (seed, epoch, index) only; where ``set_epoch`` is never called, as in
    validation, an image keeps its mask.

    Args:
        images: data set whose items have ``image`` float (C, H, W) in [-1, 1].
        masks: draws them; see ``ldm.data.inpainting.masks``.
        seed: seed of the masks.
        refused: what an image does for which ``images`` raises ``DataError``: error = raise,
            skip = take the next one instead.

    Raises:
        DataError: the data set is empty.
    """

    def __init__(
        self,
        images: Dataset[dict[str, Any]],
        masks: Masks,
        seed: int = 0,
        refused: str = "error",
    ) -> None:
        self.images, self.masks = images, masks
        self._items = WrappedItems(images, seed, refused)

    @property
    def skips(self) -> Skips:
        """How many items ``images`` refused, over all workers."""
        return self._items.skips

    def __len__(self) -> int:
        return len(self._items)

    def set_epoch(self, epoch: int) -> None:
        """Give the following items new masks and crops, also in running workers."""
        self._items.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        entries, generator = self._items[index]
        image = entries["image"]
        height, width = image.shape[-2:]
        mask = torch.from_numpy(self.masks(height, width, generator))[None].float()
        return {**entries, "mask": mask, "masked_image": blacken(image, mask)}
