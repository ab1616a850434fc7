"""Frozen encoders of OpenCLIP: text as Stable Diffusion v2 uses it, and images for retrieval.

``TextTower`` and ``ImageTower`` are the two halves of a model of the package ``open_clip``, each
built and filled without the other; the conditioners at the end put them to use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.conditioners.base import Conditioner, check_tensor
from ldm.conditioners.pretrained import (
    PretrainedModule,
    freeze_pretrained,
    hub_file,
    read_weights,
)
from ldm.conditioners.text import check_tokens, check_value, empty_text
from ldm.conditioners.tokenizers import Tokenizer
from ldm.errors import CheckpointError, ConfigError
from ldm.files import read_json

Arch = str | Mapping[str, Any]
"""Name of an architecture of ``open_clip``, its description, or the path of a JSON file of one."""

_VISUAL = "visual."
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_ADVICE = (
    "give as pretrained the path of the file with its weights, or load a checkpoint that holds the "
    "encoder"
)
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class TextTower(PretrainedModule):
    """The text half of ``open_clip.CLIP``, with the names and the order of its parameters."""

    attn_mask: Tensor | None

    def __init__(self, arch: Arch, pretrained: str | None) -> None:
        settings = _settings(arch, pretrained)
        super().__init__(_reader(arch, pretrained, visual=False))
        from open_clip.model import _build_text_tower

        text = _build_text_tower(
            settings["embed_dim"], settings["text_cfg"], settings.get("quick_gelu", False)
        )
        self.embed_dim: int = settings["embed_dim"]
        self.width: int = text.token_embedding.embedding_dim
        self.vocab_size: int = text.vocab_size
        self.longest: int = text.context_length
        self.positional_embedding: Tensor = text.positional_embedding
        self.text_projection: Tensor = text.text_projection
        self.logit_scale = nn.Parameter(torch.tensor(0.0))  # unused, but part of the files
        self.transformer = text.transformer
        self.token_embedding = text.token_embedding
        self.ln_final = text.ln_final
        self.register_buffer("attn_mask", text.attn_mask, persistent=False)

    def forward(self, ids: Tensor, skipped: int = 0) -> Tensor:
        """Ids (B, L) -> (B, L, D), without the last ``skipped`` layers."""
        return text_states(self, ids, skipped)

    def pooled(self, ids: Tensor) -> Tensor:
        """Ids (B, L) -> (B, D): the projected output at the end token, which has the highest id."""
        return pooled_text(self, ids)


def text_states(text: Any, ids: Tensor, skipped: int = 0) -> Tensor:
    """Ids (B, L) -> (B, L, D) through any module that has the parts of a ``TextTower``."""
    length = ids.shape[1]
    x = text.token_embedding(ids) + text.positional_embedding[:length]
    mask = None if text.attn_mask is None else text.attn_mask[:length, :length]
    batch_first = getattr(text.transformer, "batch_first", False)  # open_clip before 2.25
    x = x if batch_first else x.transpose(0, 1)
    blocks = text.transformer.resblocks
    for block in blocks[: len(blocks) - skipped]:
        x = block(x, attn_mask=mask)
    states: Tensor = text.ln_final(x if batch_first else x.transpose(0, 1))
    return states


def pooled_text(text: Any, ids: Tensor) -> Tensor:
    """Ids (B, L) -> (B, D) as :meth:`TextTower.pooled`, through any module with its parts."""
    states = text_states(text, ids)
    ends = states[torch.arange(len(ids), device=ids.device), ids.argmax(-1)]
    pooled: Tensor = ends @ text.text_projection
    return pooled


class ImageTower(PretrainedModule):
    """The image half of ``open_clip.CLIP``."""

    def __init__(self, arch: Arch, pretrained: str | None) -> None:
        settings = _settings(arch, pretrained)
        super().__init__(_reader(arch, pretrained, visual=True))
        from open_clip.model import _build_vision_tower

        self.visual = _build_vision_tower(
            settings["embed_dim"], settings["vision_cfg"], settings.get("quick_gelu", False)
        )
        self.embed_dim: int = settings["embed_dim"]
        sizes = self.visual.image_size
        self.side: int = sizes if isinstance(sizes, int) else sizes[0]

    def forward(self, images: Tensor) -> Tensor:
        """Standardised images (B, 3, side, side) -> (B, D)."""
        return self.visual(images)


def pixel_statistics(arch: Arch, pretrained: str | None) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of the colours in [0, 1] that an image encoder expects."""
    tag = _tag(arch, pretrained) or {}
    return tag.get("mean", _MEAN), tag.get("std", _STD)


def prepare_pixels(images: Tensor, side: int, mean: Tensor, std: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] as CLIP sees them: resized, cropped to the middle square.

    Args:
        images: with colours in [-1, 1].
        side: of the square, in pixels; the shorter side is resized to it.
        mean: colours (3, 1, 1) to subtract, in [0, 1].
        std: standard deviations (3, 1, 1) to divide by.
    """
    height, width = images.shape[-2:]
    scale = side / min(height, width)
    size = max(side, round(height * scale)), max(side, round(width * scale))
    if size != (height, width):
        images = F.interpolate(images, size, mode="bicubic", antialias=True)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    images = images[..., top : top + side, left : left + side].clamp(-1, 1)
    return (images.add(1).div(2) - mean) / std


def _package() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise ConfigError(
            "the encoders of OpenCLIP need the package open_clip: pip install open_clip_torch"
        ) from error
    return open_clip


def _settings(arch: Arch, pretrained: str | None) -> dict[str, Any]:
    """Sizes of an architecture, with the activation that the weights were trained with."""
    package = _package()
    if isinstance(arch, str):
        found = _described(arch) if arch.endswith(".json") else package.get_model_config(arch)
    else:
        found = arch
    if found is None:
        raise ConfigError(f"arch={arch!r}: open_clip has no such architecture")
    settings = dict(found)
    missing = {"embed_dim", "text_cfg", "vision_cfg"} - settings.keys()
    if missing:
        raise ConfigError(f"arch: a description needs {', '.join(sorted(missing))}")
    unlike_clip = ("hf_model_name", "embed_cls", "proj_bias")
    text: Mapping[str, Any] = settings["text_cfg"]
    if settings.get("custom_text") or any(text.get(name) for name in unlike_clip):
        raise ConfigError(f"arch={arch!r}: its text encoder is not built like that of CLIP")
    vision: Mapping[str, Any] = settings["vision_cfg"]
    if vision.get("timm_model_pretrained") or ":" in str(vision.get("timm_model_name")):
        raise ConfigError("arch: weights come from pretrained, not from what vision_cfg names")
    tag = _tag(arch, pretrained)
    if tag is not None and tag.get("quick_gelu"):
        settings["quick_gelu"] = True
    return settings


def _described(file: str) -> dict[str, Any]:
    """What a JSON file says of an architecture."""
    path, remedy = Path(file).expanduser(), "it must describe an architecture of open_clip"
    found = read_json(path, ConfigError, f"arch={file!r}", remedy, table=True)
    return dict(found)


def _tag(arch: Arch, pretrained: str | None) -> dict[str, Any] | None:
    """What open_clip knows of pretrained weights; None for a file."""
    if pretrained is None or Path(pretrained).suffix in _SUFFIXES:
        return None
    if not isinstance(arch, str):
        raise ConfigError(
            f"pretrained={pretrained!r} needs the name of an architecture as arch; a file of "
            f"weights ends in {', '.join(_SUFFIXES)}"
        )
    found: dict[str, Any] = _package().get_pretrained_cfg(arch, pretrained)
    if not found:
        known = ", ".join(_package().list_pretrained_tags_by_model(arch)) or "none"
        raise ConfigError(
            f"pretrained={pretrained!r}: no file and no weights of {arch}; open_clip knows {known}"
        )
    return found


def _reader(
    arch: Arch, pretrained: str | None, visual: bool
) -> Callable[[], dict[str, Tensor]] | None:
    return None if pretrained is None else partial(_read, arch, pretrained, visual)


def _read(arch: Arch, pretrained: str, visual: bool) -> dict[str, Tensor]:
    """The weights of one half, by their names in there."""
    tag = _tag(arch, pretrained)
    file = Path(pretrained).expanduser() if tag is None else _file_of(tag, pretrained)
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; {_ADVICE}")
    weights = read_weights(file)
    return {name: value for name, value in weights.items() if name.startswith(_VISUAL) == visual}


def _file_of(tag: Mapping[str, Any], name: str) -> Path:
    """The file of a tag, from the cache if it is there."""
    if not tag.get("hf_hub"):  # old versions of open_clip knew archives with code instead
        raise CheckpointError(f"open_clip knows no file on the hub of {name!r}: {_ADVICE}")
    repository, _, file = tag["hf_hub"].rpartition("/")
    return hub_file(repository, (file,) if file else _WEIGHTS, _ADVICE)


Layer = Literal["last", "penultimate", "pooled"]


class OpenCLIPText(Conditioner):
    """Token ids (B, L) as OpenCLIP embeddings (B, L, D) for cross-attention; pooled (B, 1, D).

    The weights never learn; when they are read, see :class:`~ldm.conditioners.CLIPText`.
    Parameters have the names of Stable Diffusion v2: ``model.transformer.resblocks...``.

    Args:
        arch: Name of an architecture of ``open_clip``, its description (``embed_dim``,
            ``text_cfg``, ``vision_cfg``, optionally ``quick_gelu``), or the path of a JSON file
            with such a description.
        pretrained: A tag of ``open_clip`` for these weights, or the path of a file of them. None:
            they are random if no checkpoint brings any.
        layer: "last", the output of the layer before it ("penultimate": Stable Diffusion v2), both
            through the final layer norm; or "pooled", the embedding that CLIP compares with
            images, of length 1 (retrieval-augmented diffusion).
        length: Ids per text.
        key: Name of the batch entry.
        tokenizer: Makes ids of texts; needed for ``drop_prob`` and guidance, where "no condition"
            is the empty text. OpenCLIP pads with zeros.
        in_checkpoint: Whether checkpoints hold the weights.
        drop_prob: See :class:`~ldm.conditioners.Conditioner`.

    Raises:
        ConfigError: If the arguments do not fit together or ``open_clip`` is not installed.
        CheckpointError: If there are no weights, or those of another network.
    """

    def __init__(
        self,
        arch: Arch = "ViT-H-14",
        pretrained: str | None = None,
        layer: Layer = "penultimate",
        length: int = 77,
        key: str = "tokens",
        tokenizer: Tokenizer | None = None,
        in_checkpoint: bool = True,
        drop_prob: float = 0.0,
    ) -> None:
        super().__init__(key, "crossattn", drop_prob)
        if layer not in get_args(Layer):
            raise ConfigError(f"layer must be one of {', '.join(get_args(Layer))}, got {layer!r}")
        self.layer = layer
        self.length = length
        self.tokenizer = tokenizer
        self.model = TextTower(arch, pretrained)
        self.dim = self.model.embed_dim if layer == "pooled" else self.model.width
        self.vocab_size = self.model.vocab_size
        check_tokens(key, length, self.model.longest, self.vocab_size, tokenizer, drop_prob)
        freeze_pretrained(self, self.model, pretrained, in_checkpoint)

    def forward(self, value: Tensor) -> Tensor:
        """Ids (B, L) with L <= length -> (B, L, D), or (B, 1, D) pooled."""
        check_value(self.key, value, self.length, self.vocab_size)
        self.model.fill()
        with torch.no_grad():
            if self.layer == "pooled":
                return F.normalize(self.model.pooled(value), dim=-1)[:, None]
            return self.model(value, skipped=1 if self.layer == "penultimate" else 0)

    def null(self, n: int, like: Tensor) -> Tensor:
        """Ids of the empty text, n times."""
        return empty_text(self.key, self.tokenizer, n, like)


class OpenCLIPImage(Conditioner):
    """Images (B, 3, H, W) in [-1, 1] as normalised OpenCLIP embeddings (B, 1, D).

    Images are resized and cropped to the middle square as CLIP was trained on. "No condition" is
    an embedding of zeros (Blattmann et al., Retrieval-Augmented Diffusion Models, 2022); as a value
    it is an image of NaN.

    Args:
        arch: See :class:`OpenCLIPText`.
        pretrained: See :class:`OpenCLIPText`.
        key: Name of the batch entry.
        in_checkpoint: Whether checkpoints hold the weights.
        drop_prob: See :class:`~ldm.conditioners.Conditioner`.

    Raises:
        ConfigError: If the arguments do not fit together or ``open_clip`` is not installed.
        CheckpointError: If there are no weights, or those of another network.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        arch: Arch = "ViT-L-14",
        pretrained: str | None = None,
        key: str = "image",
        in_checkpoint: bool = True,
        drop_prob: float = 0.0,
    ) -> None:
        super().__init__(key, "crossattn", drop_prob)
        self.model = ImageTower(arch, pretrained)
        self.dim = self.model.embed_dim
        mean, std = pixel_statistics(arch, pretrained)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        freeze_pretrained(self, self.model, pretrained, in_checkpoint)

    @torch.no_grad()
    def forward(self, value: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> (B, 1, D)."""
        check_tensor(value, self.key, "float", 3, None, None)
        self.model.fill()
        absent = value.isnan().flatten(1).all(1)
        embeddings = F.normalize(self.model(self._prepare(value)), dim=-1)
        return embeddings.masked_fill(absent[:, None], 0.0)[:, None]

    def null(self, n: int, like: Tensor) -> Tensor:
        """Images of NaN, which have the embedding 0."""
        return like.new_full((n, *like.shape[1:]), torch.nan)

    def _prepare(self, images: Tensor) -> Tensor:
        """Resized, cropped and standardised as for CLIP."""
        return prepare_pixels(images, self.model.side, self.mean, self.std)
