"""LPIPS: a distance of images that agrees with human judgement better than pixels do.

Zhang et al. 2018, version 0.1 with VGG16. The weights are read from files, never from the network.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm.containers.zips import check_if_zip
from ldm.errors import CheckpointError, ConfigError, DamagedFileError
from ldm.files import reason
from ldm.layers.convolution import Conv3x3
from ldm.safe_pickle import load_plain

VGG16 = "vgg16-397923af.pth"
"""Name that torchvision gives to the file."""
_FETCH = "python -c \"import torchvision; torchvision.models.vgg16(weights='IMAGENET1K_V1')\""
_HEADS = "weights/v0.1/vgg.pth"
WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five stages of VGG16."""
_CONVOLUTIONS = (2, 2, 3, 3, 3)
SMALLEST_SIDE = 16
"""Four halvings lie before the last stage."""
_CHOICES = (
    "'rgb' (3 channels), 'repeat' (1 channel, shown as grey), 'each' (any number of channels, the "
    "mean of the distances of each as a grey image), or the indices of three channels, e.g. "
    "[3, 2, 1]"
)


def lpips(
    vgg_weights: str | Path | None = None,
    lin_weights: str | Path | None = None,
    channels: str | Sequence[int] = "rgb",
) -> LPIPS:
    """LPIPS with its published weights, which are read from files and never downloaded.

    Under ``torch.device("meta")`` (a dry run) there is nothing to hold weights, and no file is
    needed.

    Args:
        vgg_weights: state dict of torchvision's VGG16, whole or only its features; None is
            ``vgg16-397923af.pth`` (528 MB) in torchvision's cache.
        lin_weights: the five linear heads; None is version 0.1 of the package ``lpips``.
        channels: what to do with images of other than three channels; see :class:`LPIPS`.

    Raises:
        CheckpointError: a file is absent, damaged or of another network.
    """
    network = LPIPS(channels)
    if torch.get_default_device().type != "meta":
        load_weights(network, vgg_weights, lin_weights)
    return network


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity with VGG16 (Zhang et al. 2018, eq. 1).

    d(x, y) = sum over five stages of the spatial mean of w . (f(x) - f(y))^2, where f are features
    scaled to unit length over the channels. Names and shapes of the weights are the published ones.
    This class starts from random weights; ``lpips()`` loads the real ones.

    The weights are frozen, all arithmetic is in float32, also under autocast, and there is no
    dropout. (In the original a dropout of 0.5 stands before every head, and ``train()`` woke it up
    in training, which made the distance random; its evaluation mode is what is computed here.)

    Args:
        channels: which three channels VGG16 is shown:
            ``"rgb"`` - the images have exactly three;
            ``"repeat"`` - they have one, which is repeated;
            ``"each"`` - every channel is repeated on its own, at the cost of as many passes, and
            the distances are averaged;
            three indices - these channels as red, green and blue, the others are not seen.
        widths: channels of the five stages.
    """

    def __init__(
        self, channels: str | Sequence[int] = "rgb", widths: Sequence[int] = WIDTHS
    ) -> None:
        super().__init__()
        self.channels = _checked(channels)
        self.scaling_layer = ScalingLayer()
        self.net = VGG16Features(widths)
        for i, width in enumerate(widths):
            self.add_module(f"lin{i}", Head(width))
        self._heads = [f"lin{i}" for i in range(len(widths))]
        self.requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances (B, 1, 1, 1) of images (B, C, H, W) in [-1, 1].

        Raises:
            ValueError: shapes differ, a side is below 16, or C does not suit ``channels``.
        """
        if x.shape != y.shape or x.ndim != 4:
            raise ValueError(f"LPIPS compares (B, C, H, W), got {(*x.shape,)} and {(*y.shape,)}")
        if min(x.shape[2:]) < SMALLEST_SIDE:
            raise ValueError(f"LPIPS needs sides of {SMALLEST_SIDE} or more, got {(*x.shape,)}")
        with torch.autocast(x.device.type, enabled=False):
            # Two passes: where x needs no gradient, nothing of its pass is kept for the backward.
            features_x, features_y = self.features(x), self.features(y)
            total = torch.zeros((), device=x.device)
            for name, f, g in zip(self._heads, features_x, features_y, strict=True):
                total = total + getattr(self, name)((unit_length(f) - unit_length(g)) ** 2)
        return total.reshape(len(x), -1).mean(dim=1).reshape(-1, 1, 1, 1)

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the five stages, the first at full size, each further one halved."""
        features: list[Tensor] = self.net(self.scaling_layer(self._rgb(images.float())))
        return features

    def _rgb(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 3, H, W), or (B * C, 3, H, W) for ``each``."""
        count = images.shape[1]
        if isinstance(self.channels, list):
            if max(self.channels) < count:
                return images[:, self.channels]
        elif self.channels == "each":
            return images.flatten(0, 1).unsqueeze(1).expand(-1, 3, -1, -1)
        elif count == (3 if self.channels == "rgb" else 1):
            return images.expand(-1, 3, -1, -1)
        raise ValueError(
            f"LPIPS with channels={self.channels!r} got images of {count} channels: "
            f"set its channels to {_CHOICES}"
        )


class ScalingLayer(nn.Module):
    """From [-1, 1] to images with the mean and standard deviation of ImageNet."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W)."""
        return (x - self.shift) / self.scale


class VGG16Features(nn.Module):
    """Convolutions of VGG16 in five slices; inside a slice layers have torchvision's numbers.

    Args:
        widths: channels of the five stages.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        number, channels = 0, 3
        for stage, (width, convolutions) in enumerate(zip(widths, _CONVOLUTIONS, strict=True)):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if stage else []
            for _ in range(convolutions):
                layers += [Conv3x3(channels, width), nn.ReLU(inplace=True)]
                channels = width
            names = [str(number + i) for i in range(len(layers))]
            number += len(layers)
            named = OrderedDict(zip(names, layers, strict=True))
            self.add_module(f"slice{stage + 1}", nn.Sequential(named))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the feature map at the end of each slice."""
        features = []
        for layers in self.children():
            x = layers(x)
            features.append(x)
        return features


class Head(nn.Module):
    """Weighted sum over channels, mean over space: (B, C, h, w) -> (B, 1, 1, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(channels, 1, 1, bias=False)
        self.model = nn.Sequential(OrderedDict({"1": convolution}))  # 0 was the dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 1, 1, 1)."""
        mean: Tensor = self.model(x).mean(dim=(2, 3), keepdim=True)
        return mean


def unit_length(features: Tensor) -> Tensor:
    """Features over (their length over the channels + 1e-10), with finite gradients everywhere.

    The slope of the square root is infinite at 0, where a flat image can have its features; a floor
    below any length that matters leaves the values as published.
    """
    squares = (features**2).sum(dim=1, keepdim=True)
    return features / (squares.clamp_min(1e-20).sqrt() + 1e-10)


def _checked(channels: str | Sequence[int]) -> str | list[int]:
    if isinstance(channels, str):
        if channels in ("rgb", "repeat", "each"):
            return channels
    elif len(channels) == 3 and all(type(i) is int and i >= 0 for i in channels):
        return list(channels)
    raise ConfigError(f"unknown channels {channels!r} of LPIPS: choose {_CHOICES}")


def load_weights(
    network: nn.Module,
    vgg_weights: str | Path | None = None,
    lin_weights: str | Path | None = None,
) -> None:
    """Fill an ``LPIPS`` from files; arguments as for :func:`ldm.losses.lpips`.

    Raises:
        CheckpointError: a file is absent, damaged or of another network.
    """
    vgg_path = Path(torch.hub.get_dir(), "checkpoints", VGG16)
    vgg_path = vgg_path if vgg_weights is None else Path(vgg_weights)
    if not vgg_path.is_file():
        raise CheckpointError(
            f"{vgg_path}: no such file. LPIPS needs the weights of torchvision's VGG16 ({VGG16}, "
            "528 MB): put the file there, or name it: vgg_weights in the params of a config, "
            "--vgg-weights of a script; "
            f"`{_FETCH}` fetches it into {torch.hub.get_dir()}/checkpoints. To train without "
            "LPIPS, set perceptual: null and perceptual_weight: 0 of the objective"
        )
    lin_path = _packaged_heads() if lin_weights is None else Path(lin_weights)
    if not lin_path.is_file():
        raise CheckpointError(f"{lin_path}: no such file; lin_weights names the heads of LPIPS")
    vgg = {key.removeprefix("features."): value for key, value in _read(vgg_path).items()}
    heads = _read(lin_path)
    state = {}
    for key, weight in network.state_dict().items():
        if key.startswith("net."):  # net.slice3.10.bias is features.10.bias of torchvision
            name = key.split(".", 2)[2]
            state[key] = _fitting(vgg_path, "torchvision's VGG16", vgg, name, weight)
        elif key.startswith("lin"):
            state[key] = _fitting(lin_path, "the heads of LPIPS for VGG16", heads, key, weight)
    network.load_state_dict(state, strict=False)  # the scaling has no weights


def _packaged_heads() -> Path:
    """The file in the package ``lpips``, found without the cost of importing that."""
    spec = importlib.util.find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            "the package lpips, which holds the heads of LPIPS, is not installed: "
            "pip install lpips, or name the file with lin_weights"
        )
    return Path(spec.submodule_search_locations[0], *_HEADS.split("/"))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        check_if_zip(path)
        content = load_plain(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}; fetch it again") from error
    except (CheckpointError, DamagedFileError) as error:
        raise CheckpointError(f"{error}; fetch it again") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is no file of weights ({type(error).__name__}); fetch it again"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds no dict of weights")
    return {str(key): value for key, value in content.items()}


def _fitting(path: Path, what: str, state: Mapping[str, Any], name: str, like: Tensor) -> Tensor:
    found = state.get(name)
    if not isinstance(found, Tensor):
        raise CheckpointError(f"{path} does not hold {what}: it has no {name}")
    if found.shape != like.shape:
        raise CheckpointError(
            f"{path} does not hold {what}: {name} has shape {(*found.shape,)}, not {(*like.shape,)}"
        )
    return found
