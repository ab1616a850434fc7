"""What the sampling scripts share: options, seeds, PNG files, the grid and samples.json."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _cli import check_device, say
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, read_image
from torchvision.utils import make_grid
from tqdm import tqdm

from ldm.diffusion.latent import LatentDiffusion
from ldm.errors import UserError
from ldm.load import file_sha256, load_model, run_checkpoint, run_config
from ldm.samplers.ddim import DDIM
from ldm.samplers.ddpm import DDPM
from ldm.samplers.noise import SeededNoise

Batch = dict[str, Any]

MOST_IN_GRID = 128


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all sampling scripts have."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("run", help="run folder of a latent diffusion model, e.g. runs/mine")
    result.add_argument("--checkpoint", default="last", help="last (default), best, or a file")
    result.add_argument("--out", type=Path, help="folder to write (default: RUN/generated)")
    result.add_argument("--sampler", choices=["ddim", "ddpm"], default="ddim")
    result.add_argument("--steps", type=int, default=50, help="DDIM steps (default: 50)")
    result.add_argument("--eta", type=float, default=0.0, help="DDIM noise, 0 (default) to 1")
    result.add_argument(
        "--guidance", type=float, default=1.0, help="classifier-free guidance; 1 = off (default)"
    )
    result.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="image size")
    result.add_argument("--batch-size", type=int, default=64)
    result.add_argument(
        "--seed", type=int, default=0, help="image k uses seed + k, whatever the batch size"
    )
    result.add_argument("--no-ema", action="store_true", help="use the live weights")
    result.add_argument("--device", default=default_device(), help="cpu, cuda, cuda:1, mps")
    return result


def default_device() -> str:
    """The accelerator if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Job:
    """A model and how to sample from it, from the command line.

    Args:
        arguments: parsed options of ``parser``.
        config: config of the run.
        model: the model, ready to sample.
    """

    arguments: argparse.Namespace
    config: DictConfig
    model: LatentDiffusion

    @staticmethod
    def load(arguments: argparse.Namespace) -> Job:
        """Read the run; refuse what is no latent diffusion model."""
        if arguments.batch_size < 1:
            raise UserError(f"--batch-size {arguments.batch_size}: must be at least 1")
        check_device(arguments.device)
        config = run_config(arguments.run)
        model = load_model(
            arguments.run,
            checkpoint=arguments.checkpoint,
            ema=not arguments.no_ema,
            device=arguments.device,
        )
        if not isinstance(model, LatentDiffusion):
            raise UserError(
                f"{arguments.run} holds a {type(model).__name__}, not a latent diffusion model; "
                "name the run of stage 2"
            )
        return Job(arguments, config, model)

    @property
    def out(self) -> Path:
        """Folder to write."""
        return self.arguments.out or Path(self.arguments.run) / "generated"

    def settings(self) -> dict[str, Any]:
        """All that is needed to make the same images again."""
        options = self.arguments
        checkpoint = run_checkpoint(options.run, options.checkpoint)
        return {
            "run": str(options.run),
            "checkpoint": str(checkpoint),
            "checkpoint_sha256": file_sha256(checkpoint),
            "ema": not options.no_ema,
            "sampler": options.sampler,
            "steps": options.steps if options.sampler == "ddim" else self.model.schedule.timesteps,
            "eta": options.eta if options.sampler == "ddim" else None,
            "guidance": options.guidance,
            "size": list(self._size()),
            "seed": options.seed,
            "device": options.device,
            "torch": torch.__version__,
        }

    def _size(self) -> tuple[int, int]:
        if self.arguments.size:
            height, width = self.arguments.size
            return height, width
        side = self.config.get("image_size")
        if side is None:
            raise UserError(f"{self.arguments.run}: its config has no image_size; give --size H W")
        height, width = (side, side) if isinstance(side, int) else side
        return height, width

    def images(self, batch: Batch, seeds: Sequence[int]) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] for one batch of conditions."""
        options = self.arguments
        sampler = (
            DDIM(steps=options.steps, eta=options.eta) if options.sampler == "ddim" else DDPM()
        )
        values = {
            key: value.to(options.device) if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }
        images: Tensor = self.model.sample(
            values,
            size=self._size(),
            sampler=sampler,
            noise=SeededNoise(seeds),
            guidance_scale=options.guidance,
            count=len(seeds),
        )
        return images.clamp(-1, 1).float().cpu()


def generate(
    job: Job,
    count: int,
    conditions: Callable[[Sequence[int]], Batch],
    records: Sequence[dict[str, Any]],
    columns: int | None = None,
) -> None:
    """Write image k for every k < count, a grid of the first ones, and ``samples.json``.

    Files that are there already with the same settings are kept, so a killed call can be repeated.

    Args:
        job: model and settings.
        count: number of images.
        conditions: maps indices of images to their batch of conditions.
        records: for each image what ``samples.json`` says about it (prompt, label).
        columns: images per row of the grid.
    """
    folder = job.out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_mixture(job.out / "samples.json", job.settings(), records)
    entries = [
        {"file": f"images/{k:05d}.png", "seed": job.arguments.seed + k, **records[k]}
        for k in range(count)
    ]
    document = {"settings": job.settings(), "samples": entries}
    _replace_text(job.out / "samples.json", json.dumps(document, indent=1))
    missing = [k for k in range(count) if not (job.out / entries[k]["file"]).exists()]
    if len(missing) < count:
        say(f"{count - len(missing)} of {count} images are there already")
    step = job.arguments.batch_size
    with tqdm(total=len(missing), unit="image", desc="sampling", dynamic_ncols=True) as bar:
        for start in range(0, len(missing), step):
            indices = missing[start : start + step]
            pictures = job.images(conditions(indices), [entries[k]["seed"] for k in indices])
            for k, picture in zip(indices, pictures, strict=True):
                save_png(picture, job.out / entries[k]["file"])
            bar.update(len(indices))
    shown = min(count, MOST_IN_GRID)
    columns = columns or math.ceil(math.sqrt(shown))
    save_grid((job.out / entry["file"] for entry in entries[:shown]), columns, job.out / "grid.png")
    say(f"{count} images in {folder}   grid {job.out / 'grid.png'}")


def _refuse_mixture(path: Path, settings: dict[str, Any], records: Sequence[Any]) -> None:
    if not path.exists():
        return
    before = json.loads(path.read_text())
    same = before["settings"] == settings
    for entry, record in zip(before["samples"], records, strict=False):
        same = same and all(entry.get(key) == value for key, value in record.items())
    if not same:
        raise UserError(
            f"{path.parent} holds images made with other settings (see {path.name}); delete it or "
            "give another --out"
        )


def save_png(image: Tensor, path: Path) -> None:
    """Write an image (C, H, W) in [-1, 1], C = 1, 3 or 4, as PNG, complete or not at all."""
    _write_png(image.add(1).mul(127.5).round().to(torch.uint8), path)


def save_grid(files: Iterable[Path], columns: int, out: Path) -> None:
    """Lay PNG files out in rows of ``columns`` and write them as one picture."""
    _write_grid(
        torch.stack([read_image(str(file), ImageReadMode.RGB) for file in files]), columns, out
    )


def save_sheet(images: Tensor, columns: int, out: Path) -> None:
    """Lay images (B, 3, H, W) in [-1, 1] out in rows of ``columns``, as one picture."""
    _write_grid(images.add(1).mul(127.5).round().to(torch.uint8), columns, out)


def _write_grid(pictures: Tensor, columns: int, out: Path) -> None:
    scale = max(1, 64 // pictures.shape[-1])  # thumbnails of 32 pixels are hard to see
    pictures = pictures.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    _write_png(make_grid(pictures, nrow=columns, pad_value=255), out)


def _write_png(pixels: Tensor, path: Path) -> None:
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(array[:, :, 0] if len(pixels) == 1 else array)
    temporary = path.with_suffix(".tmp")
    picture.save(temporary, format="PNG")
    os.replace(temporary, path)


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n")
    os.replace(temporary, path)
