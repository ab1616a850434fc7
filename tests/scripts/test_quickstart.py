"""The quickstart and its second act, as far as they go without training."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from ldm.conditioners.tokenizers import BertTokenizer, vocabulary_of

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "quickstart.sh"
ACT = ROOT / "scripts" / "_quickstart_emoji.sh"
PROMPTS = ROOT / "configs" / "emoji"


def test_without_pictures_and_npm_it_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for tool in ("cat", "mkdir"):
        os.symlink(str(shutil.which(tool)), tmp_path / "bin" / tool)
    outcome = subprocess.run(
        [str(shutil.which("bash")), "-c", f"set -euo pipefail; source {ACT}"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 2
    assert "error: data/emoji holds no pictures, and there is no npm" in outcome.stderr
    assert "bash scripts/quickstart.sh emoji THE_FILE" in outcome.stderr
    assert not (tmp_path / "runs").exists()


def test_what_they_call_is_there() -> None:
    text = SCRIPT.read_text() + ACT.read_text()
    for name in re.findall(r"(?:scripts|configs|data/scenes)/[\w/]+\.(?:py|yaml|sh|txt)", text):
        assert (ROOT / name).is_file(), name


def _quickstart(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(shutil.which("bash")), str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_help_installs_nothing() -> None:
    outcome = _quickstart("--help")
    assert outcome.returncode == 0
    assert outcome.stdout.startswith("A latent diffusion model end to end")
    assert "quickstart.sh emoji [PICTURES]" in outcome.stdout


def test_help_is_there_from_any_folder() -> None:
    script = SCRIPT.relative_to(ROOT.parent)
    outcome = subprocess.run(
        ["bash", str(script), "--help"], cwd=ROOT.parent, capture_output=True, text=True
    )
    assert outcome.stdout.startswith("A latent diffusion model end to end")


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_emoji_calls_the_programs_with_what_was_given(tmp_path: Path) -> None:
    """Pictures below the user's folder; macOS puts spaces before a number of lines."""
    home = tmp_path / "home"
    _program(
        home / "bin" / "python",
        f"""
        case "$*" in *json.load*) echo 7 ;; *torch*) exit 1 ;; esac
        for word; do printf '%s|' "$word"; done >>{home}/calls; echo >>{home}/calls""",
    )
    _program(home / "bin" / "wc", f"printf '%8d\\n' $({shutil.which('wc')} \"$@\")")
    for script in (SCRIPT, ACT):
        _program(home / "ldm" / "scripts" / script.name, script.read_text())
    (home / "ldm" / "scripts" / "_environment.sh").write_text("")
    data = home / "ldm" / "data" / "emoji"
    data.mkdir(parents=True)
    (data / "classes.txt").write_text("face\nfood\n")
    (data / "vocab.txt").write_text("word\n" * 3000)
    subprocess.run(
        ["bash", "ldm/scripts/quickstart.sh", "emoji", "my pictures"],
        cwd=home,
        env=os.environ | {"PATH": f"{home / 'bin'}:{os.environ['PATH']}"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    calls = (home / "calls").read_text()
    assert f"scripts/pack_pictures.py|{home}/my pictures|--out|data/emoji|" in calls
    assert "emoji/features.yaml|num_classes=2|" in calls
    assert "data.yaml|vocab_size=3000|num_classes=2|--if-exists|resume|" in calls


def test_an_unknown_part_is_refused() -> None:
    outcome = _quickstart("emojis")
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("error: quickstart.sh emojis: there is no such part")


def test_it_forecasts_from_the_first_steps(tmp_path: Path) -> None:
    """The seconds of the steps scale with their speed, those of starting programs do not."""
    text = SCRIPT.read_text()
    function = text[text.index("pace=") : text.index("forecast()")]
    pace = float(re.findall(r"pace=(\d+)", function)[0])
    found = []
    for rate in (pace, pace / 2):
        row = {"step": 20, "perf/images_per_second": rate, "perf/data_wait": 0.1}
        later = row | {"step": 40, "perf/images_per_second": 9999.0}
        (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(later)}\n")
        code = f"set -euo pipefail; first={tmp_path}; {function} left 0; echo; left 2"
        outcome = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        found.append([float(line.split()[0]) for line in outcome.stdout.splitlines()])
    work, start = (
        [int(n) for n in re.findall(rf"{name}=\(([\d ]+)\)", function)[0].split()]
        for name in ("work", "start")
    )
    for (whole, last), factor in zip(found, (1, 2), strict=True):
        assert abs(whole * 60 - factor * sum(work) - sum(start)) < 4
        assert abs(last * 60 - factor * work[2] - start[2]) < 4


def test_there_is_no_forecast_before_the_first_steps(tmp_path: Path) -> None:
    text = SCRIPT.read_text()
    function = text[text.index("pace=") : text.index("forecast()")]
    for rows in (None, '{"step": 1, "train/loss": 0.5}\n'):
        if rows:
            (tmp_path / "metrics.jsonl").write_text(rows)
        code = f"first={tmp_path}; {function} left 0"
        outcome = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
        assert outcome.returncode == 1
        assert not outcome.stdout


def test_twelve_prompts_of_each_kind(tmp_path: Path) -> None:
    lines = {name: (PROMPTS / f"{name}.txt").read_text().splitlines() for name in ("seen", "new")}
    assert {name: len(set(prompts)) for name, prompts in lines.items()} == {"seen": 12, "new": 12}
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary_of(lines["seen"] + lines["new"])))
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"), length=20)
    assert not any(tokenizer.cut_off(prompt) for prompt in lines["seen"] + lines["new"])
