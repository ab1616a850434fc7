r"""Make images with a retrieval-augmented model, of a query and what a database has near it.

Examples:
  python scripts/retrieve2img.py runs/rdm --prompt "a red house" --database photos --neighbours 10
  python scripts/retrieve2img.py runs/rdm --query house.jpg --database photos --no-query-embedding
  python scripts/retrieve2img.py runs/rdm --prompt "a red house" --guidance 5     no database
  python scripts/retrieve2img.py runs/rdm --prompt "a red house" --database photos \
    --index photos.ViT-L-14.ivf

The model attends to CLIP embeddings: that of the query, then those of its nearest neighbours among
the images of a folder (as the published script does), or of either alone. The folder is embedded
once; the embeddings are kept in a file beside it, which may also be given as --database. With an
index of scripts/build_index.py not all of them are compared with the query.

--clip-weights is a file of weights of OpenCLIP, or the name of published ones, which are read from
the cache of the Hugging Face hub or downloaded. They must be those that the model was trained with.

Writes OUT/images/00000.png, ..., OUT/neighbours.png (a row per query: the query, its neighbours
with their cosines, its images), OUT/grid.png and OUT/samples.json. Queries that cannot be read are
named and left out; the exit code is then 4, and 2 if none can be read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options.common import check_at_least, check_file
from ldm.cli.options.retrieval import add_clip_options
from ldm.cli.options.sampling import parse_sampling, sampling_parser
from ldm.errors import UserError

DEFAULT_NEIGHBOURS = 10


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program."""
    options = parse_sampling(_parser(), arguments)
    if not (options.prompt or options.query):
        raise UserError('nothing to look for: give --prompt "..." or --query IMAGE')
    check_at_least(options, 1, "per_query")
    count, database = options.neighbours, options.database
    if count is not None and count < 0:
        raise UserError(f"--neighbours {count}: must not be negative")
    if database is None:
        for option in ("neighbours", "embeddings", "index"):
            if getattr(options, option):
                raise UserError(f"--{option} {getattr(options, option)}: name the --database")
    elif not database.exists():
        raise UserError(f"--database {database}: no such folder or file")
    elif database.is_file() and options.embeddings is not None:
        raise UserError(f"--embeddings {options.embeddings} goes with a folder as --database")
    if options.no_query_embedding and (database is None or count == 0):
        raise UserError("--no-query-embedding: without neighbours nothing is left to attend to")
    for query in options.query:
        check_file("--query", query)
    check_file("--index", options.index, "; scripts/build_index.py writes it")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = sampling_parser("retrieve2img", __doc__)
    parser.add_argument("--prompt", action="append", default=[], help="a text; repeat for more")
    parser.add_argument(
        "--query",
        action="append",
        type=Path,
        default=[],
        metavar="IMAGE",
        help="an image to look for; repeat for more",
    )
    parser.add_argument(
        "--database",
        type=Path,
        metavar="FOLDER_OR_FILE",
        help="folder of images, or the file of their embeddings (default: no neighbours)",
    )
    parser.add_argument(
        "--neighbours",
        type=int,
        metavar="K",
        help=f"neighbours of a query; 0: none (default: {DEFAULT_NEIGHBOURS}, or as many as model "
        "and database have)",
    )
    parser.add_argument(
        "--index",
        type=Path,
        metavar="FILE",
        help="of the database, by build_index.py (default: compare all its embeddings)",
    )
    parser.add_argument(
        "--no-query-embedding",
        action="store_true",
        help="attend to the neighbours only, as in training without the image itself",
    )
    parser.add_argument(
        "--per-query", type=int, default=4, metavar="N", help="images a query (default: 4)"
    )
    add_clip_options(parser)
    return parser
