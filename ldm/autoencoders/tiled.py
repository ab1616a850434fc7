"""First stages on images of any size: too large for memory, or with sides f does not divide."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.autoencoders.base import (
    MOMENTS,
    Autoencoder,
    Deterministic,
    DiagonalGaussian,
    Reconstruction,
    to_entry,
)
from ldm.layers.tiling import StandIn, Tiling


class TiledAutoencoder(StandIn):
    """A trained first stage whose memory is bounded by the tile, not by the image.

    Means and log-variances (or the latents before quantisation) of the tiles are blended, and so
    are decoded pixels. Rounding latents to a codebook looks at one place at a time: it makes no
    difference that it happens after they were cut. Attention and group normalisation see one tile
    at a time, therefore brightness can differ a little between tiles.

    Stands in for the first stage of a loaded model: ``model.autoencoder =
    TiledAutoencoder(model.autoencoder, Tiling(64, 16))``. Attributes of the first stage
    (``latent_channels``, ``downsampling_factor``, ...) are those of the wrapper, too.

    Args:
        autoencoder: the first stage.
        tiling: tiles in cells of the *latent*; those of the image are f times as large.
    """

    replaces = "autoencoder"

    def __init__(self, autoencoder: Autoencoder, tiling: Tiling) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder
        self.tiling = tiling

    def encode(self, x: Tensor) -> DiagonalGaussian | Deterministic:
        """Posterior of images (B, C, H, W) in [-1, 1].

        Raises:
            ValueError: more than one tile is needed, and f does not divide H and W.
        """
        factor = self.autoencoder.downsampling_factor
        tiling = self.tiling.scaled(factor)
        kinds: set[str] = set()

        def moments(tile: Tensor) -> Tensor:
            kind, values = to_entry(self.autoencoder.encode(tile))
            kinds.add(kind)
            return values

        values = tiling.apply(moments, x, down=factor)
        return DiagonalGaussian(values) if kinds == {MOMENTS} else Deterministic(values)

    def decode(self, z: Tensor, **options: Any) -> Tensor:
        """Images (B, C, f*h, f*w) of latents z (B, c, h, w).

        Args:
            z: latents.
            options: those of the first stage's own ``decode``, e.g. ``quantize=False``.
        """

        def image(tile: Tensor) -> Tensor:
            result: Tensor = self.autoencoder.decode(tile, **options)
            return result

        return self.tiling.apply(image, z, up=self.autoencoder.downsampling_factor)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Reconstruction:
        """Encode, draw a latent, decode."""
        posterior = self.encode(x)
        z = posterior.sample(generator)
        if not hasattr(self, "quantize"):
            return Reconstruction(self.decode(z), posterior, None, None)
        quantized = self.quantize(z)
        image = self.decode(quantized.z, quantize=False)
        return Reconstruction(image, posterior, quantized.loss, quantized.indices)


def reconstruct(model: Autoencoder, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Encode and decode images whose sides need not be multiples of f.

    Args:
        model: a first stage.
        x: images (B, C, H, W) in [-1, 1].
        generator: draws the latent; None decodes the most probable one.

    Returns:
        Reconstructions (B, C, H, W); values may lie outside [-1, 1].
    """
    posterior = model.encode(pad_to_multiple(x, model.downsampling_factor))
    z = posterior.mode() if generator is None else posterior.sample(generator)
    return model.decode(z)[:, :, : x.shape[2], : x.shape[3]]


def pad_to_multiple(x: Tensor, factor: int) -> Tensor:
    """Images (B, C, H, W) continued to the right and below, until ``factor`` divides the sides.

    By their mirror image, which goes on as the picture does. A side too short for that is continued
    by its last row or column.
    """
    for axis in (-2, -1):
        side = x.shape[axis]
        missing = -side % factor
        if missing:
            padding = (0, 0, 0, missing) if axis == -2 else (0, missing, 0, 0)
            x = F.pad(x, padding, mode="reflect" if missing < side else "replicate")
    return x
