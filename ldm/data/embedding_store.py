"""Embeddings of many images, kept in one file: what retrieval searches."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm.atomic_write import write_atomically
from ldm.data.folder_listing import list_folder
from ldm.errors import DataError


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

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of files and vectors: what is made of them belongs to no others."""
        digest = hashlib.sha256("\n".join(self.files).encode())
        digest.update(self.vectors.contiguous().numpy().data)
        return digest.hexdigest()

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


def file_sizes(root: Path, files: Sequence[str]) -> dict[str, int]:
    """Bytes of files below a folder, by path."""
    return {name: (root / name).stat().st_size for name in files}


def _packed(store: EmbeddingStore) -> Tensor:
    """All but the vectors as bytes: a header of safetensors is too short for a million names."""
    about = {name: getattr(store, name) for name in ("files", "encoder", "sizes", "root")}
    return torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8)
