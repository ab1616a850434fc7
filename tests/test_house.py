"""Rules of the house (docs/architecture.md) that no linter knows."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ldm.compat.compvis.config import is_published
from ldm.compat.moved import MOVED, current_name, with_current_names

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "autoencoders",
    "conditioners",
    "data",
    "denoisers",
    "diffusion",
    "evaluation",
    "load",
    "losses",
    "samplers",
    "training",
    "visualization",
)
"""Those with public names."""
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MOST_MODULES, MOST_LINES = 12, 450
PATHS = re.compile(
    r"\b(?:(?:ldm|scripts|benchmarks|tests)/[\w/]+\.(?:py|sh)|docs/[\w/-]+\.md|configs/[\w/.-]+\.yaml)\b"
)
DOTTED = re.compile(r"\bldm(?:\.[A-Za-z_][A-Za-z_0-9]*)+")


def modules(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def found(name: str) -> Any:
    """What a dotted name means; None if it means nothing."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            place: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            place = getattr(place, part, None)
        return place
    return None


def test_a_folder_holds_at_most_a_dozen_modules() -> None:
    folders = {file.parent for file in modules("ldm", "benchmarks")} - {ROOT / "benchmarks"}
    for folder in folders:
        names = [file.name for file in folder.glob("*.py") if not file.name.startswith("__")]
        assert len(names) <= MOST_MODULES, f"{folder.relative_to(ROOT)}: {len(names)} modules"


def test_a_module_can_be_read_in_one_go() -> None:
    for file in modules("ldm", "scripts"):
        lines = len(file.read_text().splitlines())
        assert lines <= MOST_LINES, f"{file.relative_to(ROOT)}: {lines} lines"


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_can_be_imported_and_are_documented(package: str) -> None:
    module = importlib.import_module(f"ldm.{package}")
    folder = ROOT / "ldm" / package
    inside = {path.stem for path in folder.iterdir()}
    assert module.__all__
    for name in module.__all__:
        public = getattr(module, name)
        assert f"``{name}``: " in (module.__doc__ or ""), f"{name}: no line in the docstring"
        assert callable(public), name
        assert public.__doc__, f"{name}: no docstring"
        assert name not in inside, f"{name} is a module of ldm.{package} too"
    listed = re.findall(r"^- ``(\w+)``", module.__doc__ or "", flags=re.M)
    assert sorted(listed) == sorted(module.__all__)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: str(file.relative_to(ROOT / "configs")))
def test_a_yaml_file_names_public_things_only(file: Path) -> None:
    for name in DOTTED.findall(file.read_text()):
        if is_published(name):
            continue  # of the original code
        assert name.count(".") == 2, f"{name}: not the name of a package's"
        package, _, last = name.rpartition(".")
        assert last in importlib.import_module(package).__all__, name


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_documents_name_what_there_is(file: Path) -> None:
    text = file.read_text()
    for name in DOTTED.findall(text):
        assert is_published(f"{name}.") or found(name) is not None, name
    paths = [] if file.name == "published.md" else PATHS.findall(text)  # that of the original code
    for path in paths:
        assert (ROOT / path).exists() or re.search("[A-Z]{4}", path), path  # scripts/SCRIPT.py


def test_old_names_are_names_of_today() -> None:
    for old, name in MOVED.items():
        package, _, last = name.rpartition(".")
        public = getattr(importlib.import_module(package), "__all__", None)
        assert callable(found(name)), old
        assert public is None or last in public, old
    assert current_name("ldm.data.cuts.framing") == "ldm.data.make_framing"
    assert current_name("mine.Thing") == "mine.Thing"
    assert current_name(None) is None
    tree = yaml.safe_load(
        "{target: ldm.data.folder.ImageFolder, params: {x: [{target: ldm.data.shards.Shards}]}}"
    )
    assert with_current_names(tree) == {
        "target": "ldm.data.ImageFolder",
        "params": {"x": [{"target": "ldm.data.Shards"}]},
    }
