from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.errors import CheckpointError, ConfigError
from ldm.evaluation.metrics.alignment import clip_score
from ldm.evaluation.networks.base import features_of
from ldm.evaluation.networks.clip import clip, clip_texts
from ldm.evaluation.networks.registry import network
from ldm.files import file_sha256
from tests.conditioners.clips import OPEN

open_clip = pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = open_clip.model.CLIP(**OPEN)
        for parameter in built.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return built.eval()


@pytest.fixture
def files(model: nn.Module, tmp_path: Path) -> tuple[str, Path]:
    """The description of a small CLIP, and its weights."""
    (tmp_path / "small.json").write_text(json.dumps(OPEN))
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    return str(tmp_path / "small.json"), tmp_path / "clip.pt"


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def test_equals_open_clip_with_its_own_transform(model: nn.Module, files: tuple[str, Path]) -> None:
    got = network(f"clip:{files[0]}", files[1])
    assert got.name == "clip:small"
    assert got.outputs == {"embedding": 6}
    assert got.weights_sha256 == file_sha256(files[1])
    images = [noise(8, 8), noise(20, 13, 1), noise(9, 30, 2)]
    transform = open_clip.image_transform(8, is_train=False)
    pictures = [Image.fromarray(np.asarray(x.permute(1, 2, 0))) for x in images]
    with torch.no_grad():
        want = model.encode_image(torch.stack([transform(picture) for picture in pictures]))
    features = features_of(got, images)["embedding"]
    assert torch.allclose(features, want, atol=1e-5)
    assert features.std(0).min() > 1e-3


def test_clip_score_equals_open_clip(model: nn.Module, files: tuple[str, Path]) -> None:
    captions = ["a red square", "Two circles"]
    texts = clip_texts(*files)(captions)
    tokenize = open_clip.tokenizer.SimpleTokenizer(context_length=8)
    with torch.no_grad():
        want = model.encode_text(tokenize(captions))
    assert torch.allclose(texts, want, atol=1e-5)
    images = features_of(clip(*files), [noise(8, 8), noise(8, 8, 1)])["embedding"]
    cosines = F.cosine_similarity(images, want).clamp_min(0)
    assert clip_score(images, texts).mean == pytest.approx(100 * float(cosines.mean()), abs=1e-4)


def test_wrong_names(files: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such architecture"):
        clip("ViT-Q-1", tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="--weights PATH"):
        clip(files[0])
    with pytest.raises(CheckpointError, match=r"nowhere.pt: no such file"):
        clip(files[0], tmp_path / "nowhere.pt")
