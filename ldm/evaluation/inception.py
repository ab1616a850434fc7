"""Inception v3 as published FIDs and Inception scores use it, by way of torch-fidelity."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm.errors import CheckpointError, UserError

WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""The file of torch-fidelity: the weights of the TensorFlow network of 2015."""


class InceptionFeatures(nn.Module):
    """The 2048 pooled features of Inception v3; images are resized as the TensorFlow code did.

    Args:
        weights: path of ``WEIGHTS_FILE``; None = PyTorch's folder of downloaded checkpoints.
            Nothing is downloaded.

    Raises:
        UserError: torch-fidelity is not installed.
        CheckpointError: the weights are absent or damaged.
    """

    name = "InceptionV3 (torch-fidelity, 2048 features)"
    dim = 2048

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise UserError(
                "Inception features need the package torch-fidelity: pip install torch-fidelity"
            ) from None
        path = _find_weights(weights)
        try:
            # torch-fidelity unpickles the file: make sure first that it holds tensors only.
            torch.load(path, map_location="meta", weights_only=True)
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat",
                ["2048", "logits_unbiased"],
                feature_extractor_weights_path=str(path),
            )
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, AttributeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"'{path}' does not hold the Inception weights ({reason}): fetch {WEIGHTS_FILE} of "
                "torch-fidelity again"
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 2048) of images (B, 3, H, W) in [-1, 1], taken at 8 bits."""
        return self.features_and_logits(images)[0]

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, 2048) and the logits (B, 1008) of the published Inception scores.

        Those are the output of the classifier without its bias: the code by which Inception scores
        are published left it out.
        """
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        features, logits = self.network(pixels)
        return features, logits


def _find_weights(weights: str | Path | None) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / WEIGHTS_FILE if weights is None else Path(weights).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"Inception weights '{path}' are absent: take {WEIGHTS_FILE} from the releases of "
            "torch-fidelity and place it there, or name it: weights in a config, "
            "--inception-weights of a script"
        )
    return path
