"""Images with a small, degraded copy, for super-resolution."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from ldm.data.items import Skips, WrappedItems
from ldm.data.super_resolution.bicubic import Degradation


class SuperResolution(Dataset[dict[str, Any]]):
    """Any data set of images with the small one from which each is to be recovered.

    Items are those of ``images`` with, besides, ``lr_image``: float (C, H / f, W / f) in [-1, 1].
    A model that concatenates it to the latent needs f to be the factor of its first stage.

    What is random in a degradation depends on (seed, epoch, index) only; where ``set_epoch`` is
    never called, as in validation, an image keeps its degradation.

    Args:
        images: data set whose items have ``image`` float (C, H, W) in [-1, 1].
        degradation: makes the small images; see ``ldm.data.super_resolution.bicubic``.
        seed: seed of the degradations.
        refused: what an image does for which ``images`` raises ``DataError``: error = raise,
            skip = take the next one instead. The paper leaves out images that are smaller than
            the result: that is ``small: error`` in ``images`` and skip here.

    Raises:
        DataError: the data set is empty.
    """

    def __init__(
        self,
        images: Dataset[dict[str, Any]],
        degradation: Degradation,
        seed: int = 0,
        refused: str = "error",
    ) -> None:
        self.images, self.degradation = images, degradation
        self._items = WrappedItems(images, seed, refused)

    @property
    def skips(self) -> Skips:
        """How many items ``images`` refused, over all workers."""
        return self._items.skips

    def __len__(self) -> int:
        return len(self._items)

    def set_epoch(self, epoch: int) -> None:
        """Give the following items new degradations and crops, also in running workers."""
        self._items.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        entries, generator = self._items[index]
        return {**entries, "lr_image": self.degradation(entries["image"], generator)}
