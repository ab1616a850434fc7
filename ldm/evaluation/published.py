"""Recipes of published figures: ``configs/evaluation/published``, and their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ldm.config import load_config
from ldm.errors import UserError
from ldm.places import configs_folder

RECIPES = configs_folder() / "evaluation" / "published"


def recipe_names() -> list[str]:
    """All recipes."""
    names = [file.stem for file in RECIPES.glob("*.yaml")]
    return sorted(name for name in names if not name.startswith("_"))


def list_recipes() -> str:
    """A line for each."""
    names = recipe_names()
    width = max(map(len, names))
    rows = [f"{name:{width}}  {read_recipe(name, complete=False).row}" for name in names]
    return "\n".join(rows)


def read_recipe(name: str, overrides: Sequence[str] = (), complete: bool = True) -> DictConfig:
    """A file of ``configs/evaluation/published``.

    Raises:
        UserError: there is none of this name, or it has unknown keys or lacks some.
    """
    file = RECIPES / f"{name}.yaml"
    if name.startswith("_") or not file.is_file():
        raise UserError(f"{name}: no such recipe; there are {', '.join(recipe_names())}")
    recipe = load_config(file, overrides=overrides, complete=complete)
    known = load_config(RECIPES / "_recipe.yaml", complete=False)
    unknown = sorted(set(map(str, recipe)) - set(map(str, known)))
    if unknown:
        raise UserError(f"{file}: unknown key {unknown[0]}")
    return recipe


@dataclass(frozen=True)
class Figure:
    """A published number and what was measured.

    Attributes:
        name: of the number in a report.
        measured: None if it was not.
        expected: the published one.
        protocol: the preset by whose protocol that was measured.
    """

    name: str
    measured: float | None
    expected: float
    protocol: str


def figures(recipe: DictConfig, measurements: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """All published figures; those of the recipe's preset before those of others."""
    values = {entry["name"]: entry["value"] for entry in measurements}
    found: dict[str, Figure] = {}
    protocols = sorted(recipe.expected, key=lambda protocol: protocol != recipe.preset)
    for protocol in protocols:
        for name, expected in (recipe.expected[protocol] or {}).items():
            if expected is not None and name not in found:
                found[name] = Figure(name, values.get(name), float(expected), protocol)
    return list(found.values())


def deviations(recipe: DictConfig, published: DictConfig) -> list[str]:
    """What is not as it was published."""
    found = []
    for key, value in recipe.sampling.items():
        if OmegaConf.is_missing(published.sampling, str(key)):
            continue
        before = published.sampling.get(key)
        if value != before:
            found.append(f"{key}: {value} instead of {'the default' if before is None else before}")
    if recipe.preset not in recipe.expected:
        found.append(f"preset {recipe.preset}: no published figure was measured so")
    return found
