"""Maps that are concatenated to the noisy latent: semantic maps, small images, masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.conditioners.base import Conditioner, check_ids, check_tensor, readable
from ldm.errors import ConfigError, DataError

METHODS = ("nearest", "bilinear", "bicubic", "area")


class SpatialRescaler(Conditioner):
    """A map shrunk in ``stages`` steps to the size of the latent, then a learned 1x1 convolution.

    Null is a map without any label: no class, the zero vector, everywhere.

    Takes features (B, in_channels, H, W), or class ids (B, H, W) that stand for one-hot features. A
    convolution without bias can as well come before the shrinking, where it is a look-up: ids never
    become ``in_channels`` maps of full size (LDM, section 4.3.2: 182 classes).

    Args:
        in_channels: channels of the map, or number of classes.
        out_channels: channels after the convolution; None: there is none.
        stages: how often the map is resized; two halvings for a first stage with f = 4.
        method: nearest, bilinear, bicubic or area; none of them is anti-aliased.
        multiplier: factor of a resizing.
        bias: of the convolution.
        ignore: ids of pixels without a class, the zero vector.
        key: name of the batch entry.
        drop_prob: see :class:`~ldm.conditioners.Conditioner`.

    Raises:
        ConfigError: the arguments do not fit together.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        stages: int = 1,
        method: str = "bilinear",
        multiplier: float = 0.5,
        bias: bool = False,
        ignore: Sequence[int] = (-1, 255),
        key: str = "segmentation",
        drop_prob: float = 0.0,
    ) -> None:
        super().__init__(key, "concat", drop_prob)
        if method not in METHODS:
            raise ConfigError(f"method {method!r} of {key!r} is none of {', '.join(METHODS)}")
        if stages < 0 or multiplier <= 0:
            raise ConfigError(f"{key!r} cannot be resized {stages} times by {multiplier}")
        if out_channels is None and bias:
            raise ConfigError(f"bias of {key!r} belongs to a convolution: set out_channels")
        classes = [i for i in ignore if 0 <= i < in_channels]
        if classes:
            raise ConfigError(f"ignore of {key!r}: {classes[0]} is one of {in_channels} classes")
        self.in_channels, self.stages = in_channels, stages
        self.method, self.multiplier = method, multiplier
        self.ignore = tuple(ignore)
        self.channels = in_channels if out_channels is None else out_channels
        convolution = None
        if out_channels is not None:
            convolution = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        self.channel_mapper = convolution

    def forward(self, value: Tensor) -> Tensor:
        """(B, in_channels, H, W), or ids (B, H, W) -> (B, channels, h, w)."""
        self.check(value)
        if value.is_floating_point():
            x = self._resize(value)
            return x if self.channel_mapper is None else self.channel_mapper(x)
        x = self._resize(self._look_up(value).permute(0, 3, 1, 2))
        bias = None if self.channel_mapper is None else self.channel_mapper.bias
        return x if bias is None else x + bias[:, None, None]

    def check(self, value: Tensor) -> None:
        """Refuse maps of another shape; class ids that there are not, where they can be read."""
        if value.is_floating_point():
            check_tensor(value, self.key, "float", self.in_channels, None, None)
        else:
            check_tensor(value, self.key, "ids", None, None)
            check_ids(value, self.in_channels, self.key, "class id", self.ignore)

    def null(self, n: int, like: Tensor) -> Tensor:
        """Maps of zeros, or of the first id in ``ignore``."""
        if like.is_floating_point():
            return like.new_zeros(n, *like.shape[1:])
        if not self.ignore:
            raise ConfigError(f"guidance needs an id for 'no class' in {self.key!r}: set ignore")
        return like.new_full((n, *like.shape[1:]), self.ignore[0])

    def _resize(self, x: Tensor) -> Tensor:
        for _ in range(self.stages):
            x = F.interpolate(x, scale_factor=self.multiplier, mode=self.method)
        return x

    def _look_up(self, ids: Tensor) -> Tensor:
        """Features (B, H, W, channels) of ids (B, H, W), without the bias of the convolution."""
        for other in self.ignore:
            ids = torch.where(ids == other, self.in_channels, ids)
        if self.channel_mapper is None:
            return F.one_hot(ids, self.in_channels + 1)[..., :-1].float()
        no_class = (0, 0, 0, 1)
        return F.embedding(ids, F.pad(self.channel_mapper.weight[:, :, 0, 0].T, no_class))


class ConcatImage(Conditioner):
    """An image that has the size of the latent already, e.g. the one to be super-resolved.

    Null is mid-grey, 0.

    Args:
        channels: of the image.
        key: name of the batch entry.
        drop_prob: see :class:`~ldm.conditioners.Conditioner`.
    """

    def __init__(self, channels: int = 3, key: str = "lr_image", drop_prob: float = 0.0) -> None:
        super().__init__(key, "concat", drop_prob)
        self.channels = channels

    def forward(self, value: Tensor) -> Tensor:
        """(B, channels, h, w) in [-1, 1], unchanged."""
        check_tensor(value, self.key, "float", self.channels, None, None)
        return value

    def null(self, n: int, like: Tensor) -> Tensor:
        """Zeros."""
        return like.new_zeros(n, *like.shape[1:])


class LatentImage(Conditioner):
    """An image encoded by the first stage of the diffusion model, e.g. a masked one.

    The latents are those of the encoder: the mode of the posterior, not quantised. Null is the
    image of which all is masked. The defaults are those of the published inpainting model, in which
    ``(1 - mask) * image`` is made in [0, 1]. Stable Diffusion's multiplies its latents by the scale
    factor of the model and makes that product in [-1, 1], so that holes are mid-grey.

    Args:
        key: name of the batch entry.
        drop_prob: see :class:`~ldm.conditioners.Conditioner`.
        scale: factor of the latents.
        hidden: value of the image where it is masked; whoever makes the batch entry reads it here.
    """

    needs_autoencoder = True

    def __init__(
        self,
        key: str = "masked_image",
        drop_prob: float = 0.0,
        scale: float = 1.0,
        hidden: float = -1.0,
    ) -> None:
        super().__init__(key, "concat", drop_prob)
        self.scale, self.hidden = scale, hidden

    @torch.no_grad()
    def forward(self, value: Tensor, autoencoder: Any) -> Tensor:
        """(B, C, f*h, f*w) in [-1, 1] -> (B, latent channels, h, w); no gradient."""
        check_tensor(value, self.key, "float", None, None, None)
        _check_multiple(value, self.key, autoencoder.downsampling_factor)
        latents: Tensor = autoencoder.encode(value).mode()
        return latents.float() * self.scale

    def null(self, n: int, like: Tensor) -> Tensor:
        """Images that are hidden altogether."""
        return like.new_full((n, *like.shape[1:]), self.hidden)


class ResizedMask(Conditioner):
    """A mask, 1 = to be filled in, shrunk to the latent by the nearest pixel and put in {low, 1}.

    Null is a mask that leaves nothing: 1 everywhere.

    Args:
        key: name of the batch entry.
        drop_prob: see :class:`~ldm.conditioners.Conditioner`.
        low: number for known pixels: -1 in the published inpainting model, 0 in Stable Diffusion's.
    """

    needs_autoencoder = True
    channels = 1

    def __init__(self, key: str = "mask", drop_prob: float = 0.0, low: float = -1.0) -> None:
        super().__init__(key, "concat", drop_prob)
        self.low = low

    def forward(self, value: Tensor, autoencoder: Any) -> Tensor:
        """(B, 1, f*h, f*w) in {0, 1} -> (B, 1, h, w) in {low, 1}."""
        self.check(value)
        factor = autoencoder.downsampling_factor
        _check_multiple(value, self.key, factor)
        size = (value.shape[2] // factor, value.shape[3] // factor)
        return F.interpolate(value.float(), size=size, mode="nearest") * (1 - self.low) + self.low

    def check(self, value: Tensor) -> None:
        """Refuse masks of another shape; values other than 0 and 1, where they can be read."""
        value = value.float()
        check_tensor(value, self.key, "float", 1, None, None)
        if readable(value) and not ((value == 0) | (value == 1)).all():
            low, high = value.aminmax()
            raise DataError(
                f"{self.key!r} must be 0 (known) or 1 (to be filled in) everywhere, got values "
                f"from {low:g} to {high:g}"
            )

    def null(self, n: int, like: Tensor) -> Tensor:
        """Ones."""
        return like.new_ones(n, *like.shape[1:])


def _check_multiple(value: Tensor, key: str, factor: int) -> None:
    height, width = value.shape[2:]
    if height % factor or width % factor:
        raise DataError(
            f"{key!r} of {height} x {width} pixels: sides must be multiples of {factor}, by which "
            "the first stage shrinks images"
        )
