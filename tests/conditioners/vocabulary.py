"""A vocabulary of eleven pieces."""

from __future__ import annotations

from pathlib import Path

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "circle", "##s", "blue", "."]


def write(folder: Path) -> str:
    path = folder / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n")
    return str(path)
