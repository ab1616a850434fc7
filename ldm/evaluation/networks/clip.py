"""CLIP in evaluation: features of pictures for distances, and of captions for CLIP scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm.conditioners.open_clip import Arch, ImageTower, TextTower, pixel_statistics
from ldm.conditioners.tokenizers import ClipTokenizer, Tokenizer
from ldm.errors import CheckpointError, ConfigError
from ldm.evaluation.networks.base import weights_sha256
from ldm.evaluation.networks.resizing import NETWORK, resizer
from ldm.files import file_sha256

OWN_RESIZE = "pil-bicubic"
"""As CLIP was trained: the shorter side is resized, the middle square cut out."""


class CLIPNetwork(nn.Module):
    """``embedding``: what CLIP compares with texts; a :class:`~ldm.evaluation.Network`.

    Embeddings are not normalised: published Fréchet distances on CLIP are of these, and a CLIP
    score normalises them itself.

    Args:
        tower: the image half of a CLIP, with weights.
        mean: colours in [0, 1] to subtract.
        std: standard deviations to divide by.
        arch: name of the architecture, for reports.
        resize: name of a resizer; ``network`` is ``OWN_RESIZE``, outside.
        weights_file: where the weights came from, for reports.
        weights_sha256: digest of that file, or of the weights where there is none.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        tower: ImageTower,
        mean: Sequence[float],
        std: Sequence[float],
        arch: str,
        resize: str = NETWORK,
        weights_file: str = "",
        weights_sha256: str = "",
    ) -> None:
        super().__init__()
        self.tower = tower
        self.name = f"clip:{arch}"
        self.input_size: int | None = tower.side
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)
        name = OWN_RESIZE if resize == NETWORK else resize
        self.resize = resizer(name, tower.side, crop=True)
        self.weights_file, self.weights_sha256 = weights_file, weights_sha256
        self.remark = ""
        self.outputs: Mapping[str, int] = {"embedding": tower.embed_dim}
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, side, side) in [0, 255], uint8 or float, to features (B, D) by name."""
        return {"embedding": self.tower((images.float() - self.mean) / self.std)}


class ClipTexts(nn.Module):
    """Embeddings of captions, by the text half of the same CLIP.

    Args:
        tower: the text half, with weights.
        tokenizer: makes its ids.
    """

    def __init__(self, tower: TextTower, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tower = tower
        self.tokenizer = tokenizer
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, captions: Sequence[str]) -> Tensor:
        """Captions, N texts, to embeddings (N, D), not normalised; what is too long is cut off."""
        ids = self.tokenizer(list(captions))
        return self.tower.pooled(ids.to(self.tower.positional_embedding.device))


def clip(arch: Arch, weights: str | Path | None = None, resize: str = NETWORK) -> CLIPNetwork:
    """The image half of a CLIP; arguments as for ``networks.network``.

    Args:
        arch: an architecture of open_clip: its name, or a JSON file with its description.
        weights: file, or a tag of open_clip; None = ``openai`` where it has such.
        resize: name of a resizer.

    Raises:
        ConfigError: open_clip is not installed, or knows no such architecture.
        CheckpointError: the weights are absent, damaged or of another network.
    """
    pretrained = _pretrained(arch, weights)
    tower = ImageTower(arch, pretrained)
    tower.fill()
    mean, std = pixel_statistics(arch, pretrained)
    file = Path(pretrained).expanduser()
    digest = file_sha256(file) if file.is_file() else weights_sha256(tower)
    name = Path(arch).stem if isinstance(arch, str) else "described"
    return CLIPNetwork(tower, mean, std, name, resize, pretrained, digest).eval()


def clip_texts(arch: Arch, weights: str | Path | None = None) -> ClipTexts:
    """The text half of the CLIP whose image half ``clip`` gives for the same arguments."""
    tower = TextTower(arch, _pretrained(arch, weights))
    tower.fill()
    return ClipTexts(tower, ClipTokenizer(tower.longest, pad="zero")).eval()


def _pretrained(arch: Arch, weights: str | Path | None) -> str:
    """File or tag of the weights."""
    if weights is not None:
        return str(weights)
    try:
        import open_clip
    except ImportError as error:
        raise ConfigError(
            "features of CLIP need the package open_clip: pip install open_clip_torch"
        ) from error
    if isinstance(arch, str) and "openai" in open_clip.list_pretrained_tags_by_model(arch):
        return "openai"
    raise CheckpointError(
        f"clip:{arch}: name the file of its weights, or open_clip's tag for them: --weights PATH"
    )
