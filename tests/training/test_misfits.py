"""Parts of a config that are right alone but do not fit each other: one line, no traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from ldm.config import save_config
from ldm.config.kinds import Kind, as_counted
from ldm.errors import CheckpointError, UserError
from ldm.experiment import intervals, trainer_options
from ldm.training.run import train
from ldm.training.run_folder import RunFolder
from tests.training import tiny

MISFITS: dict[str, tuple[str, dict[str, Any], str]] = {
    "no conditioner": ("class2img", {"model.params.conditioners": []}, "context_dim=4"),
    "no contract": (
        "class2img",
        {"model.params.conditioners": [{"target": "torch.nn.Identity"}]},
        "Identity is no conditioner, it has no key, .*ldm.conditioners.Conditioner",
    ),
    "bfloat16": ("class2img", {"trainer.precision": "bf16-true"}, "bf16-mixed"),
    "half": ("class2img", {"trainer.precision": "16-true"}, "bf16-mixed"),
    "part of one batch": ("class2img", {"trainer.limit_val_batches": 0.1}, "limit_val_batches"),
    "sparse": (
        "features",
        {"task.params.optimizer.target": "torch.optim.SparseAdam"},
        "task.params.optimizer: SparseAdam",
    ),
    "several passes": (
        "features",
        {"task.params.optimizer.target": "torch.optim.LBFGS"},
        "task.params.optimizer: LBFGS",
    ),
    "deep discriminator": (
        "autoencoder",
        {"task.params.objective.params.discriminator.params.num_layers": 3},
        "num_layers",
    ),
}


def _changed(name: str, changes: dict[str, Any]) -> DictConfig:
    config: DictConfig = getattr(tiny, name)()
    for key, value in changes.items():
        OmegaConf.update(config, key, value, merge=False)
    return config


@pytest.mark.parametrize("case", MISFITS)
def test_parts_that_do_not_fit_are_named(case: str, tmp_path: Path) -> None:
    name, changes, said = MISFITS[case]
    with pytest.raises(UserError, match=said) as caught:
        train(_changed(name, changes), RunFolder(tmp_path / "run"))
    assert "\n" not in str(caught.value)


def test_a_discriminator_that_just_fits_trains(tmp_path: Path) -> None:
    layers = {"task.params.objective.params.discriminator.params.num_layers": 2}
    train(_changed("autoencoder", layers | {"trainer.max_steps": 3}), RunFolder(tmp_path / "run"))


def test_a_run_is_not_resumed_with_an_optimiser_that_divides_weights_otherwise(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path / "run")
    train(_changed("features", {"trainer.max_steps": 1}), folder)
    before = folder.config.read_bytes()
    muon = {"trainer.max_steps": 2, "task.params.optimizer.target": "ldm.training.Muon"}
    with pytest.raises(CheckpointError, match=r"its optimizer divides .* --init-from"):
        train(_changed("features", muon), folder, resume=True)
    assert folder.config.read_bytes() == before
    train(_changed("features", {"trainer.max_steps": 2}), folder, resume=True)


def test_float64_measures_the_scale_of_latents(tmp_path: Path) -> None:
    changes = {"trainer.precision": "64-true", "trainer.max_steps": 1}
    train(_changed("class2img", changes), RunFolder(tmp_path / "run"))


def test_whole_numbers_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    changes = {
        "trainer.max_steps": 1e0,
        "every.validation": 1e3,
        "data.params.train.params.length": 1e2,
        "model.params.width": 8.0,
    }
    config = _changed("features", changes)
    save_config(config, tmp_path / "config.yaml")
    assert type(trainer_options(config)["max_steps"]) is int
    assert intervals(config)["validation"] == 1000
    train(config, RunFolder(tmp_path / "run"))


def test_only_whole_numbers_are_counted() -> None:
    whole, real = Kind("whole number"), Kind("number")
    assert type(as_counted(1e5, (whole, Kind("null")))) is int
    assert type(as_counted(1e5, (whole, real))) is float
    assert type(as_counted(1e5, (real,))) is float
    pair = Kind("list", items=((whole,), (real,)), each=True)
    assert [type(v) for v in as_counted([2.0, 2.0], (pair,))] == [int, float]
    many = Kind("list", items=((whole,),))
    assert as_counted([1.0, "x", None], (many,)) == [1, "x", None]
