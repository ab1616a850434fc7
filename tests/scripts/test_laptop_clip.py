"""The small CLIP of configs/laptop: from a run to a file of weights for the frozen encoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch

from ldm.conditioners.open_clip import OpenCLIPImage, OpenCLIPText
from ldm.conditioners.tokenizers import ClipTokenizer
from ldm.config import load_config
from ldm.load.model import load_model
from ldm.training.run import train
from ldm.training.run_folder import RunFolder
from tests.experiments import CONFIGS, ROOT, shrunk
from tests.scripts.conftest import Outcome

ARCH = str(ROOT / "data" / "scenes" / "clip.json")
CONFIG = CONFIGS / "laptop" / "clip.yaml"


@torch.no_grad()
def test_a_run_becomes_a_file_that_both_encoders_read(
    script: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # the architecture is named from there
    run, weights = tmp_path / "run", tmp_path / "run" / "weights"
    train(load_config(CONFIG, overrides=shrunk(CONFIG)), RunFolder(run))
    found = script("convert.py", run, "--to", "native", "--out", weights)
    assert found.code == 0, found.err
    assert "ContrastiveCLIP" in found.out
    assert "weights differ by 0" in found.out

    file = str(weights / "model.safetensors")
    model = load_model(run)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ids = ClipTokenizer(16, "zero")(["a red circle", "two blue crosses and a green square"])
    embeddings, texts = model(images, ids)
    text = OpenCLIPText(ARCH, file, layer="pooled", length=16)
    torch.testing.assert_close(text(ids)[:, 0], texts, rtol=0, atol=1e-6)
    image = OpenCLIPImage(ARCH, file)
    torch.testing.assert_close(image(images)[:, 0], embeddings, rtol=0, atol=1e-6)
    again = load_model(weights)  # the folder is a model too
    torch.testing.assert_close(again(images, ids)[1], texts, rtol=0, atol=0)


def test_the_architecture_is_one_that_open_clip_builds() -> None:
    from ldm.conditioners.open_clip import TextTower, _settings

    theirs = open_clip.CLIP(**_settings(ARCH, None))
    longest = "a purple triangle, a yellow square and a purple cross"
    ids = ClipTokenizer(32, "zero")(longest)
    assert (ids != 0).sum() < theirs.context_length  # no caption is cut
    assert TextTower(ARCH, None).width == load_config(CONFIGS / "laptop" / "text_frozen.yaml").get(
        "text_width"
    )
