"""Embeddings of many images, kept in one file: what retrieval searches.

Nothing here knows the network: an ``encode`` function makes embeddings of images.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.config import write_atomically
from ldm.data.folder_listing import list_folder
from ldm.data.image_files import read_image
from ldm.data.transforms import Framing, to_tensor
from ldm.errors import DataError

Encode: TypeAlias = Callable[[Tensor], Tensor]
"""``encode(images (B, 3, side, side) in [-1, 1]) -> embeddings (B, D)`` of any length."""


@dataclass(frozen=True)
class EmbeddingStore:
    """Embeddings of the images of a folder.

    Attributes:
        files: paths below the folder.
        vectors: one for each file (N, D), float32 of length 1.
        encoder: which network made them, e.g. its name and the hash of its weights.
        sizes: bytes of every file of the folder, also of those that could not be read, by path.
        root: the folder, where it was then.
    """

    files: tuple[str, ...]
    vectors: Tensor
    encoder: str
    sizes: dict[str, int]
    root: str

    def save(self, path: Path) -> None:
        """Write a ``.safetensors`` file, complete or not at all."""
        from safetensors.torch import save

        tensors = {"vectors": self.vectors.contiguous(), "about": _packed(self)}
        write_atomically(path, lambda file: file.write(save(tensors)))

    @staticmethod
    def load(path: Path) -> EmbeddingStore:
        """Read what ``save`` wrote.

        Raises:
            DataError: it is missing, damaged or something else.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
            about = json.loads(bytes(tensors["about"].numpy()).decode())
            files, sizes = tuple(about["files"]), dict(about["sizes"])
            return EmbeddingStore(files, tensors["vectors"], about["encoder"], sizes, about["root"])
        except FileNotFoundError:
            raise DataError(f"embeddings {path}: no such file") from None
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"embeddings {path}: not a file of embeddings ({error!r})") from None

    def check_encoder(self, encoder: str, path: Path) -> None:
        """Refuse embeddings of another network.

        Raises:
            DataError: it names both, and the file ``path`` they were read from.
        """
        if self.encoder != encoder:
            raise DataError(
                f"embeddings {path} were made by {self.encoder}, not by {encoder}: delete the file "
                "to embed the images anew, or name that encoder"
            )

    def check_folder(self, root: Path, path: Path) -> None:
        """Refuse a folder whose images, by path and number of bytes, are others than then.

        Raises:
            DataError: it names the first difference, and the file ``path``.
        """
        sizes = file_sizes(root, list_folder(root).images)
        if sizes == self.sizes:
            return
        other = min(name for name, _ in sizes.items() ^ self.sizes.items())
        what = "new" if other not in self.sizes else "changed" if other in sizes else "gone"
        raise DataError(
            f"embeddings {path} are not those of {root} any more ({other} is {what}): delete the "
            "file to embed the images anew"
        )


def embed_folder(
    root: Path,
    encode: Encode,
    encoder: str,
    side: int,
    batch_size: int = 64,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> EmbeddingStore:
    """Embed all images of a folder, resized and cropped to their middle square.

    An image that cannot be read is left out, and the log says so.

    Args:
        root: the folder; nested ones are read.
        encode: the network.
        encoder: how it is called, see ``EmbeddingStore``.
        side: of the images that it takes, in pixels.
        batch_size: images at once.
        progress: wraps the iteration over batches like tqdm.

    Raises:
        DataError: no image can be read.
    """
    files = list_folder(root).images
    kept: list[str] = []
    vectors: list[Tensor] = []
    for start in progress(range(0, len(files), batch_size)):
        read = _readable(root, files[start : start + batch_size], side)
        if read:
            kept += read
            vectors.append(normalised(encode(torch.stack(list(read.values())))))
    if not kept:
        raise DataError(f"image folder '{root}': none of its {len(files)} images can be read")
    sizes = file_sizes(root, files)
    return EmbeddingStore(tuple(kept), torch.cat(vectors), encoder, sizes, str(root.resolve()))


def square_image(path: Path, side: int) -> Tensor:
    """The middle square of an image file, as (3, side, side) in [-1, 1].

    Raises:
        DataError: it cannot be read.
    """
    image, _ = read_image(path, at_least=side)
    return to_tensor(Framing(side, side)(image, lambda: 0.0))


def normalised(vectors: Tensor) -> Tensor:
    """Vectors (B, D) at length 1, float32 on the CPU.

    Raises:
        DataError: one has no direction: it is zero or not finite.
    """
    vectors = F.normalize(vectors.float().cpu(), dim=1)
    lengths = vectors.norm(dim=1)
    if not torch.isclose(lengths, torch.ones_like(lengths), atol=1e-3).all():
        raise DataError("the encoder gave an embedding that is zero or not finite")
    return vectors


def file_sizes(root: Path, files: Sequence[str]) -> dict[str, int]:
    """Bytes of files below a folder, by path."""
    return {name: (root / name).stat().st_size for name in files}


def _readable(root: Path, files: Sequence[str], side: int) -> dict[str, Tensor]:
    images = {}
    for name in files:
        try:
            images[name] = square_image(root / name, side)
        except DataError as error:
            logging.getLogger(__name__).warning("left out: %s", error)
    return images


def _packed(store: EmbeddingStore) -> Tensor:
    """All but the vectors as bytes: a header of safetensors is too short for a million names."""
    about = {name: getattr(store, name) for name in ("files", "encoder", "sizes", "root")}
    return torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8)
