"""A run that was killed and resumed goes on bit by bit as if it had not been killed.

What a kill leaves is what lies on the disk, so these tests resume from a copy of a checkpoint that
the whole run wrote on its way; ``test_kill.py`` kills processes.
"""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from omegaconf import DictConfig
from PIL import Image
from torch.utils.data import IterableDataset

from ldm.checkpoint import load_training_checkpoint
from ldm.config import load_config
from ldm.data.scenes.dataset import SceneDataset
from ldm.training.run import train
from ldm.training.run_folder import RunFolder
from tests.training import tiny

HERE = "tests.training.test_exact_resume"
EVERY = {"log": 1, "validation": 4, "checkpoint": 3, "images": 5, "keep": 1}


class RandomlyLit(SceneDataset):
    """Draws from all global generators, as data sets of users do."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        entries = super().__getitem__(index)
        light = torch.rand(()) + np.random.rand() + random.random()
        return {**entries, "image": entries["image"] * (0.5 + float(light) / 6)}


class Stream(IterableDataset[dict[str, Any]]):
    """An iterable data set that cannot begin in its middle, and draws its order globally."""

    def __init__(self, length: int) -> None:
        self._scenes = SceneDataset(16, length, num_objects=[1, 1])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in torch.randperm(len(self._scenes)).tolist():
            yield self._scenes[index]


def diffusion(**changes: Any) -> DictConfig:
    """Epochs of 4.5 batches: every second one begins within a batch."""
    config = tiny.class2img(trainer={"max_steps": 11}, every=EVERY)
    config.data.params.train.params.length = 18
    config.merge_with(changes)
    return config


def resume_from(whole: RunFolder, step: int, folder: Path) -> RunFolder:
    """A run with what the whole one had on the disk when it had saved a step, continued."""
    resumed = RunFolder(folder)
    resumed.checkpoints.mkdir(parents=True)
    shutil.copy(whole.config, resumed.config)
    shutil.copy(whole.kept(step), resumed.last)
    train(load_config(resumed.config), resumed, resume=True)
    return resumed


def assert_same(whole: RunFolder, resumed: RunFolder, since: int) -> None:
    """Everything in the last checkpoint, and every number logged from a step on."""
    states = [load_training_checkpoint(run.last) for run in (whole, resumed)]
    for key in ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step"):
        assert flat(states[0].get(key)).keys() == flat(states[1].get(key)).keys()
        for name, value in flat(states[0].get(key)).items():
            other = flat(states[1].get(key))[name]
            same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
            assert same, f"{key}{name}"
    for name in ("batches", "epoch", "taken"):
        assert states[0]["position"][name] == states[1]["position"][name]
    logs = [numbers(run, since) for run in (whole, resumed)]
    assert logs[0] == logs[1]


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested dicts and lists."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {path: value}
    return {k: v for name, child in items for k, v in flat(child, f"{path}.{name}").items()}


def numbers(run: RunFolder, since: int) -> dict[tuple[str, int], float]:
    """What was logged from a step on, but for speed and memory."""
    found = {}
    for line in run.metrics.read_text().splitlines():
        record = json.loads(line)
        step = record.pop("step")
        for name, value in record.items():
            if step >= since and not name.startswith("perf/"):
                found[name, step] = value
    return found


def check(config: DictConfig, tmp_path: Path, *steps: int) -> None:
    whole = RunFolder(tmp_path / "whole")
    train(config, whole)
    for step in steps:
        assert_same(whole, resume_from(whole, step, tmp_path / str(step)), since=step)


def test_stage_2(tmp_path: Path) -> None:
    """Within an epoch, at its end (4), at the end of a longer one (9), before validation (4)."""
    check(diffusion(), tmp_path, 3, 4, 9)


def test_a_validation_that_is_due_between_two_epochs(tmp_path: Path) -> None:
    """Where epochs are counted, Lightning would begin the next one without it."""
    config = diffusion()
    config.trainer = {"max_epochs": 2}
    config.every.validation = 4
    check(config, tmp_path, 4)


def test_stage_1(tmp_path: Path) -> None:
    config = tiny.vq_autoencoder(trainer={"max_steps": 8}, every=EVERY)
    config.data.params.train.params.length = 22
    check(config, tmp_path, 3, 5)


def test_data_sets_that_draw_globally_in_workers(tmp_path: Path) -> None:
    config = diffusion(trainer={"max_steps": 6, "accumulate_grad_batches": 2})
    config.data.params.num_workers = 2
    config.data.params.train.target = f"{HERE}.RandomlyLit"
    config.every.images = 0
    check(config, tmp_path, 3)


@pytest.mark.slow
def test_a_stream_that_can_only_begin_at_its_beginning(tmp_path: Path) -> None:
    config = diffusion(trainer={"max_steps": 6})
    config.data.params.train = {"target": f"{HERE}.Stream", "params": {"length": 18}}
    config.every.images = 0
    check(config, tmp_path, 3, 4)


@pytest.mark.parametrize("accumulated", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_shards_read_by_workers(tmp_path: Path, accumulated: int) -> None:
    """Two workers, shards of different lengths, and a buffer in which samples wait."""
    make_shards(tmp_path / "shards", (9, 2, 9))
    config = diffusion(
        trainer={"max_steps": 7, "accumulate_grad_batches": accumulated},
        data={"params": {"num_workers": 2}},
    )
    config.every.images = 0
    config.data.params.train = {
        "target": "ldm.data.Shards",
        "params": {
            "shards": str(tmp_path / "shards"),
            "framing": {
                "target": "ldm.data.Framing",
                "params": {"height": 16, "width": 16, "crop": "random", "flip": 0.5},
            },
            "caption": None,
            "classes": 24,
            "buffer": 5,
        },
    }
    check(config, tmp_path, 3, 6)


def make_shards(folder: Path, sizes: tuple[int, ...]) -> None:
    folder.mkdir()
    scenes = iter(range(sum(sizes)))
    data = SceneDataset(20, sum(sizes), num_objects=[1, 1])
    for shard, size in enumerate(sizes):
        with webdataset.TarWriter(str(folder / f"{shard}.tar")) as tar:
            for _ in range(size):
                item = data[next(scenes)]
                pixels = ((item["image"] + 1) * 127.5).to(torch.uint8).permute(1, 2, 0).numpy()
                encoded = io.BytesIO()
                Image.fromarray(pixels).save(encoded, "png")
                tar.write(
                    {
                        "__key__": f"{shard}-{_}",
                        "png": encoded.getvalue(),
                        "cls": str(item["class_label"]).encode(),
                    }
                )
