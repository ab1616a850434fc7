"""Draw the forward and the reverse process of a diffusion model as one picture."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from ldm.cli.app import say
from ldm.cli.conditions import warn_of_cuts
from ldm.cli.sampling import Job
from ldm.conditioners.class_label import ClassLabel
from ldm.config import instantiate
from ldm.data.framing import Framing, to_tensor
from ldm.data.image_io import read_image
from ldm.diffusion.trajectory import Moment, evenly_spaced, log_snr, noised, trace
from ldm.errors import UserError
from ldm.files import write_atomically
from ldm.samplers.noise import SeededNoise
from ldm.visualization.figure import Cell, Row, save_rows
from ldm.visualization.images import as_rgb

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def run(arguments: argparse.Namespace) -> None:
    """Sample, keep the states on the way, and draw them."""
    for name in ("rows", "columns"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} {getattr(arguments, name)}: must be at least 1")
    job = Job.load(arguments)
    seeds = [arguments.seed + k for k in range(arguments.rows)]
    item = Item(job)
    batch = conditions(job, item)
    size = job.size()
    with torch.no_grad():
        moments, samples = reverse(job, batch, seeds, size)
        image, what = start_image(job, item, samples, size)
        times = [moment.t for moment in moments]
        states = forward(job, image, times)
        rows = [Row(f"q(x_t | x_0) of {what}", cells(job, [*states, image]))]
        for k, seed in enumerate(seeds):
            path = [*(moment.x[k] for moment in moments), samples[k]]
            guesses = [*(moment.x0[k] for moment in moments), samples[k]]
            rows += [
                Row(f"x_t of the sample with seed {seed}", cells(job, path)),
                Row("estimate of x_0 from x_t", cells(job, guesses)),
            ]
    ratios = log_snr(times, job.model.schedule)
    heads = [f"t = {t}\nlog SNR {ratio:+.1f}" for t, ratio in zip(times, ratios, strict=True)]
    save_rows(rows, job.out / "process.png", [*heads, "end"])
    about = job.settings() | {
        "image": what,
        "prompt": arguments.prompt,
        "label": arguments.label,
        "times": times,
        "log_snr": ratios,
        "seeds": seeds,
    }
    text = json.dumps(about, indent=1) + "\n"
    write_atomically(job.out / "process.json", lambda file: file.write(text.encode()))
    say(f"forward and reverse process: {job.out / 'process.png'}")


class Item:
    """The first validation item of a run, read when it is first needed.

    Args:
        job: the model, whose config names the data.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._item: dict[str, Any] | None = None
        self.problem = ""

    def get(self, key: str) -> Tensor | None:
        """An entry as a batch of one (1, ...); None, and ``problem`` says why, without it."""
        if self._item is None:
            self._item = self._read()
        value = self._item.get(key)
        if value is None:
            self.problem = self.problem or f"its validation items hold no {key!r}"
            return None
        batched: Tensor = default_collate([value])
        return batched

    def _read(self) -> dict[str, Any]:
        try:
            node = self._job.config.data.params.validation
            return dict(instantiate(node, "data.params.validation")[0])
        except Exception as error:  # the data may be anywhere, or nowhere
            self.problem = f"its validation data cannot be read ({error})"
            return {}


def conditions(job: Job, item: Item) -> dict[str, Tensor]:
    """What every conditioner reads, as a batch of one sample."""
    arguments, batch, used = job.arguments, {}, set()
    for conditioner in job.model.conditioners:
        if arguments.prompt is not None and getattr(conditioner, "tokenizer", None) is not None:
            warn_of_cuts(job, conditioner.tokenizer, [arguments.prompt])
            batch[conditioner.key] = conditioner.tokenizer([arguments.prompt])
            used.add("prompt")
        elif arguments.label is not None and isinstance(conditioner, ClassLabel):
            batch[conditioner.key] = torch.tensor([arguments.label])
            used.add("label")
        else:
            value = item.get(conditioner.key)
            if value is None:
                raise UserError(
                    f"{arguments.source} needs {conditioner.key!r}, but {item.problem}: give "
                    "--prompt or --label if it is a text or class, or name its data in the config"
                )
            batch[conditioner.key] = value
        conditioner.check(batch[conditioner.key])
    for option in ("prompt", "label"):
        if getattr(arguments, option) is not None and option not in used:
            raise UserError(f"--{option}: {arguments.source} is not conditioned on it")
    return batch


def reverse(
    job: Job, batch: dict[str, Tensor], seeds: Sequence[int], size: tuple[int, int]
) -> tuple[list[Moment], Tensor]:
    """States on the way and the last ones, of one sample a seed."""
    model, scale = job.model, job.arguments.guidance
    repeated = {key: value.repeat_interleave(len(seeds), 0) for key, value in batch.items()}
    noise = SeededNoise(seeds)
    x = noise(torch.empty(model.latent_shape(len(seeds), size), device=job.device))
    denoise = model.conditional_denoise(job.to_device(repeated), scale)
    chosen = evenly_spaced(job.arguments.columns, len(job.sampler.times(model.schedule)))
    return trace(job.sampler, denoise, x, model.schedule, noise, chosen)


def start_image(job: Job, item: Item, samples: Tensor, size: tuple[int, int]) -> tuple[Tensor, str]:
    """The latent (C, h, w) of the image that is to disappear, and what image it is."""
    file = job.arguments.image
    if file is not None:
        channels = getattr(job.model.autoencoder, "image_channels", 3)
        framed = Framing(*size)(read_image(file, mode=MODES.get(channels, "RGB"))[0], lambda: 0.0)
        image, what = to_tensor(framed)[None], str(file)
    else:
        found = item.get("image")
        if found is None or found.shape[2:] != size:
            return samples[0], f"the sample with seed {job.arguments.seed}"
        image, what = found, "the first validation image"
    generator = torch.Generator(job.device).manual_seed(job.arguments.seed)
    return job.model.encode(image.to(job.device), generator)[0], what


def forward(job: Job, image: Tensor, times: Sequence[int]) -> list[Tensor]:
    """States (C, h, w) of the forward process of a latent at the given times."""
    noise = SeededNoise([job.arguments.seed])(image[None])
    return list(noised(image[None], noise, times, job.model.schedule)[:, 0])


def cells(job: Job, latents: Sequence[Tensor]) -> list[Cell]:
    """Decoded latents (C, h, w)."""
    parts = torch.stack(list(latents)).split(job.arguments.batch_size)
    images = torch.cat([job.model.decode(part).float().cpu() for part in parts])
    return [Cell(image) for image in as_rgb(images)]
