r"""What training a model of configs/ costs: parameters, operations, hours of an A100.

Nothing is computed: the model of a config is built without storage (PyTorch's meta device), one
image goes forward and back, and torch.utils.flop_counter adds up the operations of all matrix
products, convolutions and attentions, two for each multiplication and addition. Not counted are
normalisations and activations, the optimiser, the averaging of weights, validation, the training
of the first stage, and what is computed twice to save memory (use_checkpoint).

The hours are total operations / (share x peak). The default peak, 312e12 per second, is what an
A100's data sheet gives for bfloat16; the share that a training reaches depends on batch, kernels
and loader. The last column is what the paper says of its own training (Table 18, where one
A100-day counts as 2.2 V100-days).

Examples:
  python benchmarks/training_cost.py                              the models of docs/tasks
  python benchmarks/training_cost.py configs/layout/coco-ldm-8.yaml configs/folder/text.yaml
  python benchmarks/training_cost.py --utilisation 0.3 --peak 989e12            an H100's
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ldm.config import instantiate, load_config
from ldm.load.model import PRETRAINED

CONFIGS = Path(__file__).parents[1] / "configs"
TASKS = (
    *("unconditional/celebahq-ldm-4", "unconditional/ffhq-ldm-4"),
    *("unconditional/lsun-churches-ldm-8", "unconditional/lsun-bedrooms-ldm-4"),
    *("class/cin256", "class/cin256-v2"),
    *("text/laion-ldm-8", "text/text2img256", "text/clip-ldm-8"),
    *("layout/openimages-ldm-4", "layout/coco-ldm-8"),
    *("semantic/landscapes-256", "semantic/landscapes-512"),
    *("super_resolution/imagenet-ldm-4", "inpainting/places-ldm-1"),
    *("inpainting/places-ldm-4-vq", "inpainting/places-ldm-4-vq-noattn", "inpainting/places-big"),
    *("retrieval/rdm-768", "folder/unconditional", "folder/class", "folder/text"),
)
PAPER = {  # V100-days of the generator, and steps, of Table 18
    "unconditional/celebahq-ldm-4": (14.4, 410_000),
    "unconditional/ffhq-ldm-4": (26, 635_000),
    "unconditional/lsun-churches-ldm-8": (18, 410_000),
    "unconditional/lsun-bedrooms-ldm-4": (60, 1_900_000),
    "class/cin256": (79, 2_900_000),
    "class/cin256-v2": (271, 178_000),
}
V100_DAYS = 2.2
"""V100-days in an A100-day, the paper's conversion."""


class Cost(NamedTuple):
    """Operations (FLOP) of one training image, and millions of parameters."""

    trained: float
    """Parameters of the denoiser and of the conditioners that learn."""
    frozen: float
    """All other parameters: the first stage, frozen conditioners."""
    first_stage: int
    conditioners: int
    denoiser: int
    step: int
    """Forward and backward pass of a training step, that of the first stage's encoder included."""


def main() -> None:
    """Count and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="*", help="YAML files of stage-2 models")
    parser.add_argument("--peak", type=float, default=312e12, help="FLOP/s (default: 312e12)")
    parser.add_argument("--utilisation", type=float, default=0.4, help="share (default: 0.4)")
    arguments = parser.parse_args()
    print(
        "| config | M parameters trained | frozen | GFLOP encoder | conditioners | denoiser "
        "| training | batch | steps | EFLOP | A100 hours | paper's |\n" + "|---" * 12 + "|"
    )
    for path in arguments.config or [f"{CONFIGS / name}.yaml" for name in TASKS]:
        config = _config(Path(path))
        cost = _cost(config)
        batch, steps = config.data.params.batch_size, config.trainer.max_steps
        total = cost.step * batch * steps
        hours = total / (arguments.peak * arguments.utilisation) / 3600
        name = "/".join(Path(path).resolve().with_suffix("").parts[-2:])
        giga = [f"{value / 1e9:,.1f}" for value in cost[2:]]
        cells = [name, f"{cost.trained:.2f}", f"{cost.frozen:.2f}", *giga, f"{batch:,}"]
        cells += [f"{steps:,}", _short(total / 1e18), _short(hours), _paper(name)]
        print(f"| {' | '.join(cells)} |", flush=True)


def _short(value: float) -> str:
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def _paper(name: str) -> str:
    if name not in PAPER:
        return ""
    days, steps = PAPER[name]
    return f"{days / V100_DAYS * 24:,.0f} for {steps:,} steps"


def _config(path: Path) -> DictConfig:
    """The config with the architecture of its first stage in place of a trained one."""
    config = load_config(path, complete=False)
    if "clip" in config:
        config.clip = None  # the same sizes without a file of weights
    if OmegaConf.is_missing(config, "num_classes"):
        config.num_classes = 1000  # your own: one row of a table each, which costs nothing
    parts = config.model.params
    if parts.autoencoder.target == PRETRAINED:
        name = Path(config.first_stage).name
        file = CONFIGS / "autoencoder" / f"{name}.yaml"
        file = file if file.exists() else CONFIGS / f"{name.replace('-', '/', 1)}.yaml"
        stage = load_config(file, complete=False)
        parts.autoencoder = OmegaConf.to_container(stage.model, resolve=True)
    if "use_checkpoint" in parts.denoiser.params:
        parts.denoiser.params.use_checkpoint = False
    return config


def _cost(config: DictConfig) -> Cost:
    with torch.device("meta"):
        model = instantiate(config.model).train()
        batch = _batch(config, model)
    latents, first_stage = _count(lambda: model.autoencoder.encode(batch["image"]).mode())
    cond, conditioners = _count(lambda: model.condition(batch))
    x = latents if cond.concat is None else torch.cat([latents, cond.concat], dim=1)
    t = torch.zeros(1, dtype=torch.int64, device="meta")
    output, denoiser = _count(lambda: model.denoiser(x, t, context=cond.context, y=cond.y))
    _, backward = _count(output.sum().backward)
    return Cost(
        trained=_millions(model, learns=True),
        frozen=_millions(model, learns=False),
        first_stage=first_stage,
        conditioners=conditioners,
        denoiser=denoiser,
        step=first_stage + conditioners + denoiser + backward,
    )


def _batch(config: DictConfig, model: Any) -> dict[str, Tensor]:
    """A batch of one image and of what the conditioners read."""
    side = config.image_size
    nodes = config.model.params.get("conditioners", [])
    small = side // model.autoencoder.downsampling_factor
    batch = {"image": torch.empty(1, 3, side, side)}
    for node, part in zip(nodes, model.conditioners, strict=True):
        shapes: dict[str, tuple[int, ...]] = {
            "class_label": (1,),
            "tokens": (1, node.params.get("length", 0)),
            "box_tokens": (1, node.params.get("length", 0)),
            "segmentation": (1, side, side),
            "neighbours": (1, getattr(part, "max_tokens", None) or 1, getattr(part, "dim", 0)),
            "lr_image": (1, 3, small, small),
            "masked_image": (1, 3, side, side),
            "mask": (1, 1, side, side),
        }
        floats = part.key in ("neighbours", "lr_image", "masked_image", "mask")
        dtype = torch.float32 if floats else torch.int64
        batch[part.key] = torch.empty(shapes[part.key], dtype=dtype)
    return batch


def _count(call: Callable[[], Any]) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter:
        result = call()
    return result, counter.get_total_flops()


def _millions(model: nn.Module, learns: bool) -> float:
    found: list[Tensor] = [p for p in model.parameters() if p.requires_grad == learns]
    return math.fsum(p.numel() for p in found) / 1e6


if __name__ == "__main__":
    main()
