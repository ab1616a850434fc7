"""Images with holes, for inpainting."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ldm.data.inpainting.blending import hide
from ldm.data.inpainting.masks import Masks
from ldm.data.items import DerivedItems


class Inpainting(DerivedItems):
    """Any data set of images with a random mask for each.

    Items are those of ``images`` with, besides,

    - ``mask``: float (1, H, W), 1 = to be filled in, 0 = known
    - ``masked_image``: float (C, H, W) in [-1, 1], the image with ``hidden`` in the hole. At -1
      that is (1 - mask) * image in [0, 1], as the published model has it.

    The masks depend on (seed, epoch, index) only; where ``set_epoch`` is never called, as in
    validation, an image keeps its mask.

    Args:
        images: data set whose items have ``image`` float (C, H, W) in [-1, 1].
        masks: draws them; see ``ldm.data.inpainting.masks``.
        seed: seed of the masks.
        refused: what an image does for which ``images`` raises ``DataError``: error = raise,
            skip = take the next one instead.
        hidden: value of the image in its hole, that of the model's ``LatentImage``.

    Raises:
        DataError: the data set is empty.
    """

    def __init__(
        self,
        images: Dataset[dict[str, Any]],
        masks: Masks,
        seed: int = 0,
        refused: str = "error",
        hidden: float = -1.0,
    ) -> None:
        super().__init__(images, seed, refused)
        self.masks, self.hidden = masks, hidden

    def derive(self, image: Tensor, generator: np.random.Generator) -> dict[str, Any]:
        """``mask`` and ``masked_image``."""
        height, width = image.shape[-2:]
        mask = torch.from_numpy(self.masks(height, width, generator))[None].float()
        return {"mask": mask, "masked_image": hide(image, mask, self.hidden)}
