"""The experiments under ``configs/``, and what they need from outside, made small."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors.torch import save_file

from ldm.conditioners.tokenizers import vocabulary_of
from ldm.config import instantiate, load_config, save_config
from ldm.data.listing import list_folder
from ldm.data.retrieval.embeddings import EmbeddingStore, file_sizes
from ldm.data.shards.packing import Picture, pack
from ldm.files import write_text
from ldm.load.model import inline_pretrained

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
FIRST_STAGES = CONFIGS / "autoencoder"
EXPERIMENTS = [
    path
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if not path.name.startswith("_")
    and path.parent.name != "data"
    and path.relative_to(CONFIGS).parts[0] != "evaluation"
]
GROUPS = (
    *("unconditional", "class", "sweep", "text", "layout", "semantic"),
    *("super_resolution", "inpainting", "retrieval"),
)
"""Folders with the stage-2 models of the paper."""
PAPER = [path for path in EXPERIMENTS if path.parent.name in GROUPS]

VQ_F32_C32 = "vq-f32-c32"
"""The first stage that the comment of ``sweep/imagenet-ldm-32.yaml`` makes."""

_DATA = {"unconditional": "random", "celebahq": "random", "imagenet": "random-class"}
_SMALL: Mapping[str, object] = {
    r"num_classes": 2,
    r"num_neighbours": 2,
    r"vocab_size": 128,
    r"random_length": 4,
    r"clip(_weights)?": "null",
    r"tokenizer\.params\.length": 8,
    r"tokenizer\.params\.vocab": ROOT / "data" / "scenes" / "vocab.txt",
    r".*\.architecture\.params\.channels": 8,
    r".*\.num_codes": 16,
    r".*\.perceptual_weight": 0,
    r".*\.disc_start": 1,
    r".*\.discriminator\.params\.width": 8,
    r".*\.(model_channels|num_head_channels|dim)": 8,
    r"(.*\.)?context_dim": 8,
    r".*\.(num_res_blocks|depth)": 1,
    r".*\.norm_groups": 4,
    r".*\.warmup_steps": 0,
    r"data\.params\.batch_size": 2,
    r"data\.params\.num_workers": 0,
    r"data\.params\.validation\.params\.length": 2,
}
"""What makes experiments small: patterns of keys, and values."""
_CLIP = "{hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, num_attention_heads: 2}"


def name_of(path: Path) -> str:
    """``class/cin256``."""
    return str(path.relative_to(CONFIGS).with_suffix(""))


def random_data(path: Path) -> list[Path]:
    """The file that puts random data of its schema in place of the data set of a config, if any."""
    group = path.parent.name
    if path.stem == "cin256-classifier":
        return [CONFIGS / "data" / "random-class.yaml"]
    if group not in GROUPS:
        return []
    group = path.stem.split("-")[0] if group == "sweep" else group
    return [CONFIGS / "data" / f"{_DATA.get(group, f'random-{group}')}.yaml"]


@cache
def _alone(path: Path) -> DictConfig:
    """A config as it stands, to look at."""
    return load_config(path, complete=False)


@cache
def _on_random_data(path: Path) -> DictConfig:
    """A config with random data, to look at."""
    return load_config(path, *random_data(path), complete=False)


def make_world(root: Path) -> None:
    """Images with captions in all layouts, arrays, and descriptions of what is trained before."""
    noise = np.random.default_rng(0)
    folders = ("photos/cat", "photos/dog", "sets/train/n01", "sets/val/n01", "sets/validation")
    for name in folders:
        (root / name).mkdir(parents=True)
        for i in range(2):
            pixels = noise.integers(0, 255, (40, 48, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.jpg")
            (root / name / f"{i}.txt").write_text("a red circle")
    shape = Image.new("L", (48, 40), 255)
    shape.paste(0, (10, 10, 30, 30))
    shape.save(root / "shape.png")
    (root / "arrays").mkdir()
    for i in range(2):
        np.save(root / "arrays" / f"{i}.npy", noise.integers(0, 9, (40, 48, 12)))
    photo = (root / "photos" / "cat" / "0.jpg").read_bytes
    pictures = [Picture(f"{k}", "jpg", photo, ("a",), f"{k // 2}", f"{k % 2}") for k in range(30)]
    pack(pictures, root / "emoji", 0.2)
    write_text(root / "emoji" / "vocab.txt", "".join(f"{word}\n" for word in vocabulary_of(["a"])))


def outside(path: Path, world: Path) -> list[str]:
    """Overrides that name the images of a world, where a config takes any."""
    config = _on_random_data(path)
    overrides = []
    if OmegaConf.is_missing(config, "data_root") or config.get("data_root") is not None:
        root = "emoji" if path.parent.name == "emoji" else "photos"
        overrides.append(f"data_root={world / root}")
    if OmegaConf.is_missing(config, "picture"):
        overrides.append(f"picture={world / 'shape.png'}")
    if "num_classes" in set(config) and not random_data(path):
        overrides.append("num_classes=2")
    if "embeddings" in config and not random_data(path):
        overrides += [f"embeddings={_embed(world / 'photos')}", "num_neighbours=2"]
    return overrides


def _embed(folder: Path) -> Path:
    """Random embeddings of the images of a folder, as wide as small experiments have them."""
    path = folder.with_suffix(".safetensors")
    files = list_folder(folder).images
    vectors = torch.nn.functional.normalize(torch.randn(len(files), 8), dim=1)
    sizes = file_sizes(folder, files)
    EmbeddingStore(tuple(files), vectors, "random", sizes, str(folder)).save(path)
    return path


def before(path: Path, runs: Path, small: bool) -> list[str]:
    """Overrides that name the trained models a config builds on, made where they are absent.

    Args:
        path: the config.
        runs: folder for these models.
        small: shrink them, and give them (random) weights; else their configs are all there is.
    """
    config = _alone(path)
    overrides = []
    for key in ("first_stage", "diffusion"):
        if key in config and f"${{{key}}}" in OmegaConf.to_yaml(config):
            name = Path(config[key]).name
            if not (runs / name).exists():
                _make_run(name, runs, small)
            overrides.append(f"{key}={runs / name}")
    return overrides


def _make_run(name: str, runs: Path, small: bool) -> None:
    path = _config_of(name)
    changes = ["model.params.embed_dim=32"] if name == VQ_F32_C32 else []
    changes += before(path, runs, small) + (shrunk(path) if small else [])
    if "scale_factor" in _alone(path).model.params:
        changes.append("model.params.scale_factor=1.0")
    config = inline_pretrained(load_config(path, overrides=changes, complete=False))
    save_config(config, runs / name / "config.yaml")
    if small:
        torch.manual_seed(0)
        save_file(
            instantiate(config.model, "model").state_dict(), runs / name / "model.safetensors"
        )


def _config_of(name: str) -> Path:
    """The config that makes the run of this name."""
    group, _, kind = name.partition("-")
    path = FIRST_STAGES / f"{'vq-f32' if name == VQ_F32_C32 else name}.yaml"
    return path if path.exists() else CONFIGS / group / f"{kind}.yaml"


def shrunk(path: Path) -> list[str]:
    """Overrides that let a config train in about a second, its structure kept."""
    config = _on_random_data(path)
    overrides = [
        f"{key}={value}"
        for key, old in _leaves(OmegaConf.to_container(config))
        for pattern, value in _SMALL.items()
        if re.fullmatch(pattern, key) and not str(old).startswith("${")
    ]
    overrides += ["trainer.max_steps=2", "+trainer.accelerator=cpu"]
    overrides.append("every={log: 1, validation: 2, checkpoint: 2, images: 2}")
    if config.task.target.endswith(".LatentDiffusionTask"):
        overrides += ["+task.params.preview_steps=1", "+task.params.scale_factor_samples=8"]
    if "perceptual" in OmegaConf.select(config, "task.params.objective.params", default=()):
        overrides.append("task.params.objective.params.perceptual=null")
    if "clip" in config:
        overrides.append(f"+model.params.conditioners.0.params.config={_CLIP}")
    if config.get("image_size", 0) > 64:
        overrides += _small_images(config)
    return overrides


def _small_images(config: DictConfig) -> list[str]:
    """The smallest image that the networks of a stage-2 model take, or 64 pixels."""
    parts = config.model.params
    if "architecture" in parts:
        return ["image_size=64"]
    factor = 1
    if "path" in parts.autoencoder.params:
        stage = _alone(_config_of(Path(config.first_stage).name))
        factor = 2 ** (len(stage.model.params.architecture.params.channel_mult) - 1)
    network = parts.get("denoiser", parts.get("network")).params
    latent = 2 ** (len(network.channel_mult) - 1)
    return [
        f"image_size={factor * latent}",
        *([f"model.params.network.params.image_size={latent}"] if "network" in parts else []),
    ]


def _leaves(tree: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    children = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    for name, value in children:
        key = f"{above}.{name}" if above else str(name)
        if isinstance(value, (Mapping, list)):
            yield from _leaves(value, key)
        else:
            yield key, value
