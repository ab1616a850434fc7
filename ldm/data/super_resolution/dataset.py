"""Images with a small, degraded copy, for super-resolution."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.items import DerivedItems
from ldm.data.super_resolution.bicubic import Degradation


class SuperResolution(DerivedItems):
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
        super().__init__(images, seed, refused)
        self.degradation = degradation

    def derive(self, image: Tensor, generator: np.random.Generator) -> dict[str, Any]:
        """``lr_image``."""
        return {"lr_image": self.degradation(image, generator)}
