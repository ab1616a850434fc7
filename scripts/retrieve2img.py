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
with their cosines, its images), OUT/grid.png and OUT/samples.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from _cli import run, say
from _output import generate
from _retrieval import Clip, add_clip_options, open_store
from _sampling import Job, sampling_parser
from _sheet import Cell, Row, save_rows
from torch import Tensor
from txt2img import warn_of_cuts

from ldm.conditioners.embeddings import Embeddings
from ldm.data.embedding_store import EmbeddingStore
from ldm.data.faiss_index import load_index
from ldm.data.neighbours import ExactSearch, Search
from ldm.errors import UserError

DEFAULT_NEIGHBOURS = 10
MOST_ROWS = 16


@dataclass(frozen=True)
class Found:
    """A query and what it found.

    Attributes:
        query: a text, or an image file.
        condition: embeddings (L, D) that the model attends to.
        files: the neighbours, paths below the folder of the database.
        similarities: their cosines with the query.
    """

    query: str | Path
    condition: Tensor
    files: tuple[str, ...] = ()
    similarities: tuple[float, ...] = ()


def main() -> None:
    """Embed queries and database, search, sample, and draw what was found beside the samples."""
    arguments = _parser().parse_args()
    queries: list[str | Path] = [*arguments.prompt, *arguments.query]
    _check(arguments, queries)
    job = Job.load(arguments)
    conditioner = embeddings_conditioner(job)
    clip = Clip(arguments.clip, arguments.clip_weights, job.device)
    store = None
    if arguments.database is not None:
        store = open_store(arguments.database, arguments.embeddings, clip, job)
    index = None
    if arguments.index is not None and store is not None:
        index = load_index(arguments.index, store)
    count = neighbours_of(arguments, conditioner, store)
    if arguments.prompt:
        warn_of_cuts(job, clip.text.tokenizer, arguments.prompt)
    vectors = clip.embed(queries)
    if vectors.shape[1] != conditioner.dim:
        raise UserError(
            f"--clip {arguments.clip} gives embeddings of width {vectors.shape[1]}, the model was "
            f"trained with {conditioner.dim}"
        )
    found = search(queries, vectors, store, count, not arguments.no_query_embedding, index)
    requests = [k for k in range(len(queries)) for _ in range(arguments.per_query)]

    def make(indices: Sequence[int], seeds: Sequence[int]) -> Tensor:
        conditions = torch.stack([found[requests[i]].condition for i in indices])
        return job.images({conditioner.key: conditions}, seeds)

    records = [{"query": str(found[k].query), "neighbours": found[k].files} for k in requests]
    settings = {
        "encoder": clip.name,
        "query_embedding": not arguments.no_query_embedding,
        "neighbours": count,
        "database_images": None if store is None else len(store.files),
        "search": None if store is None else "exact" if index is None else index.description,
    }
    generate(job, make, records, columns=arguments.per_query, settings=settings)
    if job.processes.first:
        draw(job, found[:MOST_ROWS], None if store is None else Path(store.root))


def _parser() -> argparse.ArgumentParser:
    options = sampling_parser(__doc__)
    options.add_argument("--prompt", action="append", default=[], help="a text; repeat for more")
    options.add_argument(
        "--query",
        action="append",
        type=Path,
        default=[],
        metavar="IMAGE",
        help="an image to look for; repeat for more",
    )
    options.add_argument(
        "--database",
        type=Path,
        metavar="FOLDER_OR_FILE",
        help="folder of images, or the file of their embeddings (default: no neighbours)",
    )
    options.add_argument(
        "--neighbours",
        type=int,
        metavar="K",
        help=f"neighbours of a query; 0: none (default: {DEFAULT_NEIGHBOURS}, or as many as model "
        "and database have)",
    )
    options.add_argument(
        "--index",
        type=Path,
        metavar="FILE",
        help="of the database, by build_index.py (default: compare all its embeddings)",
    )
    options.add_argument(
        "--no-query-embedding",
        action="store_true",
        help="attend to the neighbours only, as in training without the image itself",
    )
    options.add_argument(
        "--per-query", type=int, default=4, metavar="N", help="images a query (default: 4)"
    )
    add_clip_options(options)
    return options


def _check(arguments: argparse.Namespace, queries: Sequence[str | Path]) -> None:
    if not queries:
        raise UserError('nothing to look for: give --prompt "..." or --query IMAGE')
    if arguments.per_query < 1:
        raise UserError(f"--per-query {arguments.per_query}: must be at least 1")
    count = arguments.neighbours
    if count is not None and count < 0:
        raise UserError(f"--neighbours {count}: must not be negative")
    if arguments.database is None:
        for option in ("neighbours", "embeddings", "index"):
            if getattr(arguments, option):
                raise UserError(f"--{option} {getattr(arguments, option)}: name the --database")
    if arguments.no_query_embedding and (arguments.database is None or count == 0):
        raise UserError("--no-query-embedding: without neighbours nothing is left to attend to")


def embeddings_conditioner(job: Job) -> Embeddings:
    """The conditioner that takes embeddings, if that is all the model reads."""
    conditioners = list(job.model.conditioners)
    if len(conditioners) == 1 and isinstance(conditioners[0], Embeddings):
        return conditioners[0]
    kinds = ", ".join(type(conditioner).__name__ for conditioner in conditioners) or "nothing"
    raise UserError(
        f"{job.arguments.source} is conditioned on {kinds}, not on what is retrieved (Embeddings)"
    )


def neighbours_of(
    arguments: argparse.Namespace, conditioner: Embeddings, store: EmbeddingStore | None
) -> int:
    """How many neighbours are looked for; refuses more than model or database have."""
    if store is None:
        return 0
    own = 0 if arguments.no_query_embedding else 1
    most, reason = len(store.files), f"{arguments.database} has {len(store.files)} images"
    limit = conditioner.max_tokens
    if limit is not None and limit - own < most:
        most = limit - own
        reason = f"the model takes {limit} embeddings" + (", one is that of the query" * own)
    count: int | None = arguments.neighbours
    if count is not None and count > most:
        raise UserError(f"--neighbours {count}: {reason}, give at most {most}")
    return min(DEFAULT_NEIGHBOURS, most) if count is None else count


def search(
    queries: Sequence[str | Path],
    vectors: Tensor,
    store: EmbeddingStore | None,
    count: int,
    own: bool,
    index: Search | None = None,
) -> list[Found]:
    """What each query with its vector (Q, D) finds; ``own``: the model sees that vector, first."""
    seen = vectors[:, None] if own else vectors[:, None][:, :0]
    if store is None or count == 0:
        return [Found(query, condition) for query, condition in zip(queries, seen, strict=True)]
    neighbours = (index or ExactSearch(store.vectors))(vectors, count)
    seen = torch.cat([seen, store.vectors[neighbours.indices]], dim=1)
    return [
        Found(query, seen[k], tuple(store.files[i] for i in rows.tolist()), tuple(cosines.tolist()))
        for k, (query, rows, cosines) in enumerate(zip(queries, *neighbours, strict=True))
    ]


def draw(job: Job, found: Sequence[Found], root: Path | None) -> None:
    """Write neighbours.png."""
    per_query = job.arguments.per_query
    rows = []
    for k, entry in enumerate(found):
        text = isinstance(entry.query, str)
        cells = [Cell(text=str(entry.query)) if text else Cell(Path(entry.query), str(entry.query))]
        for file, cosine in zip(entry.files, entry.similarities, strict=True):
            picture = None if root is None or not (root / file).is_file() else root / file
            cells.append(Cell(picture, f"{cosine:.3f} {file}"))
        numbers = range(k * per_query, (k + 1) * per_query)
        cells += [Cell(job.out / f"images/{n:05d}.png", "image") for n in numbers]
        rows.append(Row("", cells))
    save_rows(rows, job.out / "neighbours.png")
    say(f"queries, neighbours and images: {job.out / 'neighbours.png'}")


if __name__ == "__main__":
    run(main)
