"""Class labels, as one learned token each or as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldm.conditioners.base import Conditioner, Route, check_ids
from ldm.errors import ConfigError


class ClassLabel(Conditioner):
    """Class ids (B,) as sequences of one token (B, 1, dim), or unchanged for the route adm.

    Args:
        num_classes: Number of classes.
        dim: Width of the token; None for the route adm, where the denoiser embeds the ids.
        key: Name of the batch entry.
        route: "crossattn" or "adm".
        drop_prob: See :class:`~ldm.conditioners.Conditioner`.
        null_index: Id of "no class", needed for ``drop_prob`` and guidance. Either one of the
            classes, or ``num_classes``, which adds a row to the table (for the route adm, the
            denoiser must then have ``num_classes + 1`` classes).

    Raises:
        ConfigError: If the arguments do not fit together.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int | None = None,
        key: str = "class_label",
        route: Route = "crossattn",
        drop_prob: float = 0.0,
        null_index: int | None = None,
    ) -> None:
        super().__init__(key, route, drop_prob)
        if route == "concat":
            raise ConfigError("class labels have no route 'concat': use 'crossattn' or 'adm'")
        if (dim is None) != (route == "adm"):
            raise ConfigError(
                f"class labels with route={route!r} and dim={dim}: 'crossattn' needs the width of "
                "the token, 'adm' must be without"
            )
        if null_index is not None and not 0 <= null_index <= num_classes:
            raise ConfigError(f"null_index must be in [0, {num_classes}], got {null_index}")
        if drop_prob > 0 and null_index is None:
            raise ConfigError(
                f"drop_prob={drop_prob} needs an id for 'no class': set null_index={num_classes}"
            )
        self.num_classes = num_classes
        self.null_index = null_index
        self.dim = dim
        if dim is not None:
            self.embedding = nn.Embedding(num_classes + (null_index == num_classes), dim)

    def forward(self, value: Tensor) -> Tensor:
        """Ids (B,) -> (B, 1, dim); route adm: the ids."""
        self.check(value)
        return value if self.route == "adm" else self.embedding(value)[:, None]

    def check(self, value: Tensor) -> None:
        """Refuse what is no batch of class ids; the ids themselves where they can be read."""
        if value.ndim != 1 or value.is_floating_point():
            raise ValueError(f"class labels must be ids of shape (B,), got {tuple(value.shape)}")
        others = () if self.null_index is None else (self.null_index,)
        check_ids(value, self.num_classes, self.key, "class id", others)

    def null(self, n: int, like: Tensor) -> Tensor:
        """``null_index``, n times."""
        if self.null_index is None:
            raise ConfigError(
                f"guidance needs an id for 'no class' in {self.key!r}: train with "
                f"null_index={self.num_classes} and drop_prob > 0, or sample with guidance scale 1"
            )
        return torch.full((n,), self.null_index, dtype=like.dtype, device=like.device)
