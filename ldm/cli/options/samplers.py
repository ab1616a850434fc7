"""--sampler and the options that go with it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

from ldm.errors import UserError

DEFAULT_STEPS = 50
SPACINGS = ("uniform", "strided", "leading", "quad", "trailing", "linspace", "karras", "logsnr")
"""Names of ``ldm.samplers.timesteps.SPACINGS``."""


@dataclass(frozen=True)
class Choice:
    """A value of --sampler.

    Attributes:
        name: a class of ``ldm.samplers``.
        options: the options of the command line that it takes.
        fixed: its other options.
    """

    name: str
    options: tuple[str, ...] = ("steps", "spacing")
    fixed: dict[str, Any] = field(default_factory=dict)


CHOICES = {
    "ddim": Choice("DDIM", ("steps", "eta", "spacing")),
    "ddpm": Choice("DDPM", ()),
    "plms": Choice("PLMS"),
    "dpm++": Choice("DPMSolver"),
    "dpm++sde": Choice("DPMSolver", fixed={"stochastic": True}),
    "unipc": Choice("UniPC"),
    "euler": Choice("Euler"),
    "heun": Choice("Heun"),
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
        choices=SPACINGS,
        help="which time steps (default: those that suit the sampler best)",
    )


def check_sampler_options(options: argparse.Namespace) -> None:
    """Refuse options that the sampler does not have, or of which no sampler makes sense.

    Raises:
        UserError: it names the option, and the samplers that have it.
    """
    for name, value in given_options(options).items():
        if name not in CHOICES[options.sampler].options:
            takers = ", ".join(key for key, other in CHOICES.items() if name in other.options)
            raise UserError(
                f"--{name} {value} has no effect with --sampler {options.sampler}: leave it out; "
                f"it goes with {takers}"
            )
    steps, eta = options.steps, options.eta
    if steps is not None and steps < 1:
        raise UserError(f"--steps {steps}: cannot take {steps} sampling steps: choose at least 1")
    if eta is not None and not 0 <= eta <= 1:
        raise UserError(f"--eta {eta:g}: eta must lie in [0, 1]")


def given_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of a sampler that the command line gives."""
    values = {name: getattr(options, name) for name in ("steps", "eta", "spacing")}
    return {name: value for name, value in values.items() if value is not None}
