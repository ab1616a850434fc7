"""First stages: from images to latents and back.

- ``AutoencoderKL``: KL-regularised first stage (LDM, section 3.1 and appendix G).
- ``AutoencoderVQ``: VQ-regularised first stage (LDM, section 3.1 and appendix G).
- ``AutoencoderIdentity``: The latent is the image (LDM-1 in the paper).
- ``Architecture``: Sizes that an encoder and its decoder share.
- ``VectorQuantizer``: Nearest code for every position.
- ``Autoencoder``: A first stage: images x (B, C, H, W) in [-1, 1], latents z (B, c, H/f, W/f).
- ``Posterior``: Distribution of the latents z (B, C, h, w) given images.
- ``DiagonalGaussian``: Normal distribution with independent entries (KL-regularised
  autoencoders).
- ``Deterministic``: All probability on one latent (VQ-regularised and identity autoencoders).
- ``Reconstruction``: One pass through an autoencoder, as its training needs it.
- ``TiledAutoencoder``: A trained first stage whose memory is bounded by the tile, not by the
  image.
- ``reconstruct``: Encode and decode images whose sides need not be multiples of f.
"""

from ldm.autoencoders.base import (
    Autoencoder,
    Deterministic,
    DiagonalGaussian,
    Posterior,
    Reconstruction,
)
from ldm.autoencoders.identity import AutoencoderIdentity
from ldm.autoencoders.kl import AutoencoderKL
from ldm.autoencoders.networks import Architecture
from ldm.autoencoders.quantizer import VectorQuantizer
from ldm.autoencoders.tiled import TiledAutoencoder, reconstruct
from ldm.autoencoders.vq import AutoencoderVQ

__all__ = [
    "Architecture",
    "Autoencoder",
    "AutoencoderIdentity",
    "AutoencoderKL",
    "AutoencoderVQ",
    "Deterministic",
    "DiagonalGaussian",
    "Posterior",
    "Reconstruction",
    "TiledAutoencoder",
    "VectorQuantizer",
    "reconstruct",
]
