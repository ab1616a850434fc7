"""A wheel in an environment of its own, outside the clone: trains, samples, evaluates."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from tests.training import tiny

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "ldm", "configs")
FEATURES = ("--features", "ldm.evaluation.SceneFeatures")
SEVERAL = """
import runpy, sys
command, *lines = sys.argv[1:]
for line in lines:
    sys.argv = [command, *line.split()]
    try:
        runpy.run_path(command, run_name="__main__")
    except SystemExit as end:
        assert not end.code, (line, end.code)
"""
"""Calls of the command ``ldm`` one after another, which pay for imports once."""


def _run(*command: object, folder: Path, status: int = 0) -> str:
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made from a copy, since building leaves files beside its sources."""
    copy = tmp_path_factory.mktemp("clone")
    unneeded = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=unneeded)
        else:
            shutil.copy(ROOT / name, copy / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps")
    _run(*pip, "--no-build-isolation", "--no-index", "-w", copy / "dist", copy, folder=copy)
    (file,) = (copy / "dist").glob("ldm-*.whl")
    return file


@pytest.fixture(scope="module")
def binaries(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment with the wheel, and what it depends on from the one of the tests.

    That is named by a path, so that its .pth files, and with them an editable ``ldm``, have no say.
    """
    place = tmp_path_factory.mktemp("environment")
    _run(sys.executable, "-m", "venv", "--without-pip", place, folder=place)
    (packages,) = place.glob("lib/*/site-packages")
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(sorted(paths)) + "\n")
    python = place / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    options = ("--no-deps", "--no-index", "--ignore-installed", "--no-compile")
    _run(*pip, "install", *options, wheel, folder=place)
    return place / "bin"


def test_a_wheel_holds_library_programs_and_presets(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    own = {
        str(file.relative_to(ROOT)).replace(os.sep, "/") for file in (ROOT / "ldm").rglob("*.py")
    }
    assert own | {"ldm/py.typed"} <= set(names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"ldm"}
    data = {name.partition("/data/share/ldm/configs/")[2] for name in names}
    for folder in ("evaluation", "evaluation/published", "toy"):
        files = (ROOT / "configs" / folder).glob("*.yaml")
        assert {f"{folder}/{file.name}" for file in files} <= data


def test_a_wheel_trains_samples_and_evaluates(binaries: Path, tmp_path: Path) -> None:
    config = tiny.class2img(name="mine", image_size=16, trainer={"max_steps": 3})
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config))
    (tmp_path / "real").mkdir()
    for k in range(8):
        Image.effect_noise((16, 16), 20 * k + 20).convert("RGB").save(tmp_path / f"real/{k}.png")
    evaluate = " ".join(("evaluate runs/mine/generated --real real", *FEATURES))
    said = _run(
        binaries / "python",
        *("-c", SEVERAL, binaries / "ldm"),
        "train config.yaml",
        "sample runs/mine --num 8 --steps 2",
        f"{evaluate} --metrics fd --out fd.json",
        f"{evaluate} --preset laptop --out laptop.json",
        folder=tmp_path,
    )
    assert "runs/mine: complete at step 3" in said
    assert "litlogger" not in said  # Lightning's advice, which it gives at the level of a log
    assert len(list((tmp_path / "runs/mine/generated").rglob("*.png"))) >= 8
    (only,) = json.loads((tmp_path / "fd.json").read_text())["measurements"]
    report = json.loads((tmp_path / "laptop.json").read_text())["measurements"]
    assert only["name"] == "fd"
    assert {"fd", "precision", "density"} <= {measurement["name"] for measurement in report}


def test_the_command_works_anywhere(binaries: Path, tmp_path: Path) -> None:
    code = "import ldm, ldm.places; print(ldm.__file__, ldm.places.configs_folder())"
    module, configs = _run(binaries / "python", "-c", code, folder=tmp_path).split()
    assert Path(module).is_relative_to(binaries.parent)
    assert Path(configs) == binaries.parent / "share" / "ldm" / "configs"
    said = _run(binaries / "ldm", "train", "configs/a.yaml", folder=tmp_path, status=2)
    assert said.startswith("error: configs/a.yaml: no such configuration file in ")
    assert "ldm-paper" in _run(binaries / "ldm", "evaluate", "--help", folder=tmp_path)
