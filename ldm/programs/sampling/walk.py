"""A film that walks from one prompt, class, image or noise to the next."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.cli.app import say
from ldm.cli.commands.sampling.walk import Key
from ldm.cli.conditions import check_conditions, conditions
from ldm.cli.images import image_channels, on_cpu, read_picture
from ldm.cli.outputs import generate
from ldm.cli.sampling import SamplingSession
from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.sampling import run_sampler
from ldm.samplers.ddim import DDIM
from ldm.samplers.ddim_inversion import DDIMInversion
from ldm.samplers.interpolation import interpolate_conditions, slerp
from ldm.samplers.noise import SeededNoise
from ldm.visualization.video import check_film, write_film


def run(options: argparse.Namespace) -> None:
    """Plan the walk, make its frames and the film."""
    keys: list[Key] = options.keys
    check_film(options.film or Path("walk.gif"), options.fps)
    session = SamplingSession.load(options)
    film = options.film or session.out / "walk.gif"
    for key in keys:
        check_conditions(session, key.prompt, key.label)
    walk = Walk(session, keys)
    places = frame_places(len(keys), options.frames, options.loop)
    records = [
        {"seed": keys[0].seed, "from": keys[a].record, "to": keys[b].record, "weight": weight}
        for a, b, weight in places
    ]
    generate(session, walk.maker(places), records, settings={"fixed_noise": options.fixed_noise})
    if session.processes.first:
        files = [session.out / "images" / f"{k:05d}.png" for k in range(len(places))]
        frames = (_enlarged(file) for file in files)
        write_film(frames, film, options.fps, hold=0.0 if options.loop else 1.0)
        say(f"film of {len(files)} frames {film}")


def frame_places(keys: int, frames: int, loop: bool) -> list[tuple[int, int, float]]:
    """For every frame the key frames around it, and its share of the way between them."""
    ways = keys if loop else keys - 1
    places = [(way, (way + 1) % keys, k / frames) for way in range(ways) for k in range(frames)]
    return places if loop else [*places, (ways - 1, ways, 1.0)]


class Walk:
    """Makes frames between key frames.

    Args:
        session: model and settings.
        keys: the key frames.
    """

    def __init__(self, session: SamplingSession, keys: Sequence[Key]) -> None:
        self._job, self._keys = session, keys
        self._known: dict[int, tuple[Tensor, Conditioning, Conditioning]] = {}

    def maker(
        self, places: Sequence[tuple[int, int, float]]
    ) -> Callable[[Sequence[int], Sequence[int]], Tensor]:
        """What ``generate`` calls for batches of frames."""

        @torch.no_grad()
        def make(indices: Sequence[int], seeds: Sequence[int]) -> Tensor:
            frames = [self._between(*places[k]) for k in indices]
            start = torch.cat([noise for noise, _, _ in frames])
            cond = _joined([cond for _, cond, _ in frames])
            uncond = _joined([none for _, _, none in frames])
            model, guidance = self._job.model, self._job.guidance
            denoise = model.denoise(cond, uncond if model.conditioners else None, **guidance)
            noise = SeededNoise(seeds)  # equal for all: what a stochastic sampler adds stays put
            z = run_sampler(
                self._job.sampler,
                denoise,
                start,
                model.schedule,
                noise,
                progress=self._job.progress,
            )
            return on_cpu(model.decode(z))

        return make

    def _between(
        self, first: int, second: int, weight: float
    ) -> tuple[Tensor, Conditioning, Conditioning]:
        (a, cond_a, none), (b, cond_b, _) = self._key(first), self._key(second)
        return slerp(a, b, weight), interpolate_conditions(cond_a, cond_b, weight), none

    def _key(self, index: int) -> tuple[Tensor, Conditioning, Conditioning]:
        """Noise, condition and its absence of a key frame; worked out once."""
        if index not in self._known:
            key, model = self._keys[index], self._job.model
            batch = conditions(self._job, key.prompt, key.label, 1)
            cond = model.condition(batch)
            uncond = model.unconditional(batch) if model.conditioners else cond
            noise = self._noise(key) if key.image is None else self._inverted(key.image, cond)
            self._known[index] = noise, cond, uncond
        return self._known[index]

    def _noise(self, key: Key) -> Tensor:
        shape = self._job.model.latent_shape(1, self._job.size())
        return SeededNoise([key.seed])(torch.empty(shape)).to(self._job.device)

    def _inverted(self, file: Path, cond: Conditioning) -> Tensor:
        model, sampler = self._job.model, self._job.sampler
        assert isinstance(sampler, DDIM)
        picture = read_picture(file, image_channels(self._job), self._job.size())
        z = model.encode_mode(picture[None].to(self._job.device))
        inversion = DDIMInversion(sampler.steps, sampler.spacing)
        *_, last = inversion(model.denoise(cond), z, model.schedule)
        return last.x


def _joined(parts: Sequence[Conditioning]) -> Conditioning:
    """Conditions of single frames as those of a batch."""

    def join(values: list[Tensor | None]) -> Tensor | None:
        present = [value for value in values if value is not None]
        return torch.cat(present) if present else None

    return Conditioning(
        context=join([part.context for part in parts]),
        concat=join([part.concat for part in parts]),
        y=join([part.y for part in parts]),
    )


def _enlarged(file: Path) -> np.ndarray:
    """A frame; small ones with whole pixels repeated, to be seen."""
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    scale = max(1, 192 // picture.width)
    size = (picture.width * scale, picture.height * scale)
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST))
