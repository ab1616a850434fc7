"""The second act of the quickstart, as far as it goes without training."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from ldm.conditioners.tokenizers import BertTokenizer, vocabulary_of

ROOT = Path(__file__).parents[2]
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


def test_what_it_calls_is_there() -> None:
    text = ACT.read_text()
    for name in re.findall(r"(?:scripts|configs)/[\w/]+\.(?:py|yaml)", text):
        assert (ROOT / name).is_file(), name


def test_twelve_prompts_of_each_kind(tmp_path: Path) -> None:
    lines = {name: (PROMPTS / f"{name}.txt").read_text().splitlines() for name in ("seen", "new")}
    assert {name: len(set(prompts)) for name, prompts in lines.items()} == {"seen": 12, "new": 12}
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary_of(lines["seen"] + lines["new"])))
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"), length=20)
    assert not any(tokenizer.cut_off(prompt) for prompt in lines["seen"] + lines["new"])
