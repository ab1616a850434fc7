"""Embed the images of a folder with CLIP, for retrieval, and index them."""

from __future__ import annotations

import argparse

import torch

from ldm.cli.app import say
from ldm.cli.retrieval import Clip, beside, embed
from ldm.data.retrieval.embeddings import EmbeddingStore
from ldm.data.retrieval.search import FaissSearch, exact_index, ivf_index, recall, save_index
from ldm.distributed import own_device

SHOWN = 10
"""Neighbours whose recall is measured."""


def run(arguments: argparse.Namespace) -> None:
    """Embed, then index what was embedded."""
    arguments.device = own_device(arguments.device)
    clip = Clip(arguments.clip, arguments.clip_weights, torch.device(arguments.device))
    file = arguments.embeddings or beside(arguments.folder, clip)
    store = embed(arguments.folder, file, clip, arguments.threads)
    if arguments.index is None:
        return
    out = arguments.out or file.with_suffix(f".{arguments.index}")
    search = _index(store, arguments)
    save_index(search, store, out)
    say(f"index ({search.description}) kept in {out}")


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
