"""Inception v3 as published FIDs and Inception scores use it, by way of torch-fidelity."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm.containers.zips import check_if_zip
from ldm.errors import CheckpointError, DamagedFileError, UserError
from ldm.evaluation.networks.base import PublishedWeights
from ldm.evaluation.networks.resizing import NETWORK, resizer, tf1_bilinear
from ldm.files import file_sha256
from ldm.safe_pickle import load_plain

WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""The file of torch-fidelity: the weights of the TensorFlow network of 2015."""
WEIGHTS = PublishedWeights("Inception", WEIGHTS_FILE, "6726825d", "the releases of torch-fidelity")
SIDE = 299

_TO_MIXED_6D = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1"),
    *("Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2", "Mixed_5b", "Mixed_5c", "Mixed_5d"),
    *("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d"),
)
_TO_POOL = ("Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool")
_SPATIAL_CHANNELS, _SPATIAL_SIDE = 7, 17


class InceptionNetwork(nn.Module):
    """Three outputs of Inception v3; a :class:`~ldm.evaluation.Network`.

    - ``pool``: the 2048 pooled features, for FID.
    - ``spatial``: 7 channels of a map of 17 x 17, for the sFID of ADM (Nash et al. 2021), whose
      script calls it ``mixed_6/conv``; these are the first channels of ``Mixed_6d``. Channels vary
      fastest, as in ADM's reference files.
    - ``logits``: of 1008 classes, without the bias, as in published Inception scores. Their order
      is TensorFlow's, not that of ImageNet.

    Args:
        network: torch-fidelity's ``FeatureExtractorInceptionV3`` with weights.
        resize: name of a resizer; ``network``: TensorFlow's bilinear, inside.
        weights_file: where the weights came from, for reports.
        weights_sha256: digest of that file.
    """

    name = "inception"
    input_size = SIDE

    def __init__(
        self,
        network: nn.Module,
        resize: str = NETWORK,
        weights_file: str = "",
        weights_sha256: str = "",
    ) -> None:
        super().__init__()
        self.network = network
        self.resize = resizer(resize, SIDE)
        self.weights_file, self.weights_sha256 = weights_file, weights_sha256
        self.remark = WEIGHTS.remark(weights_sha256)
        self.outputs: Mapping[str, int] = {
            "pool": 2048,
            "spatial": _SPATIAL_CHANNELS * _SPATIAL_SIDE**2,
            "logits": 1008,
        }

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, h, w) in [0, 255], uint8 or float, to features (B, D) by name."""
        net: Any = self.network
        x = (tf1_bilinear(images.float(), (SIDE, SIDE)) - 128) / 128
        for name in _TO_MIXED_6D:
            x = getattr(net, name)(x)
        spatial = x[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        for name in _TO_POOL:
            x = getattr(net, name)(x)
        pool = x.flatten(1)
        return {"pool": pool, "spatial": spatial, "logits": pool.mm(net.fc.weight.T)}


def inception(weights: str | Path | None = None, resize: str = NETWORK) -> InceptionNetwork:
    """Inception v3 with the weights of a file; arguments as for ``networks.network``.

    Raises:
        UserError: torch-fidelity is not installed.
        CheckpointError: the weights are absent or damaged.
    """
    _package()
    path = WEIGHTS.find(weights)
    return InceptionNetwork(_load(path), resize, str(path), file_sha256(path)).eval()


def _package() -> Any:
    """Class of torch-fidelity's network."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise UserError(
            "Inception features need the package torch-fidelity: pip install torch-fidelity"
        ) from None
    return FeatureExtractorInceptionV3


def _load(path: Path) -> nn.Module:
    """torch-fidelity's network with the weights of a file."""
    kind = _package()
    try:
        check_if_zip(path)
        # torch-fidelity unpickles the file: make sure first that it holds tensors only.
        load_plain(path, "meta")
        network: nn.Module = kind(
            "inception-v3-compat",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=str(path),
        )
    except (
        CheckpointError, DamagedFileError, pickle.UnpicklingError, RuntimeError, EOFError, OSError,
        AttributeError,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"'{path}' does not hold the Inception weights ({reason}): fetch {WEIGHTS_FILE} of "
            "torch-fidelity again"
        ) from error
    return network
