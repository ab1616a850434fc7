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
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import check_out_file, new_parser
from ldm.cli.options.model import add_device_option
from ldm.cli.options.retrieval import add_clip_options
from ldm.errors import UserError

KINDS = ("exact", "ivf")
"""Of ``ldm.data.retrieval.search.KINDS``."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program."""
    options = _parser().parse_args(arguments)
    if not options.folder.is_dir():
        raise UserError(f"{options.folder}: no such folder")
    for name in ("threads", "cells", "probes"):
        value = getattr(options, name)
        if value is not None and name != "threads" and options.index != "ivf":
            raise UserError(f"--{name} {value} goes with --index ivf")
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    if options.clip.endswith(".json") and not Path(options.clip).is_file():
        raise UserError(f"--clip {options.clip}: no such file")
    check_out_file("--embeddings", options.embeddings)
    check_out_file("--out", options.out)
    if options.out is not None and options.index is None:
        raise UserError(f"--out {options.out} is where an index goes: name the --index")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("build_index", __doc__)
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
    add_device_option(parser)
    return parser
