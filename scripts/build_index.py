"""Embed the images of a folder with CLIP, for retrieval, and make an index to search many of them.

Examples:
  python scripts/build_index.py photos --clip-weights clip.safetensors
  python scripts/build_index.py photos --index ivf
  python scripts/build_index.py photos --index ivf --cells 4096 --probes 32 --out photos.index

The embeddings go to FOLDER.CLIP.safetensors beside the folder, or where --embeddings says. They are
what training needs (configs/data/retrieval-folder.yaml, embeddings=FILE) and what retrieve2img.py
takes as --database. If the call is interrupted repeat it: it goes on. Images that came or changed
since the file was written are embedded, the others are not embedded again.

Without an index a query is compared with every embedding, which is exact. An index needs faiss (pip
install faiss-cpu). It goes to OUT, and is given as index=OUT to train.py or as --index OUT to
retrieve2img.py:
  exact  the same by faiss, which compares many queries at once faster
  ivf    for hundreds of thousands of images: k-means divides them into cells, and a query is
         compared with those of the nearest few cells; how many of the true neighbours are found
         so is measured and printed
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from _cli import check_device, check_out_file, run, say
from _model import default_device
from _retrieval import Clip, add_clip_options, beside, embed

from ldm.data.embedding_store import EmbeddingStore
from ldm.data.faiss_index import (
    KINDS,
    FaissSearch,
    exact_index,
    ivf_index,
    recall,
    save_index,
)
from ldm.errors import UserError

SHOWN = 10
"""Neighbours whose recall is measured."""


def main() -> None:
    """Embed, then index what was embedded."""
    arguments = _parser().parse_args()
    _check(arguments)
    check_device(arguments.device)
    clip = Clip(arguments.clip, arguments.clip_weights, torch.device(arguments.device))
    file = arguments.embeddings or beside(arguments.folder, clip)
    store = embed(arguments.folder, file, clip, arguments.threads)
    if arguments.index is None:
        return
    out = arguments.out or file.with_suffix(f".{arguments.index}")
    search = _index(store, arguments)
    save_index(search, store, out)
    say(f"index ({search.description}) kept in {out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="images, nested or not")
    add_clip_options(parser)
    parser.add_argument("--index", choices=KINDS, help="make an index too (default: none)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the index (default: beside the embeddings)"
    )
    parser.add_argument(
        "--cells", type=int, metavar="N", help="of an ivf index (default: 4 x root of the images)"
    )
    parser.add_argument(
        "--probes",
        type=int,
        metavar="N",
        help="cells that a query is compared with (default: an eighth, 8 to 64)",
    )
    parser.add_argument(
        "--threads", type=int, default=4, metavar="N", help="that read images (default: 4)"
    )
    parser.add_argument("--device", default=default_device(), help="default: %(default)s")
    return parser


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.folder.is_dir():
        raise UserError(f"{arguments.folder}: no such folder")
    if arguments.threads < 1:
        raise UserError(f"--threads {arguments.threads}: must be at least 1")
    for name in ("cells", "probes"):
        if getattr(arguments, name) is not None and arguments.index != "ivf":
            raise UserError(f"--{name} {getattr(arguments, name)} goes with --index ivf")
    check_out_file("--embeddings", arguments.embeddings)
    check_out_file("--out", arguments.out)
    if arguments.out is not None and arguments.index is None:
        raise UserError(f"--out {arguments.out} is where an index goes: name the --index")


def _index(store: EmbeddingStore, arguments: argparse.Namespace) -> FaissSearch:
    if arguments.index == "exact":
        return exact_index(store.vectors)
    search = ivf_index(store.vectors, arguments.cells, arguments.probes)
    k = min(SHOWN, len(store.files) - 1)
    if k > 0:
        share = recall(search, store.vectors, k)
        more = "" if share == 1 else "; a larger --probes finds more"
        say(f"{share:.1%} of the {k} nearest images are found{more}")
    return search


if __name__ == "__main__":
    run(main)
