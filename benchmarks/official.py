"""Images per second and utilisation of a training step of the models of configs/, on a GPU.

A batch of random images and conditions goes through the first stage's encoder, the conditioners and
the denoiser, forward and back, then AdamW and the average of the weights: all of a step but the
loader. Operations are counted as in benchmarks/training_cost.py, those computed twice to save
memory not included; utilisation is operations per second over --peak.

Examples:
  python benchmarks/official.py --device cuda --precision bf16 --peak 989e12          an H100
  python benchmarks/official.py configs/class/cin256-v2.yaml --batch 32 --device cuda --compile
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _measure import MB, alternate, begin, parser, peak_memory, precision
from torch import Tensor
from training_cost import CONFIGS, _batch, _config, _cost

from ldm.config import instantiate
from ldm.layers.compile import compile_networks
from ldm.training.callbacks.ema import EMA

MODELS = (
    *("unconditional/celebahq-ldm-4", "unconditional/lsun-churches-ldm-8"),
    *("class/cin256-v2", "text/text2img256", "layout/coco-ldm-8", "inpainting/places-big"),
)


def main() -> None:
    """Time a step of every config and print a table in Markdown."""
    options = parser(__doc__, repeats=10)
    options.add_argument("config", nargs="*", help="YAML files of stage-2 models")
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--peak", type=float, required=True, help="FLOP/s of the device")
    arguments = options.parse_args()
    begin(arguments, f"Training steps of the official configs, batch {arguments.batch}")
    columns = ["config", "median s", "images per second", "TFLOP/s", "utilisation", "peak MB"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for path in arguments.config or [f"{CONFIGS / name}.yaml" for name in MODELS]:
        config = _config(Path(path))
        flops = _cost(config).step * arguments.batch
        if arguments.device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        step = _step(config, arguments)
        times = sorted(alternate({"": step}, arguments.repeats, arguments.device)[""].wall)
        seconds = times[len(times) // 2]
        cells = ["/".join(Path(path).resolve().with_suffix("").parts[-2:]), f"{seconds:.4f}"]
        cells += [f"{arguments.batch / seconds:.1f}", f"{flops / seconds / 1e12:.1f}"]
        cells.append(f"{flops / seconds / arguments.peak:.3f}")
        print(
            f"| {' | '.join([*cells, f'{peak_memory(arguments.device) / MB:.0f}'])} |", flush=True
        )


def _step(config: Any, arguments: Any) -> Callable[[], None]:
    model = instantiate(config.model).to(arguments.device, memory_format=torch.channels_last)
    if not model.has_scale_factor:
        model.set_scale_factor(1.0)
    if arguments.compile:
        compile_networks(model)
    model.train()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True
    )
    average = EMA(model)
    batch = {k: _filled(v, arguments) for k, v in _batch(config, model).items()}

    def step() -> None:
        with precision(arguments):
            loss, _ = model(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)

    return step


def _filled(value: Tensor, arguments: Any) -> Tensor:
    """A batch of what stands for one image: noise, or ids that every table has."""
    shape = (arguments.batch, *value.shape[1:])
    if value.is_floating_point():
        return torch.rand(shape, device=arguments.device) * 2 - 1
    return torch.zeros(shape, dtype=value.dtype, device=arguments.device)


if __name__ == "__main__":
    main()
