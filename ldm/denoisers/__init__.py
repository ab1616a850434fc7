"""Networks that predict the noise: ``denoiser(x, t, context=None, y=None)``.

- ``UNet``: Denoiser of LDM (section 3.2 and appendix E.2; the architecture of ADM).
- ``EncoderUNet``: Classifier of ADM (Dhariwal & Nichol, 2021) and of LDM-8-G: input half, middle
  and a pool.
- ``PointMLP``: Residual perceptron of single points x (B, C), of the step and of a class.
- ``TiledDenoiser``: A trained denoiser for latents larger than it can, or should, see at once.
"""

from ldm.denoisers.encoder_unet import EncoderUNet
from ldm.denoisers.point_mlp import PointMLP
from ldm.denoisers.tiled import TiledDenoiser
from ldm.denoisers.unet import UNet

__all__ = [
    "EncoderUNet",
    "PointMLP",
    "TiledDenoiser",
    "UNet",
]
