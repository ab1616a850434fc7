"""Trainings that are started as a user does, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).parents[2]


CONSOLE_SCRIPT = "import sys\nfrom ldm.cli.app import main\nsys.exit(main())\n"
"""What an installation writes as the program ``ldm``."""


def launch(config: DictConfig, processes: int, folder: Path, by: str = "script") -> Path:
    """Train a config on the CPU in so many processes.

    Args:
        config: of the run.
        processes: how many.
        folder: where.
        by: ``script``, ``module`` or ``command``: ``scripts/train.py``, ``python -m ldm train`` or
            ``ldm train``; Lightning starts the other processes by the same.

    Returns:
        The run folder. What was said lies beside it, in the file ``stderr``.
    """
    folder.mkdir(exist_ok=True)
    config = OmegaConf.merge(config, {"trainer": {"devices": processes}})  # type: ignore[assignment]
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    (folder / "ldm").write_text(CONSOLE_SCRIPT)
    program = {
        "script": ["scripts/train.py"],
        "module": ["-m", "ldm", "train"],
        "command": [str(folder / "ldm"), "train"],
    }[by]
    done = subprocess.run(
        [sys.executable, *program, str(folder / "config.yaml"), "--runs", str(folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / "stderr").write_text(done.stderr)
    return folder / str(config.name)
