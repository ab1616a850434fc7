"""Reproduce a published figure: sample and evaluate as the paper did, side by side."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ldm.checkpoint import SUFFIXES
from ldm.cli import app
from ldm.cli.app import say
from ldm.cli.options.common import check_out_folder
from ldm.cli.options.configs import is_override
from ldm.cli.options.samplers import check_sampler_options
from ldm.cli.protocol import choose_protocol, load_networks
from ldm.cli.sources import open_real
from ldm.distributed import Processes
from ldm.errors import UserError
from ldm.evaluation.protocol import EvaluationProtocol
from ldm.evaluation.published import Figure, deviations, figures, list_recipes, read_recipe
from ldm.files import read_json, write_text
from ldm.places import configs_folder

INPUTS = "inputs"
"""Of the sampling options the one without a name: files that the program is given."""


def run(arguments: argparse.Namespace) -> None:
    """Read the recipe, sample and evaluate as it says, and compare."""
    if arguments.name is None:
        say(list_recipes())
        return
    published = read_recipe(arguments.name, complete=False)
    recipe = read_recipe(arguments.name, changes(arguments, published))
    if arguments.checkpoint is None:
        raise UserError(
            f"give --checkpoint: the file or run folder of {recipe.row}; "
            + (f"the published weights are {recipe.weights}" if recipe.weights else "train it")
        )
    if arguments.real is None:
        raise UserError(f"give --real: {' '.join(recipe.reference.split())}")
    out = arguments.out or Path(f"reproduced-{arguments.name}")
    sampler = recipe.script.removesuffix(".py")
    to_sample = sampling_arguments(recipe, arguments, out)
    to_evaluate = evaluation_arguments(recipe, arguments, out)
    first = Processes.join().first
    if first:
        say(recipe.row)
        say(f"$ {_command(sampler, to_sample)}\n$ {_command('evaluate', to_evaluate)}")
    sampling, evaluation = app.parse(sampler, to_sample), app.parse("evaluate", to_evaluate)
    check_out_folder("--out", out)
    check_sampler_options(sampling)
    protocol = choose_protocol(evaluation)
    if arguments.dry_run:
        return
    rehearse(evaluation, protocol)
    app.run(sampler, sampling)
    app.run("evaluate", evaluation)
    if first:
        number = (int, float, type(None))
        shape = {"measurements": [{"name": str, "value": number}]}
        report = read_json(out / "metrics.json", shape=shape)
        differences = deviations(recipe, published) + _other_inputs(recipe, arguments)
        differences += report.get("departures", [])
        _write(recipe, figures(recipe, report["measurements"]), differences, out)


# -- options ----------------------------------------------------------------------------------


def changes(arguments: argparse.Namespace, published: DictConfig) -> list[str]:
    """The overrides of the recipe that the command line asks for."""
    wanted = list(arguments.changes)
    for item in wanted:
        if not is_override(item):
            raise UserError(f"{item}: expected KEY=VALUE, e.g. sampling.steps=20")
        key = item.lstrip("+").partition("=")[0]
        if key.partition(".")[0] not in ("sampling", "preset"):
            raise UserError(f"{item}: only preset and sampling.KEY of a recipe can be changed")
    if arguments.preset is not None:
        wanted.append(f"preset={arguments.preset}")
    if arguments.num is not None:
        if published.sampling.num_images is None:
            raise UserError(
                f"--num {arguments.num}: {arguments.name} makes one image for each of "
                "its inputs: give it fewer of these"
            )
        wanted.append(f"sampling.num_images={arguments.num}")
    return [_as_new(item, published) for item in wanted]


def _as_new(item: str, published: DictConfig) -> str:
    """Options that the recipe leaves at their defaults become new keys."""
    key = item.partition("=")[0]
    name = key.partition(".")[2]
    new = key.startswith("sampling.") and name not in published.sampling
    return f"+{item}" if new else item


def sampling_arguments(recipe: DictConfig, arguments: argparse.Namespace, out: Path) -> list[str]:
    """Options of the program that makes the images."""
    options: dict[str, Any] = dict(OmegaConf.to_container(recipe.sampling))  # type: ignore[arg-type]
    inputs = options.pop(INPUTS, None)
    files = inputs if isinstance(inputs, list) else [] if inputs is None else [inputs]
    found = [str(arguments.checkpoint), *map(str, files), *_config(recipe, arguments)]
    for key, value in options.items():
        if value is not None:
            found += [f"--{key.replace('_', '-')}", str(value)]
    return [*found, *_common(arguments), "--out", str(out)]


def _config(recipe: DictConfig, arguments: argparse.Namespace) -> list[str]:
    """Of a checkpoint file, which does not describe the model."""
    if arguments.config:
        return ["--config", *arguments.config]
    checkpoint = Path(arguments.checkpoint)
    if checkpoint.suffix not in SUFFIXES or checkpoint.is_dir():
        return []
    model, stage = (configs_folder() / f"{recipe[key]}.yaml" for key in ("config", "first_stage"))
    return ["--config", _shown(model), f"first_stage={_shown(stage)}"]


def evaluation_arguments(recipe: DictConfig, arguments: argparse.Namespace, out: Path) -> list[str]:
    """Options of the program that measures them."""
    found = [str(out), "--real", str(arguments.real), "--preset", recipe.preset]
    for option in ("features", "num_real", "cache"):
        if getattr(arguments, option) is not None:
            found += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    for item in arguments.weights:
        found += ["--weights", item]
    return [*found, *_common(arguments), "--out", str(out / "metrics.json")]


def _other_inputs(recipe: DictConfig, arguments: argparse.Namespace) -> list[str]:
    """Options beside the recipe that make other figures."""
    found = []
    if arguments.features is not None:
        found.append(f"features: {arguments.features} instead of those of the preset")
    if arguments.num_real is not None:
        found.append(f"real images: the first {arguments.num_real}")
    if arguments.config:
        found.append(f"config: {' '.join(arguments.config)} instead of {recipe.config}")
    return found


def rehearse(options: argparse.Namespace, protocol: EvaluationProtocol | None) -> None:
    """Open the real images and the feature networks, so that nothing is sampled in vain.

    Raises:
        UserError: they cannot be used.
    """
    assert protocol is not None
    if protocol.needs_real:
        open_real(options, protocol)
    load_networks(options, protocol)


def _shown(path: Path) -> str:
    return os.path.relpath(path)


def _write(recipe: DictConfig, found: Sequence[Figure], differences: list[str], out: Path) -> None:
    document = {
        "row": recipe.row,
        "recipe": OmegaConf.to_container(recipe),
        "figures": [asdict(figure) for figure in found],
        "deviations": differences,
    }
    write_text(out / "reproduction.json", json.dumps(document, indent=1) + "\n")
    say("")
    say(f"{'':16}{'measured':>10}{'published':>11}  by")
    for figure in found:
        measured = "-" if figure.measured is None else f"{figure.measured:.4g}"
        say(f"{figure.name:16}{measured:>10}{figure.expected:>11.4g}  {figure.protocol}")
    for text in differences:
        say(f"not as published: {text}")
    for remark in recipe.remarks:
        say(f"remark: {remark}")
    say(f"written: {out / 'reproduction.json'}")


def _common(arguments: argparse.Namespace) -> list[str]:
    device = [] if arguments.device is None else ["--device", arguments.device]
    trust = ["--trust"] if arguments.trust else []
    return ["--batch-size", str(arguments.batch_size), *trust, *device]


def _command(program: str, arguments: Sequence[str]) -> str:
    """What a user would type."""
    script = Path(sys.argv[0])
    by_script = script.name == "reproduce.py"
    start = ["python", str(script.with_name(f"{program}.py"))] if by_script else ["ldm", program]
    return shlex.join([*start, *arguments])
