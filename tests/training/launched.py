"""Trainings that are started as a user does, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).parents[2]


def launch(config: DictConfig, processes: int, folder: Path) -> Path:
    """Train a config on the CPU in so many processes.

    Returns:
        The run folder. What was said lies beside it, in the file ``stderr``.
    """
    folder.mkdir(exist_ok=True)
    config = OmegaConf.merge(config, {"trainer": {"devices": processes}})  # type: ignore[assignment]
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    command = [sys.executable, "scripts/train.py", str(folder / "config.yaml")]
    done = subprocess.run(
        [*command, "--runs", str(folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / "stderr").write_text(done.stderr)
    return folder / str(config.name)
