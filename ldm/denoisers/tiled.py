"""A denoiser that sees large latents in overlapping tiles."""

from __future__ import annotations

from torch import Tensor, nn

from ldm.layers.tiling import StandIn, Tiling


class TiledDenoiser(StandIn):
    """A trained denoiser for latents larger than it can, or should, see at once.

    Every prediction is the weighted mean of those of the tiles that cover a place. All tiles share
    the step, the context and the class ids; maps that are concatenated to the latent are channels
    of x, and cut with it. What lies further apart than a tile is not made to match.

    Stands in for the denoiser of a loaded model: ``model.denoiser = TiledDenoiser(model.denoiser,
    Tiling(64, 16))``. Attributes of the denoiser (``in_channels``, ``context_dim``, ...) are those
    of the wrapper, too.

    Args:
        denoiser: network called as ``denoiser(x, t, context=..., y=...)``.
        tiling: tiles in cells of the latent. Best as large as the latents of its training.
    """

    replaces = "denoiser"

    def __init__(self, denoiser: nn.Module, tiling: Tiling) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.tiling = tiling

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor | None = None, y: Tensor | None = None
    ) -> Tensor:
        """Predict from a noisy latent.

        Args:
            x: (B, in_channels, h, w) of any size. One that a single tile covers is handed to the
                network as it is.
            t: diffusion steps (B,).
            context: (B, L, D).
            y: class ids (B,).

        Returns:
            Prediction (B, out_channels, h, w).
        """

        def predict(tile: Tensor) -> Tensor:
            prediction: Tensor = self.denoiser(tile, t, context=context, y=y)
            return prediction

        return self.tiling.apply(predict, x)
