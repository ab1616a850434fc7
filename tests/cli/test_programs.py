"""Programs refuse what cannot work before PyTorch is imported, and none is built on another."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import ldm
from ldm.cli.app import FAMILIES

PACKAGE = Path(ldm.__file__).parent
SCRIPTS = PACKAGE.parent / "scripts"
REFUSE = """
import json, sys
from ldm.cli.app import end_with_status, call
for name, arguments, message in json.loads(sys.argv[1]):
    try:
        end_with_status(lambda: call(name, arguments))
    except SystemExit as exit_:
        loaded = [heavy for heavy in ("torch", "numpy", "PIL") if heavy in sys.modules]
        print("refused", name, exit_.code, *loaded, file=sys.stderr)
"""
INPUTS = {
    "sample": [],
    "txt2img": ["--prompt", "a"],
    "img2img": ["IMAGE"],
    "inpaint": ["FOLDER"],
    "superres": ["IMAGE"],
    "layout2img": ["FILE"],
    "semantic2img": ["IMAGE"],
    "retrieve2img": ["--prompt", "a"],
    "walk": ["--seeds", "1,2"],
    "draw_process": [],
}
"""What a program of sampling needs beside a model; names in capitals are files."""
BAD: list[tuple[str, list[str], str]] = [
    ("sample", ["--num-images", "0"], "--num-images 0: must be at least 1"),
    ("sample", ["--tile", "1"], "--tile 1: must be at least 2"),
    ("sample", ["--size", "0", "8"], "--size 0 8: must be positive"),
    ("sample", ["--classifier", "none"], "--classifier none: no such run folder or checkpoint"),
    ("sample", ["--checkpoint", "none.ckpt"], "--checkpoint none.ckpt: no such checkpoint file"),
    ("sample", ["--out", "FILE"], "is a file, not a folder"),
    ("txt2img", ["--prompts", "none.txt"], "--prompts none.txt: no such file"),
    ("txt2img", ["--validation-captions", "0"], "--validation-captions 0: must be at least 1"),
    ("img2img", ["IMAGE", "--strength", "2"], "--strength 2: must be above 0 and at most 1"),
    ("img2img", ["none.png"], "none.png: no such image or folder"),
    ("img2img", ["IMAGE", "--guide-image", "none.png", "--guide-scale", "1"], "none.png: no such"),
    ("inpaint", ["none"], "none: no such folder"),
    ("inpaint", ["FOLDER", "--masks", "none"], "--masks none: no such folder"),
    ("superres", ["none.png"], "none.png: no such image or folder"),
    ("layout2img", ["none.json"], "layouts none.json: no such file"),
    ("layout2img", ["FILE", "--classes", "none.txt"], "--classes none.txt: no such file"),
    ("semantic2img", ["none"], "none: no such label map or folder of them"),
    ("semantic2img", ["IMAGE", "--resize", "0", "4"], "--resize 0 4: must be positive"),
    ("retrieve2img", ["--query", "none.png"], "--query none.png: no such file"),
    ("retrieve2img", ["--prompt", "a", "--database", "none"], "--database none: no such folder"),
    ("walk", ["--labels", "1,two"], "--labels 1,two: give whole numbers"),
    ("walk", ["--images", "none.png", "IMAGE"], "none.png: no such image or folder"),
    ("draw_process", ["--rows", "0"], "--rows 0: must be at least 1"),
    ("draw_process", ["--image", "none.png"], "--image none.png: no such file"),
]


def test_bad_input_is_refused_before_heavy_imports(tmp_path: Path) -> None:
    """--help, a wrong option, a model that is not there, and what each program refuses itself."""
    places = {"RUN": tmp_path / "run", "FOLDER": tmp_path, "FILE": tmp_path / "file"}
    places |= {"IMAGE": tmp_path / "image.png"}
    places["RUN"].mkdir()
    for file in (places["FILE"], places["IMAGE"]):
        file.write_bytes(b"")
    cases = []
    for name, inputs in INPUTS.items():
        cases += [
            (name, ["--help"], 0, ""),
            (name, ["RUN", *inputs, "--typo"], 2, "unrecognized arguments: --typo"),
            (name, ["none", *inputs], 2, "none: no such run folder or checkpoint"),
            (name, ["RUN", *inputs, "--batch-size", "0"], 2, "--batch-size 0: must be at least 1"),
            (name, ["RUN", *inputs, "--steps", "0"], 2, "0 sampling steps: choose at least 1"),
        ]
    cases += [(name, ["RUN", *arguments], 2, message) for name, arguments, message in BAD]
    filled = [
        [name, [str(places.get(item, item)) for item in items], text]
        for name, items, _, text in cases
    ]
    command = [sys.executable, "-c", REFUSE, json.dumps(filled)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    *parts, rest = done.stderr.split("refused ")
    ends = [part.partition("\n")[0] for part in [*parts[1:], rest]]
    assert ends == [f"{name} {status}" for name, _, status, _ in cases]
    messages = [part.rpartition("\n")[0] for part in done.stderr.split("refused ")[:-1]]
    for (name, items, _, text), message in zip(cases, messages, strict=True):
        assert text in message, f"{name} {items}: {message}"


def _imports(file: Path) -> set[str]:
    """Dotted names of the modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_programs_do_not_import_each_other(family: str) -> None:
    files = sorted((PACKAGE / "programs" / family).glob("*.py"))
    assert {file.stem for file in files} == {"__init__", *FAMILIES[family]}
    for file in files:
        others = {name for name in _imports(file) if name.startswith("ldm.programs")}
        assert not others, f"{file.name} imports {sorted(others)}: move it to ldm.cli"


def test_scripts_only_start_programs() -> None:
    files = {file.stem: file for file in SCRIPTS.glob("*.py")}
    assert files.keys() == {name for programs in FAMILIES.values() for name in programs}
    for name, file in files.items():
        own = {item for item in _imports(file) if item != "__future__"}
        assert own == {"ldm.cli.app", "ldm.cli.app.start"}, f"{name}: {sorted(own)}"
        assert f'start("{name}")' in file.read_text()
