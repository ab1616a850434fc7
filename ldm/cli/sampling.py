"""What the programs of sampling share: a model, and how it makes images of conditions and seeds."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from ldm.autoencoders.tiled import TiledAutoencoder
from ldm.cli.model import load_latent_diffusion, locate_model, other_weights, subject
from ldm.cli.options.sampling import check_sampling_options, out_folder
from ldm.cli.samplers import choose_sampler, sampler_settings
from ldm.denoisers.tiled import TiledDenoiser
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.sampling import Denoise, Progress, Sampler
from ldm.distributed import Processes
from ldm.errors import UserError
from ldm.layers.tiling import Tiling
from ldm.load.model import Source
from ldm.samplers.noise import SeededNoise

Batch = Mapping[str, Any]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class SamplingSession:
    """A model and how to sample from it, as the command line says.

    Attributes:
        options: parsed options of ``sampling_parser``.
        source: where the model lies.
        config: that of the model.
        model: ready to sample.
        sampler: the sampler.
        processes: those that share the work.
    """

    options: argparse.Namespace
    source: Source
    config: DictConfig
    model: LatentDiffusion
    sampler: Sampler
    processes: Processes

    @staticmethod
    def load(options: argparse.Namespace) -> SamplingSession:
        """Read the model; refuse options that cannot be followed.

        Raises:
            UserError: one line that says which, and why.
        """
        check_sampling_options(options)
        source = locate_model(options)
        model, config = load_latent_diffusion(source, options)
        sampler = choose_sampler(options, model.schedule)
        session = SamplingSession(options, source, config, model, sampler, Processes.join())
        session._check_guidance()
        _use_precision(model, options)
        _use_tiles(model, options)
        return session

    @property
    def out(self) -> Path:
        """Folder to write."""
        return out_folder(self.options)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self.options.device)

    @property
    def progress(self) -> Progress | None:
        """Shows the steps of a batch to someone who watches."""
        if not (self.processes.first and sys.stderr.isatty()):
            return None
        return functools.partial(tqdm, desc="steps", leave=False, dynamic_ncols=True)

    def size(self) -> tuple[int, int]:
        """Height and width of the images: --size, else those of the config.

        Raises:
            UserError: nobody says, or the model has no images of this size.
        """
        given = getattr(self.options, "size", None)
        side = given or self.config.get("image_size")
        if side is None:
            source = self.options.source
            raise UserError(f"{source}: its config has no image_size; give --size H W")
        height, width = (side, side) if isinstance(side, int) else side
        self.model.latent_shape(1, (height, width))
        return height, width

    def images(
        self,
        batch: Batch,
        seeds: Sequence[int],
        size: tuple[int, int] | None = None,
        guidance: float | None = None,
        guide: Callable[[Denoise], Denoise] | None = None,
    ) -> Tensor:
        """Images for one batch of conditions.

        Args:
            batch: the entries that the conditioners read; may be empty.
            seeds: one a sample.
            size: height and width, if not ``size()``.
            guidance: scale of classifier-free guidance, if not --guidance.
            guide: see ``LatentDiffusion.sample``.

        Returns:
            (B, C, H, W) in [-1, 1], float32 on the CPU.
        """
        images = self.model.sample(
            self.to_device(batch),
            size=size or self.size(),
            sampler=self.sampler,
            noise=SeededNoise(seeds),
            **self.guidance | ({} if guidance is None else {"guidance_scale": guidance}),
            count=len(seeds),
            progress=self.progress,
            guide=guide,
        )
        return images.clamp(-1, 1).float().cpu()

    @property
    def guidance(self) -> dict[str, float]:
        """The arguments of ``LatentDiffusion.denoise`` about classifier-free guidance."""
        options = self.options
        scale, rescale = options.guidance, options.guidance_rescale
        return {"guidance_scale": scale, "guidance_rescale": rescale}

    def to_device(self, batch: Batch) -> dict[str, Any]:
        """The batch, where the model is."""
        return {
            key: value.to(self.device) if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }

    def warn(self, text: str) -> None:
        """Tell the user what may not be as meant."""
        if self.processes.first:
            print(f"warning: {' '.join(text.split())}", file=sys.stderr, flush=True)

    def settings(self) -> dict[str, Any]:
        """All that decides what the images are."""
        options = self.options
        return {
            **self._weights,
            "config": options.config,
            "sampler": sampler_settings(options, self.sampler),
            "guidance": options.guidance,
            **_if_not(0, guidance_rescale=options.guidance_rescale),
            "seed": options.seed,
            **({"size": list(self.size())} if hasattr(options, "size") else {}),
            "precision": options.precision,
            "tile": options.tile,
            "tile_overlap": options.tile_overlap,
            "decode_tile": options.decode_tile,
            **_if_not("round", bytes=options.bytes),
        }

    @functools.cached_property
    def _weights(self) -> dict[str, Any]:
        """Which weights are used; large files are read once for it."""
        weights = subject(self.source, self.options)
        return {
            "run": weights.pop("source"),
            **weights,
            "other_weights": other_weights(self.source),
        }

    def _check_guidance(self) -> None:
        scale, conditioners = self.options.guidance, list(self.model.conditioners)
        if scale == 1:
            return
        if not conditioners:
            raise UserError(
                f"--guidance {scale:g} has no effect: {self.options.source} has no conditions"
            )
        if not any(conditioner.drop_prob > 0 for conditioner in conditioners):
            self.warn(
                f"--guidance {scale:g}: the config of {self.options.source} does not drop "
                "conditions in training (drop_prob); unless the weights were trained so all the "
                "same, the images get worse"
            )


def _if_not(default: Any, **setting: Any) -> dict[str, Any]:
    """A setting that folders of earlier releases do not record, which had the default."""
    return {name: value for name, value in setting.items() if value != default}


def _use_precision(model: LatentDiffusion, options: argparse.Namespace) -> None:
    if options.precision == "fp32":
        return
    kind = torch.device(options.device).type
    cast = torch.autocast(kind, dtype=PRECISIONS[options.precision])
    setattr(model.denoiser, "forward", cast(model.denoiser.forward))  # noqa: B010


def _use_tiles(model: LatentDiffusion, options: argparse.Namespace) -> None:
    if options.tile is not None:
        model.denoiser = TiledDenoiser(model.denoiser, _tiling(options.tile, options))
    if options.decode_tile is not None:
        tiling = _tiling(options.decode_tile, options)
        model.autoencoder = TiledAutoencoder(model.autoencoder, tiling)


def _tiling(size: int, options: argparse.Namespace) -> Tiling:
    return Tiling(size, size // 2 if options.tile_overlap is None else options.tile_overlap)
