"""pyproject.toml, environment.yaml and the constraints file must agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def _project() -> dict[str, object]:
    tomllib = pytest.importorskip("tomllib")  # Python >= 3.11
    with (ROOT / "pyproject.toml").open("rb") as file:
        project: dict[str, object] = tomllib.load(file)["project"]
    return project


def test_conda_environment_lists_the_same_ranges() -> None:
    environment = yaml.safe_load((ROOT / "environment.yaml").read_text())
    pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    listed = [line for line in pip if not line.startswith("-")]
    assert listed == _project()["dependencies"]
    assert "-e ." in pip
    assert f"python{_project()['requires-python']}" in environment["dependencies"]


def test_constraints_pin_every_dependency_inside_its_range() -> None:
    pins = {}
    for line in (ROOT / "scripts" / "constraints.txt").read_text().splitlines():
        if match := re.match(r"([\w.-]+)==([\w.]+)", line):
            pins[canonicalize_name(match[1])] = match[2]
    project = _project()
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]  # type: ignore[index,misc]
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{requirement.name} is not pinned"
        assert pins[name] in requirement.specifier, f"{requirement} excludes {pins[name]}"
