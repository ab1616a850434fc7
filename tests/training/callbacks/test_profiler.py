from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from ldm.config import load_config
from ldm.errors import ConfigError
from ldm.experiment import profile_options
from ldm.training.callbacks.profiler import ProfileSteps
from tests.training.clock import Clock, SlowData, SlowTask


def _fit(tmp_path: Path, max_steps: int = 6, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        callbacks=[ProfileSteps(tmp_path / "profile", **options)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        accumulate_grad_batches=2,
        default_root_dir=tmp_path,
    )
    clock = Clock()
    trainer.fit(SlowTask(clock), datamodule=SlowData(clock, 0))
    return trainer


def test_a_profile_is_written_while_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        trainer = _fit(tmp_path, start=2, steps=2)
    assert trainer.global_step == 6
    trace = tmp_path / "profile" / "step-0000002-trace.json.gz"
    table = tmp_path / "profile" / "step-0000002-operations.txt"
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = [e for e in events if e.get("name", "").startswith("Optimizer.step#SGD")]
    assert len(steps) == 2
    assert "aten::addmm" in table.read_text()
    assert "Self CPU" in table.read_text()
    said = [r.message for r in caplog.records if r.message.startswith("profile of 2 steps")]
    assert len(said) == 1
    assert str(trace) in said[0]
    assert str(table) in said[0]


def test_a_run_that_ends_early_profiles_what_there_is_or_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _fit(tmp_path, max_steps=3, start=2, steps=9)
    assert (tmp_path / "profile" / "step-0000002-operations.txt").exists()
    _fit(tmp_path / "other", max_steps=3)
    assert "profile: training ended before step 10, where it was to start" in caplog.text
    assert not (tmp_path / "other" / "profile").exists()


def test_the_switch_of_a_config(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("name: run\n")
    assert profile_options(load_config(file).get("profile")) is None
    config = load_config(file, overrides=["profile=true", "peak_tflops=312"])
    assert profile_options(config.profile) == {}
    assert config.peak_tflops == 312
    config = load_config(file, overrides=["profile.start=3", "profile.steps=1"])
    assert profile_options(dict(config.profile)) == {"start": 3, "steps": 1}
    assert profile_options(False) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("yes", "profile: expected true, false or start and steps, got 'yes'"),
        ({"begin": 1}, r"profile\.begin: unknown; it accepts start, steps"),
        ({"steps": 0}, r"profile\.steps: expected a number of steps from 1, got 0"),
        ({"start": True}, r"profile\.start: expected a number of steps from 0, got True"),
    ],
)
def test_bad_switches_are_refused(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        profile_options(value)
