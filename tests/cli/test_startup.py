"""Help and bad input come before PyTorch, in a fraction of the time that importing it takes."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ldm.cli.app import FAMILIES, call
from ldm.errors import UserError

ROOT = Path(__file__).parents[2]
HEAVY = {
    *("torch", "torchvision", "pytorch_lightning", "torchmetrics", "transformers", "open_clip"),
    *("scipy", "matplotlib", "pandas", "faiss"),
}
PROGRAMS = [name for programs in FAMILIES.values() for name in programs]
FOLDER = "configs/folder/unconditional.yaml"
OUT = ("--out", "out")
WRONG: dict[str, list[tuple[list[str], str]]] = {
    "train": [
        (["nowhere.yaml"], "nowhere.yaml: no such configuration file"),
        (["--resume", "nowhere"], "no such run"),
        ([FOLDER], "data_root: mandatory value is missing"),
        ([FOLDER, "data_root=x", "data_rot=x"], "no such key; nearest: data_root"),
        ([FOLDER, "data_root=x", "trainer.devces=2"], "trainer.devces: not an argument of"),
        ([FOLDER, "data_root=x", "every.chekpoint=2"], "every.chekpoint: unknown"),
        ([FOLDER, "data_root=x", "+profile.strt=2"], "profile.strt: unknown"),
        (
            [FOLDER, "data_root=x", "+data.params.train.params.corp=random"],
            "data.params.train.params.corp: unknown key for ldm.data.ImageFolder; did you mean "
            "'crop'?",
        ),
        (
            [FOLDER, "data_root=x", "+task.params.optimizer.params.beta=1"],
            "task.params.optimizer.params.beta: unknown key for torch.optim.AdamW",
        ),
        (
            [FOLDER, "data_root=x", "data.params.train.target=ldm.data.ImageFoldr"],
            "ldm.data has no 'ImageFoldr'; did you mean 'ImageFolder'?",
        ),
        ([FOLDER, "data_root=x", "--init-from", "nowhere.ckpt"], "nowhere.ckpt: no such"),
        ([FOLDER, "data_root=x", "data.params.batch_size=x"], "expected a whole number"),
        ([FOLDER, "data_root=x", "trainer.max_steps=-4"], "max_steps: -4 is below 0"),
        ([FOLDER, "data_root=x", "name=a/b"], "name: 'a/b' cannot name the run folder"),
        ([FOLDER, "data_root=x", "~name"], "keys are not deleted here"),
    ],
    "cache_latents": [
        (["nowhere.yaml", *OUT], "nowhere.yaml: no such configuration file"),
        ([FOLDER, *OUT], "data_root: mandatory value is missing"),
        ([FOLDER, "data_root=x", "+data.params.train.params.corp=x", *OUT], "corp: unknown key"),
    ],
    "convert": [(["nowhere", "--to", "native", *OUT], "nowhere: no such run folder")],
    "toy": [
        (["--set", "trainer.max_stepss=3"], "trainer.max_stepss: not an argument of"),
        (["--set", "+model.params.denoiser.params.withd=3"], "withd: unknown key"),
        (["--image", "nowhere.png"], "nowhere.png: no image file"),
    ],
    "evaluate": [
        (["nowhere", "--preset", "quick"], "'nowhere' does not exist"),
        ([".", "--preset", "quik"], "--preset quik: no such protocol"),
        ([".", "--preset", "{preset}"], "{preset}: num_fakes: unknown key"),
        (["."], "nothing to measure"),
        ([".", "--features", "inceptoin"], "--features inceptoin: neither one of"),
        ([".", "--features", "x:y"], "--features x:y: neither one of"),
        ([".", "--features", "inception", "--metrics", "fid,nope"], "--metrics nope: not one of"),
        (["{run}", "--preset", "quick", "--steps", "4000"], "choose 1 to 77"),
    ],
    "sample": [
        (["nowhere"], "nowhere: no such run folder"),
        (["{run}", "--steps", "78"], "--steps 78: cannot take 78 sampling steps: choose 1 to 77"),
        (["{run}", "--out", "/proc/x"], "--out /proc/x: nothing can be written into /proc"),
    ],
    "evaluate_autoencoder": [
        (["nowhere"], "nowhere: no such run folder"),
        (["{run}", "--features", "nope"], "--features nope: neither one of"),
    ],
    "reconstruct": [(["nowhere", "."], "nowhere: no such"), ([".", "none.png"], "none.png: no")],
    "compare_reports": [(["a.json", "b.json"], "a.json: no such report")],
    "reproduce": [(["nowhere"], "nowhere: no such recipe")],
    "show_data": [
        (["nowhere.yaml"], "nowhere.yaml: no such configuration file"),
        ([FOLDER], "the data set needs data_root"),
        ([FOLDER, "data_root=x", "+data.params.train.params.corp=x"], "corp: unknown key"),
    ],
    "build_index": [(["nowhere"], "nowhere: no such folder")],
    "write_scenes": [(["out", "--num", "1"], "--num 1 must be at least 2")],
    "pack_pictures": [
        (["nowhere", "--out", "x"], "nowhere: no such file or folder"),
        ([".", "--out", "x", "--held-out", "0"], "--held-out 0.0: is a share"),
    ],
    "txt2img": [(["nowhere", "--prompt", "x"], "nowhere: no such run folder")],
    "img2img": [(["nowhere", "."], "nowhere: no such run folder")],
    "superres": [(["nowhere", "."], "nowhere: no such run folder")],
    "inpaint": [(["nowhere", "."], "nowhere: no such run folder")],
    "semantic2img": [(["nowhere", "."], "nowhere: no such run folder")],
    "layout2img": [(["nowhere", "none.json"], "none.json: no such file")],
    "retrieve2img": [(["nowhere", "--prompt", "x"], "nowhere: no such run folder")],
    "walk": [(["nowhere", "--prompt", "a", "--prompt", "b"], "nowhere: no such run folder")],
}
"""What is wrong with arguments, and what is said; of programs that are not here, see below."""
SOURCE = [(["nowhere"], "nowhere: no such run folder")]


def _said(program: str, arguments: Sequence[str]) -> tuple[int | str, str]:
    """How a program ends, and what it says."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            call(program, arguments)
        except UserError as error:
            return "error", str(error)
        except SystemExit as end:
            return int(end.code or 0), out.getvalue()
    return "done", out.getvalue()


def look(preset: str, run: str) -> None:
    """Start all programs in this process, which must stay light."""
    places = {"preset": preset, "run": run}
    for program in PROGRAMS:
        attempts: list[tuple[list[str], int | str, str]] = [
            (["--help"], 0, f"usage: ldm {program} "),
            (["--no-such-option"], 2, f"usage: ldm {program} "),
        ]
        for arguments, message in WRONG.get(program, SOURCE):
            filled = [argument.format(**places) for argument in arguments]
            attempts.append((filled, "error", message.format(**places)))
        for arguments, status, message in attempts:
            found = _said(program, arguments)
            assert found[0] == status, (program, arguments, found)
            assert message in found[1], (program, arguments, found)
            loaded = HEAVY & sys.modules.keys()
            assert not loaded, (program, arguments, loaded)


def test_help_and_bad_input_import_nothing_heavy(tmp_path: Path) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("name: x\nnum_fakes: 3\nmeasures: [{metric: frechet}]\n")
    run = tmp_path / "config.yaml"
    run.write_text("model: {params: {schedule: {params: {timesteps: 77}}}}\n")
    code = f"from tests.cli.test_startup import look; look({str(preset)!r}, {str(tmp_path)!r})"
    _run("-c", code)


def _run(*arguments: str, status: int = 0) -> float:
    """Processor seconds of a process of Python."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == status, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_start_up_takes_a_fraction_of_importing_torch() -> None:
    """Of several tries the fastest each, since this machine may be busy."""
    torch = min(_run("-c", "import torch") for _ in range(3))
    train = "scripts/train.py"
    limits = {
        (train, "--help"): (0, 0.25),
        (train, "--no-such-option"): (2, 0.25),
        ("-m", "ldm", "evaluate", "--help"): (0, 0.25),
        (train, "nowhere.yaml"): (2, 0.65),
        (train, FOLDER): (2, 0.65),
        (train, FOLDER, "data_root=x", "+data.params.train.params.corp=x"): (2, 0.65),
    }
    for arguments, (status, limit) in limits.items():
        seconds = min(_run(*arguments, status=status) for _ in range(3))
        assert seconds < limit * torch, (arguments, seconds, torch)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_an_example_and_explains_every_option(program: str) -> None:
    family = next(family for family, names in FAMILIES.items() if program in names)
    command = importlib.import_module(f"ldm.cli.commands.{family}.{program}")
    parser: argparse.ArgumentParser = command._parser()
    assert f"ldm {program}" in str(parser.description).partition("Examples:")[2]
    unexplained = [action.dest for action in parser._actions if not action.help]
    assert not unexplained
