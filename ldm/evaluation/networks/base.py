"""Feature networks of evaluation: pixels in, named features out, and what a report says of them.

Files with the weights of published feature networks: found, never downloaded, fingerprinted.

The contract of a feature extractor, and what is done with any of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ldm.errors import CheckpointError, UserError
from ldm.evaluation.networks.resizing import NETWORK, Resizer, resizer


@dataclass(frozen=True)
class PublishedWeights:
    """A file that everybody uses, so that numbers can be compared.

    Attributes:
        network: whose weights they are.
        file: name of the file.
        sha256: what its digest begins with; "" if the publishers do not say.
        source: where it comes from.
    """

    network: str
    file: str
    sha256: str
    source: str

    def find(self, weights: str | Path | None) -> Path:
        """Path of the file, or of what stands in for it.

        Args:
            weights: path that somebody named; None = PyTorch's folder of downloaded checkpoints.

        Raises:
            CheckpointError: nothing is there.
        """
        place = Path(torch.hub.get_dir(), "checkpoints", self.file)
        path = place if weights is None else Path(weights).expanduser()
        if not path.is_file():
            digest = f" (sha256 {self.sha256}...)" if self.sha256 else ""
            raise CheckpointError(
                f"{self.network} weights '{path}' are absent: take {self.file}{digest} from "
                f"{self.source} and place it there, or name it: --weights PATH of a script, "
                "weights in a config"
            )
        return path

    def remark(self, sha256: str) -> str:
        """What must be said of a file with this digest: nothing if it is the published one."""
        if not self.sha256 or sha256.startswith(self.sha256):
            return ""
        return (
            f"not the published weights of {self.network}: sha256 {sha256[:8]}, not {self.sha256}"
        )


class FeatureExtractor(Protocol):
    """A network that turns images into features; any ``nn.Module`` with these names will do.

    Attributes:
        name: what a report calls it.
        dim: length of a feature vector.
    """

    name: str
    dim: int

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to features (B, dim)."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The weights."""
        ...


@torch.no_grad()
def extract_features(
    extractor: FeatureExtractor, batches: Iterable[Tensor], device: torch.device | str = "cpu"
) -> Tensor:
    """Features of all images, (N, D) float32 on the CPU.

    Args:
        extractor: in eval mode, on ``device``.
        batches: image batches (B, 3, H, W) in [-1, 1]; values outside are clamped.
        device: where the extractor lives.
    """
    features = [extractor(batch.to(device).clamp(-1, 1)).float().cpu() for batch in batches]
    if not features:
        raise ValueError("there are no images to extract features from")
    return torch.cat(features)


def weights_sha256(extractor: FeatureExtractor) -> str:
    """Fingerprint of names, types, shapes and values of all weights, as a hex digest."""
    digest = hashlib.sha256()
    for key, value in sorted(extractor.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{key}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Network(Protocol):
    """A network that turns pixels into one or more kinds of features.

    Attributes:
        name: what a report calls it; statistics of networks with other names are not comparable.
        outputs: length of each kind of feature, by its name; the first is the usual one.
        input_size: side of the images it wants; None = any.
        resize: brings an image to that size.
        weights_file: where its weights came from; "" = not from a file of their own.
        weights_sha256: digest of that file, or of the weights themselves.
        remark: what a reader of its numbers must know, "" = nothing.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def outputs(self) -> Mapping[str, int]: ...  # noqa: D102
    @property
    def input_size(self) -> int | None: ...  # noqa: D102
    @property
    def resize(self) -> Resizer: ...  # noqa: D102
    @property
    def weights_file(self) -> str: ...  # noqa: D102
    @property
    def weights_sha256(self) -> str: ...  # noqa: D102
    @property
    def remark(self) -> str: ...  # noqa: D102

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Resized images (B, 3, h, w) in [0, 255], uint8 or float, to features (B, D) by name."""
        ...

    def to(self, device: Any) -> Any:
        """Move it to a device."""
        ...


class ExtractorNetwork(nn.Module):
    """A :class:`~ldm.evaluation.networks.base.FeatureExtractor` as a :class:`Network`.

    It sees the images as they are, in [-1, 1]. Its output is ``features``, and ``logits`` if it has
    an attribute ``num_classes`` and a method ``features_and_logits`` or ``logits``.

    Args:
        extractor: in eval mode.
        resize: name of a resizer; ``network``: images stay as they are.
        weights_file: where the weights came from, such as a run folder.
        size: side to bring images to; None = the extractor's ``input_size`` if it has one.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        resize: str = NETWORK,
        weights_file: str = "",
        size: int | None = None,
    ) -> None:
        super().__init__()
        self.extractor: Any = extractor
        self.name = extractor.name
        self.input_size = size if size is not None else getattr(extractor, "input_size", None)
        stays = Resizer(NETWORK)
        self.resize = stays if resize == NETWORK else resizer(resize, self.input_size)
        self.weights_file = weights_file
        self.weights_sha256 = weights_sha256(extractor)
        self.remark = "not comparable with published figures"
        self._logits = _logits_of(extractor)
        classes = {"logits": getattr(extractor, "num_classes", 0)} if self._logits else {}
        self.outputs: Mapping[str, int] = {"features": extractor.dim, **classes}

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, h, w) in [0, 255], uint8 or float, to features (B, D) by name."""
        x = (images.float() / 127.5 - 1).clamp(-1, 1)
        if self._logits == "features_and_logits":
            features, logits = self.extractor.features_and_logits(x)
            return {"features": features, "logits": logits}
        features = {"features": self.extractor(x)}
        return features | ({"logits": self.extractor.logits(x)} if self._logits else {})


def as_network(
    extractor: Any, resize: str = NETWORK, weights_file: str = "", size: int | None = None
) -> Network:
    """A network of the older kind as one of this kind; one of this kind as it is.

    Args:
        extractor: a ``FeatureExtractor`` in eval mode, such as the network of a run.
        resize: see :class:`ExtractorNetwork`.
        weights_file: see :class:`ExtractorNetwork`.
        size: see :class:`ExtractorNetwork`.

    Raises:
        UserError: it is neither kind of network, or has no size to resize to.
    """
    if hasattr(extractor, "outputs") and hasattr(extractor, "resize"):
        network: Network = extractor
        return network
    if not hasattr(extractor, "dim") or not hasattr(extractor, "name"):
        raise UserError(f"a {type(extractor).__name__} is no feature network: no name and dim")
    return ExtractorNetwork(extractor, resize, weights_file, size).eval()


@torch.no_grad()
def features_of(
    network: Network, images: Sequence[Tensor], device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Features of pictures of any sizes, in their order; equal sizes go through together.

    Args:
        network: in eval mode, on ``device``.
        images: uint8 (3, H, W) each.
        device: where the network lives.

    Returns:
        Features (N, D) float32 on the CPU, by name.
    """
    if not images:
        return {name: torch.empty(0, length) for name, length in network.outputs.items()}
    resized = [network.resize(image) for image in images]
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(resized):
        groups.setdefault(tuple(image.shape), []).append(index)
    parts = []
    for indices in groups.values():
        # Pillow leaves an image of the right size at 8 bits: a batch may hold both kinds.
        batch = torch.stack([resized[index].to(device).float() for index in indices])
        parts.append({name: x.float().cpu() for name, x in network(batch).items()})
    back = torch.tensor([index for indices in groups.values() for index in indices]).argsort()
    return {name: torch.cat([part[name] for part in parts])[back] for name in network.outputs}


def uses_tf32(device: torch.device | str) -> bool:
    """Whether networks on a device may round their factors to TF32: convolutions or products."""
    backends = torch.backends
    allowed = backends.cudnn.allow_tf32 or backends.cuda.matmul.allow_tf32
    return torch.device(device).type == "cuda" and allowed


def _logits_of(extractor: Any) -> str | None:
    """The method that gives logits of classes, None if there is none."""
    if not hasattr(extractor, "num_classes"):
        return None
    names = ("features_and_logits", "logits")
    return next((name for name in names if hasattr(extractor, name)), None)
