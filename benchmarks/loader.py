"""Images per second that a folder of JPEG files gives, beside the loading of diffusers' examples.

The files are noise over colour gradients, of the sizes of photographs. All make squares, shorter
side to --size: ldm's ImageFolder (which lets a JPEG decoder work at a half, a quarter or an eighth
of the size where that still leaves twice the pixels needed), Pillow with torchvision's transforms
as the training examples of diffusers do it, and torchvision's decoder and resizing of bytes.

Examples:
  python benchmarks/loader.py                                 in this process
  python benchmarks/loader.py --workers 8 --size 256          by loader processes
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import alternate, begin, heading, parser, rows
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from ldm.data.folder import ImageFolder


class Files(Dataset[Any]):
    """Files of a folder through a function."""

    def __init__(self, folder: Path, read: Callable[[Path], Tensor]) -> None:
        self.files = sorted(folder.iterdir())
        self.read = read

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.read(self.files[index])}


def main() -> None:
    """Time one pass over the files in turns and print tables in Markdown."""
    options = parser(__doc__, repeats=5)
    options.add_argument("--size", type=int, default=256, help="side of the results")
    options.add_argument("--count", type=int, default=64, help="number of files")
    options.add_argument("--workers", type=int, default=0, help="loader processes")
    arguments = options.parse_args()
    begin(arguments, f"Loading of {arguments.count} files, to {arguments.size} pixels")
    print(heading(["width x height"], ["images per second"]))
    for width, height in ((500, 375), (2000, 1500)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _write(folder, width, height, arguments.count)
            calls = {
                key: partial(_pass, data, arguments.workers)
                for key, data in _sets(folder, arguments.size).items()
            }
            times = alternate(calls, arguments.repeats, "cpu")
        lines = rows([f"{width} x {height}"], times, "ldm", "cpu")
        for line, timing in zip(lines, times.values(), strict=True):
            print(f"{line} {arguments.count / sorted(timing.wall)[len(timing.wall) // 2]:.0f} |")


def _sets(folder: Path, size: int) -> dict[str, Dataset[Any]]:
    frame = v2.Compose([v2.Resize(size, antialias=True), v2.CenterCrop(size)])
    scale = v2.Normalize([0.5], [0.5])
    tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), scale])

    def pillow(file: Path) -> Tensor:
        return tensor(frame(Image.open(file).convert("RGB")))

    def torchvision(file: Path) -> Tensor:
        image = decode_jpeg(read_file(str(file)), mode=ImageReadMode.RGB)
        return tensor(frame(image))

    options: dict[str, Any] = {"split": "all", "captions": "none", "classes": "none"}
    return {
        "ldm": ImageFolder(folder, size, interpolation="bilinear", **options),
        "Pillow + torchvision transforms": Files(folder, pillow),
        "torchvision decode_jpeg": Files(folder, torchvision),
    }


def _write(folder: Path, width: int, height: int, count: int) -> None:
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 200, width)[None, :, None] * np.linspace(0.2, 1, height)[:, None, None]
    for i in range(count):
        noise = random.integers(0, 40, (height, width, 3))
        pixels = (np.roll(ramp, i * 7, axis=1) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04d}.jpg", quality=90)


def _pass(data: Dataset[Any], workers: int) -> None:
    for batch in DataLoader(data, batch_size=16, num_workers=workers):
        batch["image"].sum()


if __name__ == "__main__":
    main()
