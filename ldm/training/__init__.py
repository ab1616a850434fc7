"""The side of Lightning: tasks, data module, callbacks, run folders.

- ``train``: Train ``config`` in ``folder``, from the start or from its newest good checkpoint.
- ``open_run``: Start, continue or skip a run, and never mix two.
- ``RunFolder``: Where the parts of a run lie.
- ``AutoencoderTask``: Alternates one step of the autoencoder and one of the discriminator on
  every batch.
- ``LatentDiffusionTask``: Optimises a ``LatentDiffusion`` model.
- ``ClassifierTask``: Optimises a ``NoisyLatentClassifier``.
- ``FeatureTask``: Optimises a network that brings its own supervised loss.
- ``DataModule``: Training and validation loaders over any data sets.
- ``Constant``: Factor 1, after an optional linear warm-up over ``warmup_steps`` steps.
- ``WarmupCosine``: Linear from ``start`` to ``peak``, then half a cosine down to ``end`` at
  ``decay_steps``.
- ``CosineCycles``: Several ``WarmupCosine`` one after the other; all attributes have one entry
  per cycle.
- ``LinearCycles``: Cycles of a linear warm-up and a linear decay; attributes as for
  ``CosineCycles``.
- ``LRPerSample``: Makes optimisers whose learning rate is ``base_lr`` times the batch of an
  optimiser step.
- ``Muon``: Muon for the matrices of a network, AdamW for its other parameters, with one learning
  rate.
- ``EMA``: Average of the trainable parameters of a module: shadow <- d shadow + (1 - d) weight.
- ``EMACallback``: Keeps an exponential moving average of ``task.model`` and validates with it.
"""

from ldm.training.callbacks.ema import EMA, EMACallback
from ldm.training.data.module import DataModule
from ldm.training.optim.making import LRPerSample
from ldm.training.optim.muon import Muon
from ldm.training.optim.schedules import Constant, CosineCycles, LinearCycles, WarmupCosine
from ldm.training.run import open_run, train
from ldm.training.run_folder import RunFolder
from ldm.training.tasks.autoencoder import AutoencoderTask
from ldm.training.tasks.classifier import ClassifierTask
from ldm.training.tasks.features import FeatureTask
from ldm.training.tasks.latent_diffusion import LatentDiffusionTask

__all__ = [
    "EMA",
    "AutoencoderTask",
    "ClassifierTask",
    "Constant",
    "CosineCycles",
    "DataModule",
    "EMACallback",
    "FeatureTask",
    "LRPerSample",
    "LatentDiffusionTask",
    "LinearCycles",
    "Muon",
    "RunFolder",
    "WarmupCosine",
    "open_run",
    "train",
]
