"""What importing the library pulls in: as little as each package needs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import ldm
from ldm import load

LIGHT = ("ldm", "ldm.errors", "ldm.files", "ldm.config", "ldm.cli.app", "ldm.cli.options.sampling")
"""Come before PyTorch, when a program reads options and YAML."""
PACKAGES = (
    *("ldm.layers", "ldm.autoencoders", "ldm.denoisers", "ldm.conditioners", "ldm.losses"),
    *("ldm.diffusion", "ldm.samplers", "ldm.data", "ldm.visualization", "ldm.evaluation"),
    *("ldm.load", "ldm.export"),
)
HEAVY = (
    *("pytorch_lightning", "lightning", "lightning_fabric", "transformers", "diffusers"),
    *("open_clip", "faiss", "matplotlib"),
)
REPORT = """
import importlib, json, sys
light, packages, heavy = json.loads(sys.argv[1])
found = {}
for name in [*light, *packages]:
    importlib.import_module(name)
    wanted = ["torch", *heavy] if name in light else heavy
    found[name] = [module for module in wanted if module in sys.modules]
print(json.dumps(found))
"""


def test_packages_leave_heavy_libraries_to_those_who_need_them() -> None:
    arguments = json.dumps([LIGHT, PACKAGES, HEAVY])
    done = subprocess.run(
        [sys.executable, "-c", REPORT, arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: [] for name in (*LIGHT, *PACKAGES)}


def test_load_model_at_the_top() -> None:
    assert ldm.load_model is load.load_model
    assert set(ldm.__all__) == {"__version__", "load_model"}
    with pytest.raises(AttributeError, match="module 'ldm' has no attribute 'load_models'"):
        ldm.load_models  # type: ignore[attr-defined]  # noqa: B018
