"""Objectives of the first stage: perceptual distance, patch discriminator, their balance.

- ``Objective``: Everything but the regulariser of the latent.
- ``KLObjective``: Objective of the KL-regularised autoencoder; every term is a SUM divided by the
  batch size.
- ``VQObjective``: Objective of the vector-quantised autoencoder; every term is a MEAN.
- ``Adversarial``: How, and from when on, the discriminator takes part in the training of an
  autoencoder.
- ``patch_discriminator``: PatchGAN discriminator (Isola et al. 2017), freshly initialised.
- ``LPIPS``: Learned perceptual image patch similarity with VGG16 (Zhang et al. 2018, eq. 1).
- ``lpips``: LPIPS with its published weights, which are read from files and never downloaded.
"""

from ldm.losses.adversarial import Adversarial, patch_discriminator
from ldm.losses.autoencoder import KLObjective, Objective, VQObjective
from ldm.losses.perceptual import LPIPS, lpips

__all__ = [
    "LPIPS",
    "Adversarial",
    "KLObjective",
    "Objective",
    "VQObjective",
    "lpips",
    "patch_discriminator",
]
