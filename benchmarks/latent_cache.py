r"""How much faster a stage-2 model trains from cached latents than from its images.

Writes random photos, gives the first stage of a config random weights, calls
scripts/cache_latents.py, and then times, in turns, an optimiser step on the images and on each
cache: reading and collating the batch in this process, the loss, backward, AdamW. What is saved is
the reading of images and the encoder; the denoiser costs the same.

Examples:
  python benchmarks/latent_cache.py                         small enough for a processor
  python benchmarks/latent_cache.py --overrides --size 256 --batch 32 --device cuda \
      --photo 512                                           the sizes of the configs
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from ldm.config import instantiate, load_config, save_config
from ldm.data.latents.dataset import CachedLatents

ROOT = Path(__file__).parents[1]
STAGE = ROOT / "configs" / "folder" / "autoencoder.yaml"
CONFIG = ROOT / "configs" / "folder" / "unconditional.yaml"
ARCHITECTURE = "model.params.architecture.params"
SMALL_STAGE = [f"{ARCHITECTURE}.channels=32", f"{ARCHITECTURE}.norm_groups=8"]
SMALL = [
    "model.params.denoiser.params.model_channels=64",
    "model.params.denoiser.params.norm_groups=16",
]
WAYS = ("images", "fp32", "bf16")


def main() -> None:
    """Make photos and caches, time steps in turns, print a table in Markdown."""
    arguments = _parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _photos(root / "photos", arguments.photos, arguments.photo)
        config = _config(root, arguments)
        made = {dtype: _cache(root, dtype, arguments) for dtype in WAYS[1:]}
        data: dict[str, Any] = {"images": instantiate(config.data.params.train)}
        data |= {dtype: CachedLatents(root / dtype, flip=0.5) for dtype in WAYS[1:]}
        times = _times(config, data, arguments)
        sizes = {"images": _size(root / "photos")}
        sizes |= {dtype: _size(root / dtype) for dtype in WAYS[1:]}
    print(
        f"{arguments.photos} JPEGs of {arguments.photo} pixels, images of {arguments.size} pixels, "
        f"batch {arguments.batch}, {arguments.device}, {torch.get_num_threads()} threads"
    )
    print("| data | reading a batch | step with reading | speed-up | on disk | made in |")
    print("|---|---|---|---|---|---|")
    for way in WAYS:
        reading, step = times[way]
        seconds = f"{made[way]:.0f} s" if way in made else ""
        print(
            f"| {way} | {reading * 1e3:.1f} ms | {step * 1e3:.0f} ms | "
            f"{times['images'][1] / step:.2f} | {sizes[way] / 2**20:.1f} MiB | {seconds} |"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--photos", type=int, default=128)
    parser.add_argument("--photo", type=int, default=256, help="side of a JPEG, in pixels")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--overrides", nargs="*", default=SMALL, metavar="KEY=VALUE", help="of the UNet's config"
    )
    return parser


def _photos(folder: Path, count: int, side: int) -> None:
    folder.mkdir()
    noise = np.random.default_rng(0)
    for k in range(count):
        rough = Image.fromarray(noise.integers(0, 256, (16, 16, 3), np.uint8))
        rough.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{k:05}.jpg")


def _config(root: Path, arguments: argparse.Namespace) -> DictConfig:
    """The config of the UNet on a first stage with random weights."""
    small = SMALL_STAGE if arguments.overrides else []
    sizes = [f"image_size={arguments.size}", f"data_root={root / 'photos'}"]
    stage = load_config(STAGE, overrides=[*sizes, *small])
    torch.manual_seed(0)
    save_config(stage, root / "stage" / "config.yaml")
    weights = instantiate(stage.model, "model").state_dict()
    save_file(weights, root / "stage" / "model.safetensors")
    overrides = [*sizes, f"first_stage={root / 'stage'}", *arguments.overrides]
    overrides += ["model.params.scale_factor=1.0", "data.params.train.params.crop=center"]
    config = load_config(CONFIG, overrides=overrides)
    save_config(config, root / "config.yaml")
    return config


def _cache(root: Path, dtype: str, arguments: argparse.Namespace) -> float:
    """Make a cache; seconds that it took, verification included."""
    start = time.perf_counter()
    command = [sys.executable, str(ROOT / "scripts" / "cache_latents.py"), root / "config.yaml"]
    options = ["--out", root / dtype, "--dtype", dtype, "--device", arguments.device]
    subprocess.run([*map(str, command), *map(str, options)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _times(
    config: DictConfig, data: dict[str, Any], arguments: argparse.Namespace
) -> dict[str, tuple[float, float]]:
    """Medians of the seconds of reading a batch, and of a step with it, in turns."""
    model = instantiate(config.model, "model").to(arguments.device).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    sources = {way: _batches(dataset, arguments.batch) for way, dataset in data.items()}
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in data}
    for repeat in range(arguments.repeats + 1):
        for way, source in sources.items():
            start = time.perf_counter()
            batch = next(source)
            read = time.perf_counter()
            model({key: value.to(arguments.device) for key, value in batch.items()})[0].backward()
            optimizer.step()
            optimizer.zero_grad()
            if arguments.device.startswith("cuda"):
                torch.cuda.synchronize()
            if repeat:  # the first warms up
                seconds[way].append((read - start, time.perf_counter() - start))
    medians = {}
    for way, rows in seconds.items():
        reading, step = (float(np.median(column)) for column in zip(*rows, strict=True))
        medians[way] = reading, step
    return medians


def _batches(dataset: Any, size: int) -> Iterator[dict[str, Any]]:
    while True:
        yield from DataLoader(dataset, size, shuffle=True, drop_last=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
