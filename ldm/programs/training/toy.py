"""The laptop toy: diffusion of points in the plane, trained and filmed in two minutes on a CPU."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor

from ldm.cli.app import say
from ldm.cli.samplers import choose_sampler
from ldm.config import instantiate
from ldm.data.scenes.points import PointCloud, pixel_centres, silhouette
from ldm.diffusion.sampling import NoiseSource, Step
from ldm.diffusion.trajectory import evenly_spaced, noised
from ldm.distributed import own_device
from ldm.evaluation.metrics.points import fit
from ldm.files import write_atomically
from ldm.load.model import load_model
from ldm.samplers.noise import SeededNoise
from ldm.training.run import open_run
from ldm.training.run_folder import RunFolder
from ldm.visualization.video import check_film, write_film

COLOURS = ("#1f4e9c", "#c8452d", "#2e7d4f", "#7b4ea3")
LIMIT = 1.4
PIXEL = 2 / 200
"""Side of a pixel of a silhouette in the plane."""
MOMENTS = 8
MOST_FRAMES = 100


def run(arguments: argparse.Namespace) -> None:
    """Train unless that is done, then sample, measure and draw."""
    arguments.device = own_device(arguments.device)
    torch.set_num_threads(1)  # so small a network gains little; on a busy CPU threads wait
    out, film, config = arguments.out, arguments.film, arguments.config
    check_film(film, arguments.fps)
    if arguments.image is not None:
        silhouette(arguments.image)  # a bad picture is said at once
    schedule = instantiate(config.model.params.schedule)
    choose_sampler(arguments, schedule)  # refuses it before training
    data = PointCloud(config.shapes, 2 * arguments.points, split="test")
    folder = RunFolder(out)
    open_run(folder, config, "resume", say)
    model: Any = load_model(out, device=arguments.device)
    states = _sample(model, data, arguments)
    for label, shape in enumerate(config.shapes):
        _report(shape, states[label][-1].x, data.of_shape(label))
    write_film(_frames(states, config), film, arguments.fps, hold=2.0)
    process = out / "process.png"
    _draw_process(model, data, states, process)
    say(f"film {film}   forward and reverse process {process}   model {out}")


@torch.no_grad()
def _sample(model: Any, data: PointCloud, arguments: argparse.Namespace) -> list[list[Step]]:
    """The updates of sampling, for every shape; the first of them is the noise."""
    sampler = choose_sampler(arguments, model.schedule)
    found = []
    for label in range(data.num_shapes):
        # one seed for the whole cloud: its points are independent draws
        noise = SeededNoise([arguments.seed + label])
        start = noise(torch.empty(1, arguments.points, 2))[0].to(arguments.device)
        batch = {}
        if model.conditioners:
            ids = torch.full((arguments.points,), label, device=arguments.device)
            batch = {model.conditioners[0].key: ids}
        denoise = model.conditional_denoise(batch, arguments.guidance)
        steps = sampler(denoise, start, model.schedule, _of_one_cloud(noise))
        states = [Step(-1, model.schedule.timesteps, start, start), *steps]
        found.append([Step(s.index, s.t, model.decode(s.x).cpu(), s.x0) for s in states])
    return found


def _of_one_cloud(noise: SeededNoise) -> NoiseSource:
    return lambda x: noise(x[None])[0]


def _report(shape: str, points: Tensor, real: Tensor) -> None:
    centres = pixel_centres(silhouette(shape))
    nearby = 3 * PIXEL
    made = fit(centres, points.numpy(), 2 * PIXEL, nearby)
    ideal = fit(centres, real[: len(points)].numpy(), 2 * PIXEL, nearby)
    say(
        f"{Path(shape).stem}: {made.inside:.1%} of the points lie within 2 pixels of the shape; "
        f"{made.covered:.1%} of the shape has a point within 3 (real points: {ideal.covered:.1%}); "
        f"chamfer distance {made.chamfer:.4f} (real {ideal.chamfer:.4f})"
    )


def _frames(states: list[list[Step]], config: DictConfig) -> Iterator[np.ndarray]:
    shown = evenly_spaced(MOST_FRAMES, len(states[0]))
    for moments in zip(*([steps[k] for k in shown] for steps in states), strict=True):
        figure = Figure(figsize=(3.2 * len(states), 3.4), dpi=80, layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(states)))
        for label, (panel, step) in enumerate(zip(panels, moments, strict=True)):
            title = f"{Path(config.shapes[label]).stem}, update {step.index + 1}"
            _scatter(panel, step.x, COLOURS[label % len(COLOURS)], title)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_process(model: Any, data: PointCloud, states: list[list[Step]], out: Path) -> None:
    """Rows: q(x_t | x_0) of the data at some times, then the states of sampling."""
    count = len(states[0][0].x)
    times = [t * (model.schedule.timesteps - 1) // (MOMENTS - 1) for t in range(MOMENTS)]
    rows = 2 * len(states)
    figure = Figure(figsize=(1.7 * MOMENTS, 1.9 * rows), dpi=80, layout="constrained")
    panels = figure.subplots(rows, MOMENTS)
    for label, moments in enumerate(states):
        colour = COLOURS[label % len(COLOURS)]
        clean = model.encode(data.of_shape(label)[:count].to(model.scale_factor.device))
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(label))
        forward = noised(clean, noise.to(clean), times, model.schedule)
        for column, (t, x) in enumerate(zip(times, forward, strict=True)):
            _scatter(panels[2 * label, column], model.decode(x).cpu(), colour, f"q(x_t), t = {t}")
        for column, index in enumerate(evenly_spaced(MOMENTS, len(moments))):
            step = moments[index]
            panel = panels[2 * label + 1, column]
            _scatter(panel, step.x, colour, f"sampling, update {step.index + 1}")
    write_atomically(out, lambda file: figure.savefig(file, format="png"))


def _scatter(panel: Any, points: Tensor, colour: str, title: str) -> None:
    panel.scatter(points[:, 0], points[:, 1], s=1.2, color=colour, linewidths=0)
    panel.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), xticks=[], yticks=[], aspect="equal")
    panel.set_title(title, fontsize=8)
