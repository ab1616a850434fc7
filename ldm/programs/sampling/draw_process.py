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
from ldm.cli.images import image_channels, read_picture
from ldm.cli.sampling import SamplingSession
from ldm.conditioners.class_label import ClassLabel
from ldm.config import instantiate
from ldm.diffusion.trajectory import Moment, evenly_spaced, log_snr, noised, trace
from ldm.errors import UserError
from ldm.files import write_text
from ldm.locks import sole_writer
from ldm.samplers.noise import SeededNoise
from ldm.visualization.figure import Cell, Row, save_rows
from ldm.visualization.images import as_rgb


def run(options: argparse.Namespace) -> None:
    """Sample, keep the states on the way, and draw them."""
    session = SamplingSession.load(options)
    seeds = [options.seed + k for k in range(options.rows)]
    item = Item(session)
    batch = conditions(session, item)
    size = session.size()
    with torch.no_grad():
        moments, samples = reverse(session, batch, seeds, size)
        image, what = start_image(session, item, samples, size)
        times = [moment.t for moment in moments]
        states = forward(session, image, times)
        rows = [Row(f"q(x_t | x_0) of {what}", cells(session, [*states, image]))]
        for k, seed in enumerate(seeds):
            path = [*(moment.x[k] for moment in moments), samples[k]]
            guesses = [*(moment.x0[k] for moment in moments), samples[k]]
            rows += [
                Row(f"x_t of the sample with seed {seed}", cells(session, path)),
                Row("estimate of x_0 from x_t", cells(session, guesses)),
            ]
    ratios = log_snr(times, session.model.schedule)
    heads = [f"t = {t}\nlog SNR {ratio:+.1f}" for t, ratio in zip(times, ratios, strict=True)]
    about = session.settings() | {
        "image": what,
        "prompt": options.prompt,
        "label": options.label,
        "times": times,
        "log_snr": ratios,
        "seeds": seeds,
    }
    with sole_writer(session.out, session.processes.first):  # picture and numbers of one call
        save_rows(rows, session.out / "process.png", [*heads, "end"])
        write_text(session.out / "process.json", json.dumps(about, indent=1) + "\n")
    say(f"forward and reverse process: {session.out / 'process.png'}")


class Item:
    """The first validation item of a run, read when it is first needed.

    Args:
        session: the model, whose config names the data.
    """

    def __init__(self, session: SamplingSession) -> None:
        self._job = session
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


def conditions(session: SamplingSession, item: Item) -> dict[str, Tensor]:
    """What every conditioner reads, as a batch of one sample."""
    options, batch, used = session.options, {}, set()
    for conditioner in session.model.conditioners:
        if options.prompt is not None and getattr(conditioner, "tokenizer", None) is not None:
            warn_of_cuts(session, conditioner.tokenizer, [options.prompt])
            batch[conditioner.key] = conditioner.tokenizer([options.prompt])
            used.add("prompt")
        elif options.label is not None and isinstance(conditioner, ClassLabel):
            batch[conditioner.key] = torch.tensor([options.label])
            used.add("label")
        else:
            value = item.get(conditioner.key)
            if value is None:
                raise UserError(
                    f"{options.source} needs {conditioner.key!r}, but {item.problem}: give "
                    "--prompt or --label if it is a text or class, or name its data in the config"
                )
            batch[conditioner.key] = value
        conditioner.check(batch[conditioner.key])
    for option in ("prompt", "label"):
        if getattr(options, option) is not None and option not in used:
            raise UserError(f"--{option}: {options.source} is not conditioned on it")
    return batch


def reverse(
    session: SamplingSession, batch: dict[str, Tensor], seeds: Sequence[int], size: tuple[int, int]
) -> tuple[list[Moment], Tensor]:
    """States on the way and the last ones, of one sample a seed."""
    model = session.model
    repeated = {key: value.repeat_interleave(len(seeds), 0) for key, value in batch.items()}
    noise = SeededNoise(seeds)
    x = noise(torch.empty(model.latent_shape(len(seeds), size), device=session.device))
    denoise = model.conditional_denoise(session.to_device(repeated), **session.guidance)
    chosen = evenly_spaced(session.options.columns, len(session.sampler.times(model.schedule)))
    return trace(session.sampler, denoise, x, model.schedule, noise, chosen)


def start_image(
    session: SamplingSession, item: Item, samples: Tensor, size: tuple[int, int]
) -> tuple[Tensor, str]:
    """The latent (C, h, w) of the image that is to disappear, and what image it is."""
    file = session.options.image
    if file is not None:
        image, what = read_picture(file, image_channels(session), size)[None], str(file)
    else:
        found = item.get("image")
        if found is None or found.shape[2:] != size:
            return samples[0], f"the sample with seed {session.options.seed}"
        image, what = found, "the first validation image"
    generator = torch.Generator(session.device).manual_seed(session.options.seed)
    return session.model.encode(image.to(session.device), generator)[0], what


def forward(session: SamplingSession, image: Tensor, times: Sequence[int]) -> list[Tensor]:
    """States (C, h, w) of the forward process of a latent at the given times."""
    noise = SeededNoise([session.options.seed])(image[None])
    return list(noised(image[None], noise, times, session.model.schedule)[:, 0])


def cells(session: SamplingSession, latents: Sequence[Tensor]) -> list[Cell]:
    """Decoded latents (C, h, w)."""
    parts = torch.stack(list(latents)).split(session.options.batch_size)
    images = torch.cat([session.model.decode(part).float().cpu() for part in parts])
    return [Cell(image) for image in as_rgb(images)]
