"""Values of diffusers' ``config.json`` are values, whatever they look like."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from ldm.errors import UserError
from ldm.export import export
from ldm.load import load_model
from tests import stable_diffusion

HERE = "tests.load.test_foreign_json"
CALLED: list[str] = []
CALL: dict[str, Any] = {"target": f"{HERE}.mine", "params": {}}
VALUES: list[Any] = [
    CALL,
    [CALL],
    {"target": f"{HERE}.mine"},
    f"${{oc.create:{{target: {HERE}.mine}}}}",
    f"${{oc.decode:'{{target: {HERE}.mine}}'}}",
    "${oc.env:HOME}",
    "${model}",
    "${",
    [[]],
    None,
    -1,
    float("nan"),
    10**12,
]


def mine(**_: Any) -> None:
    """What must not be called."""
    CALLED.append("mine")


def places(tree: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values."""
    pairs: Any = {dict: lambda: tree.items(), list: lambda: enumerate(tree)}
    for key, value in pairs.get(type(tree), list)():
        yield (*place, key)
        yield from places(value, (*place, key))


def changed(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy with one other value."""
    result = node = copy.deepcopy(tree)
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return result


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion, very small, as diffusers keeps it."""
    out = tmp_path_factory.mktemp("sd") / "pipeline"
    config = OmegaConf.create({"model": stable_diffusion.MODEL})
    export(stable_diffusion.build(), config, out, "diffusers")
    return out


def load_with(pipeline: Path, file: Path, place: tuple[Any, ...], value: Any) -> None:
    """Load with one other value in a file, which stays as it was."""
    good = file.read_text()
    file.write_text(json.dumps(changed(json.loads(good), place, value)))
    try:
        with contextlib.suppress(UserError):
            load_model(file.parent if file.parent.name == "vae" else pipeline)
    finally:
        file.write_text(good)
    assert not CALLED, (place, value)


PARTS = ("text_encoder", "scheduler", "unet", "vae", "tokenizer")


@pytest.mark.parametrize(
    "most", [10, pytest.param(10_000, marks=pytest.mark.slow)], ids=["some", "all"]
)
@pytest.mark.parametrize("part", PARTS)
def test_values_of_a_pipeline_call_nothing(part: str, most: int, pipeline: Path) -> None:
    files = sorted((pipeline / part).glob("*config*.json"))
    cases = [(f, p, v) for f in files for p in places(json.loads(f.read_text())) for v in VALUES]
    for file, place, value in random.Random(0).sample(cases, min(most, len(cases))):
        load_with(pipeline, file, place, value)


@pytest.mark.parametrize("value", VALUES[:4], ids=str)
def test_sizes_of_a_text_encoder_are_no_nodes(value: Any, pipeline: Path) -> None:
    for key in ("hidden_act", "hidden_size", "layer_norm_eps"):
        load_with(pipeline, pipeline / "text_encoder" / "config.json", (key,), value)
