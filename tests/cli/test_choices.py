"""Choices that the command line spells out, so that parsing needs no PyTorch, are the library's."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

import ldm.samplers
from ldm import export
from ldm.checkpoint import SUFFIXES
from ldm.cli import protocol, sampling
from ldm.cli.commands.data import build_index
from ldm.cli.commands.training import cache_latents, convert
from ldm.cli.options import evaluation, images, model, samplers
from ldm.cli.options import sampling as sampling_options
from ldm.data.latents import manifest
from ldm.data.retrieval import search
from ldm.evaluation.networks import registry, resizing
from ldm.load.model import RUN
from ldm.programs.training import convert as convert_program
from ldm.samplers import timesteps

TABLES: dict[str, tuple[Iterable[str], Iterable[str]]] = {
    "--spacing": (samplers.SPACINGS, timesteps.SPACINGS),
    "--precision": (sampling_options.PRECISIONS, sampling.PRECISIONS),
    "--checkpoint": (model.IN_RUN, RUN),
    "endings of weights": (model.WEIGHTS, SUFFIXES),
    "--metrics": (evaluation.METRICS, protocol.MEASURES),
    "--features": (evaluation.NETWORKS, registry.NAMES),
    "--resize": (evaluation.RESIZERS, resizing.NAMES),
    "--index": (build_index.KINDS, search.KINDS),
    "--dtype of cache_latents": (cache_latents.DTYPES, manifest.DTYPES),
    "--dtype of convert": (convert.DTYPES, convert_program.DTYPES),
    "--to": (convert.FORMATS, export.FORMATS),
    "--part": (convert.PARTS, export.PARTS),
}


@pytest.mark.parametrize("option", TABLES)
def test_an_option_names_what_the_library_has(option: str) -> None:
    spelled, real = TABLES[option]
    assert sorted(spelled) == sorted(real)


def test_samplers_of_the_command_line() -> None:
    assert images.INVERSION_SPACING in timesteps.SPACINGS
    for choice in samplers.CHOICES.values():
        kind = getattr(ldm.samplers, choice.name)
        given = {"steps": 3, "eta": 0.5, "spacing": "uniform"}
        kind(**{name: given[name] for name in choice.options}, **choice.fixed)
    named = {choice.name for choice in samplers.CHOICES.values()}
    kinds = {name for name in ldm.samplers.__all__ if hasattr(getattr(ldm.samplers, name), "times")}
    assert named == kinds - {"DDIMInversion"}
