"""Programs of data, and of the latent cache, refuse bad input before PyTorch is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.experiments import CONFIGS

FOLDER = str(CONFIGS / "folder" / "text.yaml")
CASES = (
    ("data.build_index", ["nowhere"], "nowhere: no such folder"),
    ("data.build_index", [".", "--threads", "0"], "--threads 0: must be at least 1"),
    ("data.build_index", [".", "--index", "ivf", "--cells", "0"], "--cells 0: must be at least 1"),
    ("data.build_index", [".", "--clip", "none.json"], "--clip none.json: no such file"),
    ("data.show_data", ["none.yaml"], "none.yaml: no such configuration file"),
    ("data.show_data", [FOLDER], "needs data_root: give data_root=VALUE"),
    ("data.show_data", [FOLDER, "data_root=x", "--epoch", "-1"], "--epoch and --seconds not"),
    ("data.show_data", [FOLDER, "data_root=x", "+data.params.train.params.sise=3"], "sise"),
    ("data.write_scenes", ["new", "--num", "4", "--seed", "-1"], "--seed -1 is negative"),
    ("data.write_scenes", ["new", "--num", "4", "--size", "8"], "--size 8 is below 16 pixels"),
    ("data.write_scenes", [".", "--num", "4"], "was not written by this script"),
    ("training.cache_latents", ["--out", "new"], "give a config file"),
    ("training.cache_latents", [FOLDER, "--out", "new"], "data_root: mandatory value is missing"),
    ("training.cache_latents", [FOLDER, "data_root=x", "--out", "."], "holds other files"),
    ("training.cache_latents", [FOLDER, "--out", "new", "--verify"], "is no latent cache"),
    (
        "training.cache_latents",
        [FOLDER, "data_root=x", "+data.params.train.params.sise=3", "--out", "new"],
        "data.params.train.params.sise: unknown key for ldm.data.ImageFolder",
    ),
)
_PROGRAM = """
import importlib, json, sys
from ldm.errors import UserError
said = []
for name, arguments in json.load(sys.stdin):
    try:
        importlib.import_module(f"ldm.cli.commands.{name}").parse(arguments)
    except UserError as error:
        said.append([str(error), "torch" in sys.modules])
print(json.dumps(said))
"""


def test_what_cannot_work_is_said_before_pytorch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    asked = json.dumps([case[:2] for case in CASES])
    command = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(
        command, input=asked, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    assert len(said) == len(CASES)
    for (name, _, words), (message, with_torch) in zip(CASES, said, strict=True):
        assert words in message, name
        assert not with_torch, name
