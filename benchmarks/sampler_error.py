r"""Error of every sampler against the exact probability flow, beside the schedulers of diffusers.

Data are a mixture of Gaussians, so that the denoiser and the flow are known exactly. Every method
starts from the same points at the noisiest time step and ends on clean data; the error is the root
mean square over points and coordinates. The schedulers of diffusers run on every grid they offer,
and the best one counts; ours run on the spacing that is named. (Their DDIM on "linspace" is left
out: it steps to noise levels other than those at which it then evaluates the denoiser.)

Example:
  python benchmarks/sampler_error.py                      five mixtures, without and with guidance
  python benchmarks/sampler_error.py --plot error.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from gaussian_mixture import Mixture
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from ldm.diffusion.sampling import Denoise, Sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.files import write_atomically
from ldm.samplers.ddim import DDIM
from ldm.samplers.dpm_solver import DPMSolver
from ldm.samplers.karras import Euler, Heun
from ldm.samplers.plms import EQUAL_STEPS, PLMS
from ldm.samplers.timesteps import SPACINGS, noise_levels
from ldm.samplers.unipc import UniPC

SCHEDULE = NoiseSchedule("linear", 1000, 0.0015, 0.0195)
EVALUATIONS = (5, 10, 20, 50, 100)
OURS: dict[str, Callable[[int, Any], Sampler]] = {
    "DDIM": lambda n, spacing: DDIM(n, spacing=spacing),
    "PLMS": lambda n, spacing: PLMS(n - 1, spacing),  # the first update takes two evaluations
    "DPM-Solver++ 2M": lambda n, spacing: DPMSolver(n, spacing=spacing),
    "UniPC-2": lambda n, spacing: UniPC(n, 2, spacing),
    "UniPC-3": lambda n, spacing: UniPC(n, 3, spacing),
    "Euler": lambda n, spacing: Euler(n, spacing),
    "Heun": lambda n, spacing: Heun((n + 1) // 2, spacing),
}
DEFAULTS = {
    "DDIM": "uniform",
    "PLMS": "uniform",
    "DPM-Solver++ 2M": "logsnr",
    "UniPC-2": "logsnr",
    "UniPC-3": "logsnr",
    "Heun": "karras",
}
GRIDS: list[dict[str, Any]] = [
    *({"timestep_spacing": name} for name in ("leading", "trailing", "linspace")),
    *({name: True} for name in ("use_karras_sigmas", "use_lu_lambdas")),
]


def main() -> None:
    """Measure, print the tables, draw the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mixtures", type=int, default=5, help="how many random mixtures")
    parser.add_argument("--points", type=int, default=128, help="starts in each")
    parser.add_argument("--plot", type=Path, help="PNG of error against evaluations")
    arguments = parser.parse_args()
    for scale in (None, 3.0):
        problems = [Problem(seed, arguments.points, scale) for seed in range(arguments.mixtures)]
        rows = dict(tqdm(_rows(problems), desc="samplers", leave=False))
        print(f"\n{'Without guidance' if scale is None else f'Guidance {scale:g}'}\n")
        print(_table(rows))
        if arguments.plot:
            suffix = "" if scale is None else "-guided"
            _plot(rows, arguments.plot.with_stem(arguments.plot.stem + suffix))


class Problem:
    """A mixture, starts, and where the exact flow takes them."""

    def __init__(self, seed: int, points: int, scale: float | None) -> None:
        mixture = Mixture.random(seed)
        generator = torch.Generator().manual_seed(seed)
        self.start = torch.randn(points, 2, dtype=torch.float64, generator=generator)
        self.denoise: Denoise = mixture.denoiser(SCHEDULE, scale)
        level = noise_levels(SCHEDULE, torch.tensor([SCHEDULE.timesteps - 1]))[0]
        self._exact = mixture.flow(self.start.numpy(), level, scale=scale)

    def square_error(self, sample: Tensor) -> float:
        """Mean square error of samples that came from ``start``."""
        return float(((sample.numpy() - self._exact) ** 2).mean())


def our_error(sampler: Sampler, problems: list[Problem]) -> float:
    """RMS error over all problems."""
    errors = []
    for problem in problems:
        *_, last = sampler(problem.denoise, problem.start, SCHEDULE, torch.zeros_like)
        errors.append(problem.square_error(last.x))
    return float(np.sqrt(np.mean(errors)))


def their_error(name: str, evaluations: int, problems: list[Problem]) -> float:
    """The least RMS error that the scheduler of that name reaches on any of its grids."""
    return min(
        np.sqrt(np.mean([_their_square_error(make, evaluations, p) for p in problems]))
        for make in _schedulers(name)
    )


def _schedulers(name: str) -> Iterator[Callable[[], Any]]:
    solver = {"trained_betas": SCHEDULE.betas.double().numpy()}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "DDIM": (diffusers.DDIMScheduler, {"clip_sample": False}),
        "PLMS": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
        "DPM-Solver++ 2M": (diffusers.DPMSolverMultistepScheduler, {}),
        "UniPC-2": (diffusers.UniPCMultistepScheduler, {"solver_order": 2}),
        "UniPC-3": (diffusers.UniPCMultistepScheduler, {"solver_order": 3}),
        "Euler": (diffusers.EulerDiscreteScheduler, {}),
        "Heun": (diffusers.HeunDiscreteScheduler, {}),
    }
    kind, options = kinds[name]
    accepted = kind.__init__.__wrapped__.__code__.co_varnames
    for grid in GRIDS:
        # their DDIM does not evaluate at the levels to which it steps on "linspace"
        inconsistent = name == "DDIM" and "linspace" in grid.values()
        if all(key in accepted for key in grid) and not inconsistent:
            yield lambda grid=grid: kind(**solver, **options, **grid)  # type: ignore[misc]


def _their_square_error(make: Callable[[], Any], evaluations: int, problem: Problem) -> float:
    scheduler = make()
    steps = evaluations
    if isinstance(scheduler, diffusers.HeunDiscreteScheduler):
        steps = (evaluations + 1) // 2
    if isinstance(scheduler, diffusers.PNDMScheduler):
        steps = evaluations - 1
    scheduler.set_timesteps(steps)
    x = problem.start * float(scheduler.init_noise_sigma)
    for t in scheduler.timesteps:
        state = scheduler.scale_model_input(x, t)
        time = min(round(float(t)), SCHEDULE.timesteps - 1)
        _, eps = problem.denoise(state, torch.full((len(x),), time))
        x = scheduler.step(eps, t, x).prev_sample
    return problem.square_error(x.double())


def _rows(problems: list[Problem]) -> Iterator[tuple[str, list[float]]]:
    for name, make in OURS.items():
        spacings = EQUAL_STEPS if name == "PLMS" else SPACINGS
        for spacing in spacings:
            errors = [our_error(make(n, spacing), problems) for n in EVALUATIONS]
            yield f"{name}, {spacing}", errors
        yield f"{name}, diffusers", [their_error(name, n, problems) for n in EVALUATIONS]


def _table(rows: dict[str, list[float]]) -> str:
    lines = ["| sampler | " + " | ".join(map(str, EVALUATIONS)) + " |"]
    lines.append("|---|" + "---|" * len(EVALUATIONS))
    for name, errors in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{error:.4f}" for error in errors) + " |")
    return "\n".join(lines)


def _plot(rows: dict[str, list[float]], out: Path) -> None:
    """Ours on their default spacings as lines, diffusers' best as crosses."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for k, (name, spacing) in enumerate(DEFAULTS.items()):
        errors = rows[f"{name}, {spacing}"]
        axes.loglog(EVALUATIONS, errors, ".-", color=f"C{k}", label=f"{name}, {spacing}")
        axes.loglog(EVALUATIONS, rows[f"{name}, diffusers"], "x", color=f"C{k}")
    axes.loglog([], [], "kx", label="diffusers, best of its grids")
    axes.set_xlabel("evaluations of the denoiser")
    axes.set_ylabel("RMS error against the exact flow")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    write_atomically(out, lambda stream: figure.savefig(stream, format="png", dpi=110))


if __name__ == "__main__":
    main()
