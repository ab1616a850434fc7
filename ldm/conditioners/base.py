"""The contract that all conditioners keep."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from torch import Tensor, nn

from ldm.errors import ConfigError

Route = Literal["crossattn", "concat", "adm"]
"""How a condition reaches the denoiser: attended to as a sequence (B, L, D), concatenated to the
noisy latent as a map (B, C, h, w), or as class ids (B,) added to the embedding of the step."""


class Conditioner(nn.Module):
    """Encodes one batch entry; ``forward(value)`` gives the tensor for its ``route``.

    A class with ``needs_autoencoder`` is called as ``forward(value, autoencoder)``: the diffusion
    model lends it its first stage, so that no conditioner owns a second copy.

    Attributes:
        frozen: The weights do not learn: the diffusion model keeps this module in eval mode, and
            optimiser and average leave it out. Set by :meth:`freeze`.
        in_checkpoint: Whether checkpoints hold the weights. Frozen ones that come from a file of
            their own need not be stored again.

    Args:
        key: Name of the batch entry.
        route: How the condition reaches the denoiser.
        drop_prob: Share of training samples whose value is replaced by :meth:`null`, so that the
            model learns to go without (classifier-free guidance, Ho & Salimans, 2021). The
            replacing is done by the diffusion model.
    """

    needs_autoencoder: ClassVar[bool] = False

    def __init__(self, key: str, route: Route, drop_prob: float = 0.0) -> None:
        super().__init__()
        if route not in get_args(Route):
            raise ConfigError(f"route {route!r} of {key!r} is none of {', '.join(get_args(Route))}")
        if not 0.0 <= drop_prob <= 1.0:
            raise ConfigError(f"drop_prob of {key!r} must be in [0, 1], got {drop_prob}")
        self.key = key
        self.route: Route = route
        self.drop_prob = drop_prob
        self.frozen = False
        self.in_checkpoint = True

    def freeze(self, in_checkpoint: bool = True) -> None:
        """Let nothing in here learn any more."""
        self.requires_grad_(False)
        self.eval()
        self.frozen, self.in_checkpoint = True, in_checkpoint

    def check(self, value: Tensor) -> None:
        """Refuse a batch value that this conditioner cannot take; called on the CPU.

        Raises:
            DataError: it names the entry and what is wrong.
        """

    def null(self, n: int, like: Tensor) -> Tensor:
        """Batch value of ``n`` unconditional samples, on the device and in the shape of ``like``.

        Raises:
            ConfigError: If this conditioner has no such value.
        """
        raise ConfigError(f"{type(self).__name__} ({self.key!r}) has no unconditional value")
