"""Make images with a retrieval-augmented model, of a query and what a database has near it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm.cli.app import say
from ldm.cli.commands.sampling.retrieve2img import DEFAULT_NEIGHBOURS
from ldm.cli.conditions import find_conditioner, warn_of_cuts
from ldm.cli.images import MOST_ROWS, end_without, readable
from ldm.cli.outputs import generate
from ldm.cli.retrieval import Clip, open_store
from ldm.cli.sampling import SamplingSession
from ldm.conditioners.embeddings import Embeddings
from ldm.data.image_io import read_image
from ldm.data.retrieval.embeddings import EmbeddingStore
from ldm.data.retrieval.search import ExactSearch, Search, load_index
from ldm.errors import UserError
from ldm.visualization.figure import Cell, Row, save_rows


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


def run(options: argparse.Namespace) -> None:
    """Embed queries and database, search, sample, and draw what was found beside the samples."""
    asked: list[str | Path] = [*options.prompt, *options.query]
    session = SamplingSession.load(options)
    good = readable(session, {str(k): query for k, query in enumerate(asked)}, _look)
    queries = list(good.values())
    conditioner = find_conditioner(session, Embeddings, "what is retrieved")
    clip = Clip(options.clip, options.clip_weights, session.device)
    store = None
    if options.database is not None:
        store = open_store(options.database, options.embeddings, clip, session.processes)
    index = None
    if options.index is not None and store is not None:
        index = load_index(options.index, store)
    count = neighbours_of(options, conditioner, store)
    if options.prompt:
        warn_of_cuts(session, clip.text.tokenizer, options.prompt)
    vectors = clip.embed(queries)
    if vectors.shape[1] != conditioner.dim:
        raise UserError(
            f"--clip {options.clip} gives embeddings of width {vectors.shape[1]}, the model was "
            f"trained with {conditioner.dim}"
        )
    found = search(queries, vectors, store, count, not options.no_query_embedding, index)
    requests = [k for k in range(len(queries)) for _ in range(options.per_query)]
    numbers = [int(k) * options.per_query + i for k in good for i in range(options.per_query)]

    def make(indices: Sequence[int], seeds: Sequence[int]) -> Tensor:
        conditions = torch.stack([found[requests[i]].condition for i in indices])
        return session.images({conditioner.key: conditions}, seeds)

    records = [
        {"file": result_file(number), "seed": options.seed + number}
        | {"query": str(found[k].query), "neighbours": found[k].files}
        for k, number in zip(requests, numbers, strict=True)
    ]
    settings = {
        "encoder": clip.name,
        "query_embedding": not options.no_query_embedding,
        "neighbours": count,
        "database_images": None if store is None else len(store.files),
        "search": None if store is None else "exact" if index is None else index.description,
    }
    generate(session, make, records, columns=options.per_query, settings=settings)
    if session.processes.first:
        files = [session.out / result_file(number) for number in numbers]
        draw(session, found[:MOST_ROWS], files, None if store is None else Path(store.root))
    end_without(session, asked, good)


def _look(query: str | Path) -> None:
    if isinstance(query, Path):
        read_image(query)


def result_file(number: int) -> str:
    """Where an image goes below OUT."""
    return f"images/{number:05d}.png"


def neighbours_of(
    options: argparse.Namespace, conditioner: Embeddings, store: EmbeddingStore | None
) -> int:
    """How many neighbours are looked for; refuses more than model or database have."""
    if store is None:
        return 0
    own = 0 if options.no_query_embedding else 1
    most, reason = len(store.files), f"{options.database} has {len(store.files)} images"
    limit = conditioner.max_tokens
    if limit is not None and limit - own < most:
        most = limit - own
        reason = f"the model takes {limit} embeddings" + (", one is that of the query" * own)
    count: int | None = options.neighbours
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


def draw(
    session: SamplingSession, found: Sequence[Found], files: Sequence[Path], root: Path | None
) -> None:
    """Write neighbours.png."""
    per_query = session.options.per_query
    rows = []
    for k, entry in enumerate(found):
        text = isinstance(entry.query, str)
        cells = [Cell(text=str(entry.query)) if text else Cell(Path(entry.query), str(entry.query))]
        for file, cosine in zip(entry.files, entry.similarities, strict=True):
            picture = None if root is None or not (root / file).is_file() else root / file
            cells.append(Cell(picture, f"{cosine:.3f} {file}"))
        images = files[k * per_query : (k + 1) * per_query]
        cells += [Cell(image, "image") for image in images]
        rows.append(Row("", cells))
    save_rows(rows, session.out / "neighbours.png")
    say(f"queries, neighbours and images: {session.out / 'neighbours.png'}")
