"""CLIP embeddings of texts, images and a database, for retrieval."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ldm.cli.app import say
from ldm.conditioners.open_clip import OpenCLIPImage, OpenCLIPText
from ldm.conditioners.tokenizers import ClipTokenizer
from ldm.data.retrieval.embeddings import (
    Embedder,
    EmbeddingStore,
    embed_into,
    normalised,
    square_image,
    stored,
)
from ldm.distributed import Processes
from ldm.errors import UserError
from ldm.files import file_sha256, read_json

BATCH = 64


@dataclass(frozen=True)
class Clip:
    """Both halves of a CLIP model, each read when it is first needed.

    Attributes:
        arch: name of an architecture, or a JSON file.
        weights: name of weights, or a file.
        device: where it works.
    """

    arch: str
    weights: str
    device: torch.device

    @functools.cached_property
    def name(self) -> str:
        """Which network it is: embeddings by another name must not be compared with its own."""
        is_file = Path(self.weights).is_file()
        weights = f"weights {file_sha256(Path(self.weights))}" if is_file else self.weights
        return f"{self.short_name} {weights}"

    @property
    def short_name(self) -> str:
        """Architecture, as a part of file names."""
        return Path(self.arch).stem if self.arch.endswith(".json") else self.arch

    @functools.cached_property
    def image(self) -> OpenCLIPImage:
        """The half for images."""
        return OpenCLIPImage(self._arch, self.weights).eval().to(self.device)

    @functools.cached_property
    def text(self) -> OpenCLIPText:
        """The half for texts."""
        length = self._text_length()
        tokenizer = ClipTokenizer(length, pad="zero")
        text = OpenCLIPText(
            self._arch, self.weights, layer="pooled", length=length, tokenizer=tokenizer
        )
        return text.eval().to(self.device)

    def embed(self, queries: Sequence[str | Path]) -> Tensor:
        """Embeddings (Q, D), of length 1, of texts and image files."""
        return normalised(torch.cat([self._embed(query) for query in queries]))

    def embed_images(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> (B, D)."""
        embeddings: Tensor = self.image(images.to(self.device))[:, 0]
        return embeddings.cpu()

    @property
    def side(self) -> int:
        """Of the images that it sees, in pixels."""
        return self.image.model.side

    def _embed(self, query: str | Path) -> Tensor:
        if isinstance(query, Path):
            return self.embed_images(square_image(query, self.side)[None])
        tokenizer: Any = self.text.tokenizer
        embeddings: Tensor = self.text(tokenizer([query]).to(self.device))[:, 0]
        return embeddings.cpu()

    @functools.cached_property
    def _arch(self) -> str | dict[str, Any]:
        if not self.arch.endswith(".json"):
            return self.arch
        remedy = "it must describe an architecture of open_clip"
        found = read_json(self.arch, UserError, f"--clip {self.arch}", remedy, table=True)
        return dict(found)

    def _text_length(self) -> int:
        described = self._arch
        if isinstance(described, str):
            import open_clip

            described = open_clip.get_model_config(described) or {}
        return int(described.get("text_cfg", {}).get("context_length", 77))


def open_store(
    database: Path, kept: Path | None, clip: Clip, processes: Processes
) -> EmbeddingStore:
    """The embeddings of a folder, made where there are none, or those in a file.

    Args:
        database: the folder, or the file.
        kept: of a folder, the file with its embeddings; None: beside it.
        clip: makes them.
        processes: they wait for the first one, which makes them.
    """
    if database.is_file():
        if kept is not None:
            raise UserError(f"--embeddings {kept} goes with a folder as --database")
        file = database
    else:
        if not database.is_dir():
            raise UserError(f"--database {database}: no such folder or file")
        file = kept or beside(database, clip)
        processes.from_first(lambda: _make_if_absent(database, file, clip))
    store = EmbeddingStore.load(file)
    store.check_encoder(clip.name, file)
    if database.is_dir():
        store.check_folder(database, file)
    return store


def _make_if_absent(folder: Path, file: Path, clip: Clip) -> None:
    if stored(file) is None:
        embed(folder, file, clip)


def beside(folder: Path, clip: Clip) -> Path:
    """Where the embeddings of a folder are kept."""
    return folder.resolve().with_name(f"{folder.resolve().name}.{clip.short_name}.safetensors")


def embed(folder: Path, file: Path, clip: Clip, threads: int = 1) -> EmbeddingStore:
    """Embed a folder into a file, or what is new there since; goes on where it was interrupted."""
    say(f"embedding the images of {folder}")
    progress = functools.partial(
        tqdm, desc="embedding", unit="batch", dynamic_ncols=True, disable=not sys.stderr.isatty()
    )
    embedder = Embedder(clip.embed_images, clip.name, clip.side, BATCH, threads)
    store = embed_into(file, folder, embedder, progress)
    say(f"{len(store.files)} embeddings kept in {file}")
    return store
