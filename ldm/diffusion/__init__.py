"""The forward process, what is predicted, how it is weighed and guided: figure 3 of the paper.

- ``LatentDiffusion``: A diffusion model in the latent space of a frozen autoencoder.
- ``NoiseSchedule``: Discrete variance-preserving diffusion q(x_t | x_0) = N(sqrt(abar_t) x_0, (1
  - abar_t) I).
- ``Prediction``: Contract of a prediction type; tensors x are (B, ...), steps t are (B,).
- ``Eps``: The noise (Ho et al. 2020): all published models.
- ``X0``: The clean data.
- ``V``: The velocity v = alpha noise - sigma x0 (Salimans & Ho 2022).
- ``Weighting``: Contract of a loss weighting (an ``nn.Module``, since it may have parameters).
- ``Uniform``: The mean: every step counts the same (L_simple of Ho et al. 2020, used by the
  paper).
- ``MinSNR``: min(SNR_t, gamma) on the error of x0 (Hang et al. 2023), whatever the network
  predicts.
- ``LogVariance``: The published mixture: losses scaled by a log-variance per step, plus a share
  of the ELBO.
- ``ClassifierFreeGuidance``: uncond + scale (cond - uncond) with one network pass (Ho & Salimans
  2022).
- ``RescaledGuidance``: Classifier-free guidance whose output keeps the spread of the conditional
  one (Lin et al. 2024).
- ``ClassifierGuidance``: eps - scale sigma_t grad_x log p(y | x_t) (Dhariwal & Nichol 2021, eq.
  14 and algorithm 2).
- ``ImageGuidance``: eps - scale sigma_t grad_z log p(y | D(z_0(z_t))) (LDM, appendix C; sign of
  ADM).
- ``DownsampledL2``: -1/2 ||y - T(x)||^2, T the bicubic reduction by a factor (LDM, appendix C,
  figure 14).
- ``Perceptual``: -d(y, T(x)), with LPIPS as the distance d in place of half the squared error.
- ``NoisyLatentClassifier``: log p(y | z_t): which class an image has, from its noisy latent.
- ``classifier_for``: A classifier of the latents of a trained diffusion model, with its measured
  scale factor.
- ``Step``: One update of a sampler.
- ``Sampler``: Contract of a sampler: immutable options, called once per batch of samples.
- ``run_sampler``: The last state of a sampler, whose arguments these are; ``x`` if no update is
  left.
"""

from ldm.diffusion.classifier import NoisyLatentClassifier, classifier_for
from ldm.diffusion.guidance import (
    ClassifierFreeGuidance,
    ClassifierGuidance,
    DownsampledL2,
    ImageGuidance,
    Perceptual,
    RescaledGuidance,
)
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.loss_weighting import LogVariance, MinSNR, Uniform, Weighting
from ldm.diffusion.prediction import X0, Eps, Prediction, V
from ldm.diffusion.sampling import Sampler, Step, run_sampler
from ldm.diffusion.schedule import NoiseSchedule

__all__ = [
    "X0",
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "DownsampledL2",
    "Eps",
    "ImageGuidance",
    "LatentDiffusion",
    "LogVariance",
    "MinSNR",
    "NoiseSchedule",
    "NoisyLatentClassifier",
    "Perceptual",
    "Prediction",
    "RescaledGuidance",
    "Sampler",
    "Step",
    "Uniform",
    "V",
    "Weighting",
    "classifier_for",
    "run_sampler",
]
