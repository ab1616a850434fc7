"""One bit that changed in a file with weights is noticed wherever such a file is read."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from ldm.checkpoint import save
from ldm.config import save_config
from ldm.errors import CheckpointError
from ldm.export import FORMATS, export, part_of
from ldm.load import InitFrom, load_model, pretrained
from ldm.load.model import locate
from tests.compat.first_stages import build, kl

NODE = kl(channels=32, channel_mult=[1, 2], norm_groups=32, attn_resolutions=[8])
CONFIG = OmegaConf.create({"name": "ae", "model": NODE})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder, model = tmp_path / "run", build(NODE)
    save_config(CONFIG, folder / "config.yaml")
    content = {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}}
    for name in ("last", "previous"):
        save(content, folder / "checkpoints" / f"{name}.ckpt")
    return folder


def flip(file: Path, seed: int = 0) -> None:
    """Change a bit somewhere in the weights, the largest part of a file."""
    content = bytearray(file.read_bytes())
    place = random.Random(seed).randrange(len(content) // 4, len(content) // 2)
    content[place] ^= 1 << (seed % 8)
    file.write_bytes(content)


READERS: dict[str, Callable[[Path], Any]] = {
    "load_model": load_model,
    "first stage": pretrained,
    "first stage of a given network": lambda run: pretrained(
        build(NODE), run / "checkpoints/last.ckpt"
    ),
    "init-from a run": lambda run: InitFrom(str(run)).read(),
    "init-from a file": lambda run: InitFrom(str(run / "checkpoints/last.ckpt")).read(),
    "a file in a run": lambda run: load_model(run / "checkpoints/last.ckpt"),
    "a file with a config": lambda run: load_model(CONFIG, run / "checkpoints/last.ckpt"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_in_a_run(name: str, run: Path) -> None:
    READERS[name](run)
    flip(run / "checkpoints/last.ckpt", seed=len(name))
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged: .*not what was") as raised:
        READERS[name](run)
    assert "\n" not in str(raised.value)
    assert f"train.py --resume {run}" in str(raised.value)
    assert f"--checkpoint {run}/checkpoints/previous.ckpt" in str(raised.value)


def test_the_check_can_be_left_out(run: Path) -> None:
    whole = load_model(run).state_dict()
    flip(run / "checkpoints/last.ckpt")
    for read in (load_model, pretrained):
        found = read(run, check=False).state_dict()
        assert sum(not torch.equal(found[key], whole[key]) for key in whole) == 1
    found = pretrained(build(NODE), run / "checkpoints/last.ckpt", check=False).state_dict()
    assert found.keys() == whole.keys()
    assert len(locate(run, check=False).read().state_dict) == len(whole)


@pytest.mark.parametrize("format", FORMATS)
def test_a_flipped_bit_in_what_is_exported(format: str, tmp_path: Path) -> None:
    model = build(NODE)
    export(model, CONFIG, tmp_path, format)
    load_model(tmp_path)
    (file,) = (f for f in tmp_path.iterdir() if f.suffix in (".safetensors", ".ckpt"))
    flip(file)
    with pytest.raises(CheckpointError, match=r"is damaged: .*not what was written"):
        load_model(tmp_path)
    load_model(tmp_path, check=False)


def test_exports_are_read_by_other_libraries(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    model, config = part_of(build(NODE), DictConfig(CONFIG), "autoencoder")
    export(model, config, tmp_path, "diffusers")
    AutoencoderKL.from_pretrained(tmp_path)
