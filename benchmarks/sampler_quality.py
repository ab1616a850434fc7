r"""Quality against evaluations of the denoiser, for all samplers, on a trained quickstart model.

Every sampler makes one image for each of the first captions of the held-out scenes, from the same
noise. The exact judge says how many show shape and colour of their caption; the Fréchet distance
compares their features with those of the held-out scenes. Finished rows are kept in OUT, so that a
killed call can be repeated.

Example:
  bash scripts/quickstart.sh
  python benchmarks/sampler_quality.py runs/quickstart-text2img runs/quickstart-features \
      --out runs/sampler-quality

Writes OUT/quality.json, OUT/quality.md and OUT/quality.png.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from ldm.config import instantiate
from ldm.diffusion.sampling import Denoise, Sampler
from ldm.evaluation.extraction import Extraction, Output, Request
from ldm.evaluation.metrics.fid import frechet_distance
from ldm.evaluation.scenes.judge import check
from ldm.files import write_atomically
from ldm.load.model import load_model, run_config
from ldm.samplers.ddim import DDIM
from ldm.samplers.ddpm import DDPM
from ldm.samplers.dpm_solver import DPMSolver
from ldm.samplers.karras import Euler, Heun
from ldm.samplers.noise import SeededNoise
from ldm.samplers.plms import PLMS
from ldm.samplers.unipc import UniPC

SAMPLERS: dict[str, Callable[[int], Sampler]] = {
    "DDIM": lambda n: DDIM(n),
    "DDIM, eta 1": lambda n: DDIM(n, eta=1.0),
    "PLMS": lambda n: PLMS(n - 1),  # the first update costs two evaluations
    "DPM-Solver++ 2M": lambda n: DPMSolver(n),
    "DPM-Solver++ 2M, logsnr": lambda n: DPMSolver(n, spacing="logsnr"),
    "DPM-Solver++ 2M, uniform": lambda n: DPMSolver(n, spacing="uniform"),
    "DPM-Solver++ SDE": lambda n: DPMSolver(n, stochastic=True),
    "UniPC": lambda n: UniPC(n),
    "UniPC, logsnr": lambda n: UniPC(n, spacing="logsnr"),
    "UniPC 3, logsnr": lambda n: UniPC(n, order=3, spacing="logsnr"),
    "Euler": lambda n: Euler(n),
    "Heun": lambda n: Heun((n + 1) // 2),  # two evaluations an update, one in the last
}
BATCH = 64
FEATURES = Output("scenes", "features")


def main() -> None:
    """Measure what is not measured yet, then write the table and the plot."""
    arguments = _parser().parse_args()
    torch.set_grad_enabled(False)
    bench = Bench(arguments)
    file = arguments.out / "quality.json"
    rows: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    work: list[tuple[str, Sampler]] = [
        (f"{name} @ {n}", make(n)) for name, make in SAMPLERS.items() for n in arguments.evaluations
    ]
    if arguments.ancestral:
        work.append((f"DDPM @ {bench.model.schedule.timesteps}", DDPM()))
    for key, sampler in tqdm(work, desc="samplers", dynamic_ncols=True):
        if key not in rows:
            rows[key] = bench.measure(sampler)
            _write(file, json.dumps(rows, indent=1))
    _write(arguments.out / "quality.md", _table(rows))
    _plot(rows, arguments.out / "quality.png")
    print(_table(rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run folder of the text-to-image model")
    parser.add_argument("features", help="run folder of the feature network")
    parser.add_argument("--captions", type=int, default=256)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[5, 10, 20, 50, 100])
    parser.add_argument("--ancestral", action="store_true", help="DDPM on all steps, too")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    return parser


class Bench:
    """The model, the captions and the real images that all samplers share."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._options = arguments
        device = arguments.device
        self.model: Any = load_model(arguments.run, device=device)
        self._features: Any = load_model(arguments.features, device=device)
        self._scenes: Any = instantiate(run_config(arguments.run).data.params.validation)
        self._captions = [self._scenes[k]["caption"] for k in range(arguments.captions)]
        real = self._extraction(len(self._scenes))
        for start in range(0, len(self._scenes), BATCH):
            stop = min(start + BATCH, len(self._scenes))
            real.add_images(torch.stack([self._scenes[k]["image"] for k in range(start, stop)]))
        self._real = real.result()[FEATURES].statistics

    def _extraction(self, total: int) -> Extraction:
        """Mean and covariance of the features of so many images."""
        wanted = {FEATURES: Request(statistics=True)}
        networks = {FEATURES.network: self._features}
        return Extraction(networks, wanted, total, device=self._options.device)

    def measure(self, sampler: Sampler) -> dict[str, float]:
        """Evaluations an image, shares of the judge, Fréchet distance, seconds for all images."""
        fake = self._extraction(len(self._captions))
        counter, shown, began = Counter(), [], time.perf_counter()
        for first, images in self._images(sampler, counter):
            fake.add_images(images)
            shown += [
                check(image, caption)
                for image, caption in zip(images, self._captions[first:], strict=False)
            ]
        return {
            "evaluations": counter.calls / math.ceil(len(shown) / BATCH),
            "shape_and_colour": sum(v.shape_and_colour for v in shown) / len(shown),
            "correct": sum(v.correct for v in shown) / len(shown),
            "fd": frechet_distance(self._real, fake.result()[FEATURES].statistics),
            "seconds": time.perf_counter() - began,
        }

    def _images(self, sampler: Sampler, counter: Counter) -> Iterator[tuple[int, Tensor]]:
        text, size = self.model.conditioners[0], self._scenes[0]["image"].shape[-2:]
        for first in range(0, len(self._captions), BATCH):
            prompts = self._captions[first : first + BATCH]
            images = self.model.sample(
                {text.key: text.tokenizer(prompts).to(self._options.device)},
                size=tuple(size),
                sampler=sampler,
                noise=SeededNoise([self._options.seed + first + k for k in range(len(prompts))]),
                guidance_scale=self._options.guidance,
                guide=counter.wrap,
            )
            yield first, images.clamp(-1, 1).float().cpu()


class Counter:
    """Counts the evaluations of a denoiser."""

    calls = 0

    def wrap(self, denoise: Denoise) -> Denoise:
        """The same denoiser, counted."""

        def counted(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            self.calls += 1
            return denoise(x, t)

        return counted


def _table(rows: dict[str, Any]) -> str:
    columns = sorted({int(key.split(" @ ")[1]) for key in rows})
    names = list(dict.fromkeys(key.split(" @ ")[0] for key in rows))
    head = "| sampler | " + " | ".join(f"{n}" for n in columns) + " |"
    lines = [head, "|---|" + "---|" * len(columns)]
    for name in names:
        cells = []
        for n in columns:
            row = rows.get(f"{name} @ {n}")
            cells.append(f"{row['shape_and_colour']:.1%} / {row['fd']:.1f}" if row else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _plot(rows: dict[str, Any], out: Path) -> None:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for name in dict.fromkeys(key.split(" @ ")[0] for key in rows):
        mine = [row for key, row in rows.items() if key.split(" @ ")[0] == name]
        style = "o" if len(mine) == 1 else ".-"
        calls = [row["evaluations"] for row in mine]
        axes[0].plot(calls, [row["shape_and_colour"] for row in mine], style, label=name)
        axes[1].plot(calls, [row["fd"] for row in mine], style, label=name)
    axes[0].set_ylabel("share of images that show their caption")
    axes[1].set_ylabel("Fréchet distance")
    axes[1].set_yscale("log")
    for panel in axes:
        panel.set_xscale("log")
        panel.set_xlabel("evaluations of the denoiser")
        panel.grid(alpha=0.3)
    axes[1].legend(fontsize=8)
    write_atomically(out, lambda stream: figure.savefig(stream, format="png", dpi=110))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda stream: stream.write(text.encode()))


if __name__ == "__main__":
    main()
