"""The sampler of the command line: built, checked against the schedule, and described."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from ldm import samplers
from ldm.cli.options.samplers import CHOICES, DEFAULT_STEPS, given_options
from ldm.diffusion.sampling import Sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError, UserError


def choose_sampler(options: argparse.Namespace, schedule: NoiseSchedule) -> Sampler:
    """The sampler of the command line.

    Raises:
        UserError: an option is out of range, also of the time steps that there are.
    """
    choice, given = CHOICES[options.sampler], given_options(options)
    if "steps" in choice.options:
        given.setdefault("steps", min(DEFAULT_STEPS, schedule.timesteps))
    build = getattr(samplers, choice.name)
    try:
        sampler: Sampler = build(**given, **choice.fixed)
        sampler.times(schedule)
    except ConfigError as error:
        wished = " ".join(f"--{name} {value}" for name, value in given.items())
        raise UserError(f"--sampler {options.sampler} {wished}: {error}") from error
    return sampler


def sampler_settings(options: argparse.Namespace, sampler: Any) -> dict[str, Any]:
    """Name, class and all options of a sampler, also those left at their defaults."""
    about = {"name": options.sampler, "class": f"ldm.samplers.{type(sampler).__name__}"}
    return about | asdict(sampler)
