"""--sampler and the options that go with it."""

from __future__ import annotations

import argparse
import importlib
from dataclasses import asdict, dataclass, field
from typing import Any

from ldm.diffusion.sampling import Sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError, UserError
from ldm.samplers.time_grid import SPACINGS

DEFAULT_STEPS = 50


@dataclass(frozen=True)
class Choice:
    """A value of --sampler.

    Attributes:
        module: of ``ldm.samplers``.
        name: its class.
        options: the options of the command line that it takes.
        fixed: its other arguments.
    """

    module: str
    name: str
    options: tuple[str, ...] = ("steps", "spacing")
    fixed: dict[str, Any] = field(default_factory=dict)


CHOICES = {
    "ddim": Choice("ddim", "DDIM", ("steps", "eta", "spacing")),
    "ddpm": Choice("ddpm", "DDPM", ()),
    "plms": Choice("plms", "PLMS"),
    "dpm++": Choice("dpm_solver", "DPMSolver"),
    "dpm++sde": Choice("dpm_solver", "DPMSolver", fixed={"stochastic": True}),
    "unipc": Choice("unipc", "UniPC"),
    "euler": Choice("euler", "Euler"),
    "heun": Choice("heun", "Heun"),
}


def add_sampler_options(parser: argparse.ArgumentParser) -> None:
    """The options that ``choose_sampler`` reads."""
    parser.add_argument(
        "--sampler",
        choices=list(CHOICES),
        default="ddim",
        help="ddim (default), ddpm: every time step, plms, dpm++: DPM-Solver++ 2M, dpm++sde: with "
        "noise, unipc, euler, heun: two evaluations a step",
    )
    parser.add_argument(
        "--steps", type=int, help=f"1 to T updates of the sampler (default: {DEFAULT_STEPS})"
    )
    parser.add_argument(
        "--eta", type=float, help="noise of ddim: 0 (default) is deterministic, 1 that of ddpm"
    )
    parser.add_argument(
        "--spacing",
        choices=list(SPACINGS),
        help="which time steps (default: those that suit the sampler best)",
    )


def check_sampler_options(arguments: argparse.Namespace) -> None:
    """Refuse options that the sampler does not have.

    Raises:
        UserError: it names the samplers that have it.
    """
    for name, value in _given(arguments).items():
        if name not in CHOICES[arguments.sampler].options:
            takers = ", ".join(key for key, other in CHOICES.items() if name in other.options)
            raise UserError(
                f"--{name} {value} has no effect with --sampler {arguments.sampler}: leave it out; "
                f"it goes with {takers}"
            )


def choose_sampler(arguments: argparse.Namespace, schedule: NoiseSchedule) -> Sampler:
    """The sampler of the command line.

    Raises:
        UserError: an option is out of range, also of the time steps that there are.
    """
    choice, given = CHOICES[arguments.sampler], _given(arguments)
    if "steps" in choice.options:
        given.setdefault("steps", min(DEFAULT_STEPS, schedule.timesteps))
    build = getattr(importlib.import_module(f"ldm.samplers.{choice.module}"), choice.name)
    try:
        sampler: Sampler = build(**given, **choice.fixed)
        sampler.times(schedule)
    except ConfigError as error:
        options = " ".join(f"--{name} {value}" for name, value in given.items())
        raise UserError(f"--sampler {arguments.sampler} {options}: {error}") from error
    return sampler


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    values = {name: getattr(arguments, name) for name in ("steps", "eta", "spacing")}
    return {name: value for name, value in values.items() if value is not None}


def sampler_settings(arguments: argparse.Namespace, sampler: Any) -> dict[str, Any]:
    """Name, class and all options of a sampler, also those left at their defaults."""
    kind = type(sampler)
    about = {"name": arguments.sampler, "class": f"{kind.__module__}.{kind.__qualname__}"}
    return about | asdict(sampler)
