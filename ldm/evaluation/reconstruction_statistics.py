"""Reconstruction metrics of a whole data set, gathered batch by batch."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import torch
from torch import Tensor

from ldm.evaluation.reconstruction import SSIM_WINDOW, psnr, resampled, saturated, ssim

Distance = Callable[[Tensor, Tensor], Tensor]


class PerImage:
    """A metric with one value per image; all of them are kept, 8 bytes each."""

    def __init__(self) -> None:
        self._values = array("d")  # not tensors: so many small ones would fragment the heap

    def add(self, values: Tensor) -> None:
        """Append the values (B,) of a batch."""
        self._values.extend(values.detach().flatten().tolist())

    @property
    def values(self) -> Tensor:
        """All values (N,), float64."""
        if not self._values:
            raise ValueError("no image was seen")
        return torch.tensor(self._values, dtype=torch.float64)

    @property
    def mean(self) -> float:
        """Mean over the images."""
        return float(self.values.mean())

    @property
    def median(self) -> float:
        """Median over the images, of which a few infinite ones do not make an infinity."""
        return float(self.values.median())

    @property
    def std(self) -> float | None:
        """Standard deviation over the images (divisor N - 1); None where it does not exist."""
        values = self.values
        if len(values) < 2 or not values.isfinite().all():
            return None
        return float(values.std())


class ReconstructionStatistics:
    """PSNR, SSIM, saturation and, with a network, LPIPS of reconstructions.

    Args:
        factor: downsampling factor f of the first stage, for the comparison with resampling.
        lpips: distance of images (B, C, H, W), one number per image.

    Attributes:
        images: number of images seen.
        nonfinite: how many reconstructions held NaN or infinity.
        psnr: in dB.
        ssim: None if the images are smaller than its window.
        lpips: None without a network.
        resampled_psnr: PSNR of the images shrunk by f and enlarged again; None for f = 1.
        saturated: share of the reconstructions' values at the ends of the range.
        saturated_originals: the same of the originals.
    """

    def __init__(self, factor: int, lpips: Distance | None = None) -> None:
        self.images = 0
        self.nonfinite = 0
        self.psnr = PerImage()
        self.ssim: PerImage | None = PerImage()
        self.lpips = PerImage() if lpips is not None else None
        self.resampled_psnr = PerImage() if factor > 1 else None
        self.saturated = PerImage()
        self.saturated_originals = PerImage()
        self._factor = factor
        self._distance = lpips

    def update(self, x: Tensor, decoded: Tensor) -> Tensor:
        """Add images (B, C, H, W) in [-1, 1] and what the decoder made of them.

        Returns:
            The reconstructions as they are measured: clamped to [-1, 1], NaN as 0.
        """
        self.images += len(x)
        self.nonfinite += int((~decoded.flatten(1).isfinite().all(1)).sum())
        decoded = decoded.float().nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0)
        y = decoded.clamp(-1, 1)
        self.saturated.add(saturated(decoded))
        self.saturated_originals.add(saturated(x))
        self.psnr.add(psnr(x, y))
        if min(x.shape[2:]) < SSIM_WINDOW:
            self.ssim = None
        if self.ssim is not None:
            self.ssim.add(ssim(x, y))
        if self.resampled_psnr is not None:
            self.resampled_psnr.add(psnr(x, resampled(x, self._factor)))
        if self.lpips is not None and self._distance is not None:
            self.lpips.add(self._distance(x, y))
        return y
