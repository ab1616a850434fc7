"""VGG16 as in improved precision and recall (Kynkäänniemi et al. 2019): its second last layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm.conditioners.pretrained import read_weights
from ldm.errors import CheckpointError
from ldm.evaluation.networks.base import PublishedWeights
from ldm.evaluation.networks.resizing import NETWORK, resizer, tf1_bilinear
from ldm.files import file_sha256

WEIGHTS = PublishedWeights("VGG16", "vgg16-397923af.pth", "397923af", "torchvision")
SIDE = 224
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of the colours of ImageNet, in [0, 1]."""


class VGG16Network(nn.Module):
    """``fc2``: the second fully connected layer of VGG16 after its ReLU, 4096 features.

    A :class:`~ldm.evaluation.Network`. With torchvision's weights and TensorFlow's
    bilinear resizing, as in torch-fidelity; the paper's own code has weights converted from
    another framework, so its figures are near but not the same.

    Args:
        network: torchvision's VGG16 with weights.
        resize: name of a resizer; ``network``: TensorFlow's bilinear, inside.
        weights_file: where the weights came from, for reports.
        weights_sha256: digest of that file.
    """

    name = "vgg16"
    input_size = SIDE

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        resize: str = NETWORK,
        weights_file: str = "",
        weights_sha256: str = "",
    ) -> None:
        super().__init__()
        parts: Any = network
        self.features, self.avgpool = parts.features, parts.avgpool
        self.classifier = parts.classifier[:5]  # linear, ReLU, dropout, linear, ReLU
        self.register_buffer("mean", 255 * torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.resize = resizer(resize, SIDE)
        self.weights_file, self.weights_sha256 = weights_file, weights_sha256
        self.remark = WEIGHTS.remark(weights_sha256)
        self.outputs: Mapping[str, int] = {"fc2": self.classifier[3].out_features}
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, h, w) in [0, 255], uint8 or float, to features (B, 4096) by name."""
        x = (tf1_bilinear(images.float(), (SIDE, SIDE)) - self.mean) / self.std
        return {"fc2": self.classifier(self.avgpool(self.features(x)).flatten(1))}


def vgg16(weights: str | Path | None = None, resize: str = NETWORK) -> VGG16Network:
    """VGG16 with the weights of a file; arguments as for ``networks.network``.

    Raises:
        CheckpointError: the weights are absent or of another network.
    """
    from torchvision.models import vgg16 as architecture

    path = WEIGHTS.find(weights)
    with torch.device("meta"):
        network = architecture()
    try:
        network.load_state_dict(read_weights(path), assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"'{path}' does not hold the weights of torchvision's VGG16, head included: fetch "
            f"{WEIGHTS.file} again"
        ) from error
    return VGG16Network(network, resize, str(path), file_sha256(path)).eval()
