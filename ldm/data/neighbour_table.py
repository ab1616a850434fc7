"""The neighbours of many images at once, and the file that keeps them."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.atomic_write import write_atomically
from ldm.data.neighbours import Search
from ldm.errors import DataError

QUERIES = 1024
"""So many are searched at once."""

_log = logging.getLogger(__name__)


def look_up(
    search: Search,
    queries: Tensor,
    count: int,
    own: Tensor,
    allowed: Tensor,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Tensor:
    """Rows (Q, count), int64, of the nearest vectors that may be neighbours, the nearest first.

    Args:
        search: over N vectors.
        queries: embeddings (Q, D).
        count: neighbours of each.
        own: (Q,) the row that is the query itself and is no neighbour of it; -1: none.
        allowed: (N,) bool, which rows may be neighbours.
        progress: wraps the iteration over batches like tqdm.

    Raises:
        DataError: there are not so many.
    """
    at_most = int(allowed.sum()) - int(bool((own >= 0).any()))
    if not 1 <= count <= at_most:
        raise DataError(f"cannot find {count} neighbours of an image among {at_most} others")
    share = float(allowed.float().mean())
    asked = min(int((count + 1) / share) + 1, len(allowed))
    found = []
    for start in progress(range(0, len(queries), QUERIES)):
        part = slice(start, start + QUERIES)
        found.append(_nearest_allowed(search, queries[part], own[part], count, allowed, asked))
    return torch.cat(found)


def _nearest_allowed(
    search: Search, queries: Tensor, own: Tensor, count: int, allowed: Tensor, asked: int
) -> Tensor:
    """Ask for more until there are enough that may be neighbours."""
    while True:
        rows = search(queries, asked).indices
        good = allowed[rows] & (rows != own[:, None])
        if asked == len(allowed) or bool((good.sum(dim=1) >= count).all()):
            order = (~good).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
            return rows.gather(1, order)
        asked = min(2 * asked, len(allowed))


def kept(path: Path, about: Mapping[str, Any], make: Callable[[], Tensor]) -> Tensor:
    """The table of a file; made, and written there, if the file is missing or of something else.

    Several processes may do so at once. Where nothing can be written, a warning says so.

    Args:
        path: the file.
        about: what the table depends on, as values of JSON.
        make: makes it, (Q, k) int64.
    """
    from safetensors.torch import save

    found = _read(path, about)
    if found is not None:
        return found
    table = make()
    packed = torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8)
    content = save({"rows": table.to(torch.int32), "about": packed})
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write_atomically(unfinished, lambda file: file.write(content))
        unfinished.replace(path)
    except OSError as error:
        _log.warning("the neighbours are not kept for the next time: %s", error)
    return table


def _read(path: Path, about: Mapping[str, Any]) -> Tensor | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        if json.loads(bytes(tensors["about"].numpy()).decode()) == about:
            return tensors["rows"].long()
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        _log.warning("%s is damaged and is made anew (%s)", path, error)
    return None
