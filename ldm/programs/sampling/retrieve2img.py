"""Make images with a retrieval-augmented model, of a query and what a database has near it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm.cli.app import say
from ldm.cli.conditions import warn_of_cuts
from ldm.cli.outputs import generate
from ldm.cli.retrieval import Clip, open_store
from ldm.cli.sampling import Job
from ldm.conditioners.embeddings import Embeddings
from ldm.data.retrieval.embeddings import EmbeddingStore
from ldm.data.retrieval.search import ExactSearch, Search, load_index
from ldm.errors import UserError
from ldm.visualization.figure import Cell, Row, save_rows

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


def run(arguments: argparse.Namespace) -> None:
    """Embed queries and database, search, sample, and draw what was found beside the samples."""
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
