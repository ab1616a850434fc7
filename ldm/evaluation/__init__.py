"""Protocols, metrics and reports: how good samples and reconstructions are.

The metrics are functions of features or images. As ``torchmetrics.Metric``, for a loop that logs
them, they are in ``ldm.evaluation.metrics.modules``, which is imported where it is used, since
TorchMetrics loads matplotlib and transformers.

- ``evaluate``: Measure generated images by a protocol.
- ``EvaluationProtocol``: How samples are to be measured.
- ``EvaluationReport``: Measurements under a title; ``to_json`` for programs, ``table`` for
  people.
- ``ImageSource``: Images in an order, to be read any number of times.
- ``open_source``: Open what a user names.
- ``Network``: A network that turns pixels into one or more kinds of features.
- ``network``: A published feature network with its weights, in eval mode, on the CPU.
- ``FeatureNetwork``: The base of feature networks that a run trains, or of one's own.
- ``SceneFeatures``: Counts the objects of each class; its penultimate layer gives features.
- ``ClassFeatures``: Tells classes apart; its penultimate layer gives features.
- ``FeatureStatistics``: Streaming mean and covariance (Chan et al. 1983: stable for means far
  from zero).
- ``frechet_distance``: Squared Fréchet distance, called FID with Inception features; see
  ``Gaussian.distance``.
- ``frechet_from_features``: The same of features (N, D) and (M, D), fast where N and M are small.
- ``frechet_infinity``: Fit a line in 1/N to distances of random subsets, and read it at 0 (Chong
  & Forsyth 2020).
- ``kernel_distance``: Unbiased squared maximum mean discrepancy with the kernel ``(x.y / D +
  1)^3``.
- ``InceptionScore``: ``exp(E_x KL(p(y|x) || p(y)))``, in each of several random parts of the
  images.
- ``precision_recall``: Share of each set that lies within the estimated manifold of the other.
- ``density_coverage``: Count how many balls around real points hold a fake, and how many hold
  any.
- ``psnr``: Peak signal-to-noise ratio in dB, (B,); infinite for an exact copy.
- ``ssim``: Structural similarity (Wang et al. 2004), the mean over channels and windows, (B,).
- ``clip_score``: Mean and deviation of ``clip_scores``, with its arguments and errors.
- ``class_accuracy``: Top-1 and top-5 accuracy, called classification accuracy score where samples
  are judged.
- ``copies``: Measure memorisation in features (or in pixels, flattened).
- ``assess``: Judge a first stage by its numbers; the thresholds are the constants of this file.
- ``judge``: Find the objects of a synthetic scene, largest first.
"""

from ldm.evaluation.evaluator import evaluate
from ldm.evaluation.first_stage import assess
from ldm.evaluation.metrics.alignment import class_accuracy, clip_score
from ldm.evaluation.metrics.fid import FeatureStatistics, frechet_distance, frechet_from_features
from ldm.evaluation.metrics.fid_bias import frechet_infinity
from ldm.evaluation.metrics.inception_score import InceptionScore
from ldm.evaluation.metrics.kid import kernel_distance
from ldm.evaluation.metrics.memorization import copies
from ldm.evaluation.metrics.precision_recall import density_coverage, precision_recall
from ldm.evaluation.metrics.reconstruction import psnr, ssim
from ldm.evaluation.networks.base import FeatureNetwork, Network
from ldm.evaluation.networks.registry import network
from ldm.evaluation.networks.small import ClassFeatures, SceneFeatures
from ldm.evaluation.protocol import EvaluationProtocol
from ldm.evaluation.report import EvaluationReport
from ldm.evaluation.scenes.judge import judge
from ldm.evaluation.sources.base import ImageSource
from ldm.evaluation.sources.open import open_source

__all__ = [
    "ClassFeatures",
    "EvaluationProtocol",
    "EvaluationReport",
    "FeatureNetwork",
    "FeatureStatistics",
    "ImageSource",
    "InceptionScore",
    "Network",
    "SceneFeatures",
    "assess",
    "class_accuracy",
    "clip_score",
    "copies",
    "density_coverage",
    "evaluate",
    "frechet_distance",
    "frechet_from_features",
    "frechet_infinity",
    "judge",
    "kernel_distance",
    "network",
    "open_source",
    "precision_recall",
    "psnr",
    "ssim",
]
