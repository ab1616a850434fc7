"""Feature networks of evaluation: pixels in, named features out, and what a report says of them.

``Network`` is what metrics, reports and caches rely on; ``FeatureNetwork`` is the base of networks
that a run trains, or of one's own. ``PublishedWeights`` finds the file of a published network,
which is never downloaded, and tells if it is the one that everybody uses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ldm.errors import CheckpointError
from ldm.evaluation.networks.resizing import NETWORK, Resizer, resizer, to_uint8


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


def weights_sha256(network: nn.Module) -> str:
    """Fingerprint of names, types, shapes and values of all weights, as a hex digest."""
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
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


class FeatureNetwork(nn.Module):
    """A :class:`Network` that a run trains, or of one's own: a subclass has ``embed`` only.

    It sees images as models do, in [-1, 1], and as they are unless ``use`` gives them a size. The
    name in reports is that of the class.

    Args:
        outputs: length of each kind of feature, by its name; metrics look for ``logits``, of
            classes, and take the first where any will do.
    """

    def __init__(self, outputs: Mapping[str, int]) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.outputs = outputs
        self.input_size: int | None = None
        self.resize = Resizer(NETWORK)
        self.weights_file = ""
        self.remark = "not comparable with published figures"

    @property
    def weights_sha256(self) -> str:
        """Fingerprint of the weights as they are now."""
        return weights_sha256(self)

    def use(
        self, resize: str = NETWORK, size: int | None = None, weights_file: str = ""
    ) -> FeatureNetwork:
        """Say how images reach the network, and where it comes from; returns itself, in eval mode.

        Args:
            resize: name of a resizer; ``network``: images stay as they are.
            size: side to bring images to.
            weights_file: where the weights came from, such as a run folder.

        Raises:
            UserError: there is no such resizer, or no size to resize to.
        """
        self.input_size = size
        self.resize = Resizer(NETWORK) if resize == NETWORK else resizer(resize, size)
        self.weights_file = weights_file
        return self.eval()

    def embed(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) in [-1, 1] to features (B, D) by name."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, h, w) in [0, 255], uint8 or float, to features (B, D) by name."""
        return self.embed((images.float() / 127.5 - 1).clamp(-1, 1))

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Let torch.compile translate ``embed``, by which both training and evaluation go."""
        setattr(self, "embed", torch.compile(self.embed, *arguments, **options))  # noqa: B010


def pixels_for(network: Network, images: Tensor) -> list[Tensor]:
    """Images (B, 3, H, W) in [-1, 1] as a network takes them, each (3, H, W) in [0, 255].

    One of a run, which sees images as models make them, gets them unrounded; the others 8 bits.
    """
    if isinstance(network, FeatureNetwork) and network.input_size is None:
        return list((images.clamp(-1, 1) + 1) * 127.5)
    return list(to_uint8(images))


@torch.no_grad()
def features_of(
    network: Network, images: Sequence[Tensor], device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Features of pictures of any sizes, in their order; equal sizes go through together.

    Args:
        network: in eval mode, on ``device``.
        images: (3, H, W) each, uint8 or as ``pixels_for`` gives them.
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
