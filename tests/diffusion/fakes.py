"""Small stand-ins that keep the contracts of networks and conditioners."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldm.conditioners.base import Conditioner


class FakeLabels(Conditioner):
    """Class ids as one token (B, 1, 4), or unchanged for the route adm; id 9 is "no class"."""

    def __init__(
        self, route: str = "crossattn", drop_prob: float = 0.0, key: str = "label"
    ) -> None:
        super().__init__(key, route, drop_prob)  # type: ignore[arg-type]
        self.embedding = nn.Embedding(10, 4)

    def forward(self, value: Tensor) -> Tensor:
        return value if self.route == "adm" else self.embedding(value)[:, None]

    def null(self, n: int, like: Tensor) -> Tensor:
        return torch.full((n,), 9, device=like.device)


class FakeMap(Conditioner):
    """A map to be concatenated; null is zero."""

    def __init__(self, drop_prob: float = 0.0, key: str = "map") -> None:
        super().__init__(key, "concat", drop_prob)

    def forward(self, value: Tensor) -> Tensor:
        return value

    def null(self, n: int, like: Tensor) -> Tensor:
        return torch.zeros(n, *like.shape[1:], device=like.device)


class FakeDenoiser(nn.Module):
    """A 1x1 convolution of x plus something of every condition; remembers its calls."""

    def __init__(self, channels: int = 3, extra: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels + extra, channels, 1)
        self.calls: list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]] = []

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor | None = None, y: Tensor | None = None
    ) -> Tensor:
        self.calls.append((x, t, context, y))
        out = self.conv(x)
        if context is not None:
            out = out + context.mean((1, 2))[:, None, None, None]
        if y is not None:
            out = out + 0.1 * y[:, None, None, None]
        return out
