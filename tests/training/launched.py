"""Trainings in processes of their own, started as a user does but for the picture of the curves."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ldm.cli.app import call

ROOT = Path(__file__).parents[2]

PROGRAM = """\
from ldm.cli.app import start
from ldm.training.callbacks import images

images.draw_curves = lambda *_: None
start("train")
"""


CONSOLE_SCRIPT = "import sys\nfrom ldm.cli.app import main\nsys.exit(main())\n"
"""What an installation writes as the program ``ldm``."""


def launch(config: DictConfig, processes: int, folder: Path, by: str = "script") -> Path:
    """Train a config on the CPU in so many processes, where they are several: in new ones.

    Args:
        config: of the run.
        processes: how many.
        folder: where.
        by: ``script``, ``module`` or ``command``: as ``scripts/train.py``, ``python -m ldm train``
            or ``ldm train`` start it; Lightning starts the other processes by the same.

    Returns:
        The run folder. What was said lies beside it, in the files ``stdout`` and ``stderr``.
    """
    folder.mkdir(exist_ok=True)
    config = OmegaConf.merge(config, {"trainer": {"devices": processes}})  # type: ignore[assignment]
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    arguments = [str(folder / "config.yaml"), "--runs", str(folder)]
    out, err = _here(arguments) if processes == 1 else _in_processes(folder, arguments, by)
    (folder / "stdout").write_text(out)
    (folder / "stderr").write_text(err)
    return folder / str(config.name)


def _here(arguments: list[str]) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        call("train", arguments)
    return out.getvalue(), err.getvalue()


def _in_processes(folder: Path, arguments: list[str], by: str) -> tuple[str, str]:
    (folder / "train.py").write_text(PROGRAM)
    (folder / "ldm").write_text(CONSOLE_SCRIPT)
    program = {
        "script": [str(folder / "train.py")],
        "module": ["-m", "ldm", "train"],
        "command": [str(folder / "ldm"), "train"],
    }[by]
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr
