from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.loss import ClipLoss
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.utils.data import default_collate

from ldm.conditioners.contrastive import ContrastiveCLIP
from ldm.conditioners.open_clip import OpenCLIPImage, OpenCLIPText
from ldm.conditioners.tokenizers import ClipTokenizer
from ldm.data.scenes.dataset import SceneDataset
from ldm.errors import ConfigError, DataError
from tests.conditioners.clips import OPEN, ids


def _model(arch: Any = OPEN, **options: Any) -> ContrastiveCLIP:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ContrastiveCLIP(arch, **options)
        for name, parameter in model.named_parameters():
            if name != "logit_scale":
                parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return model


def _batch(*words: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(len(words), 3, 8, 8, generator=generator) * 2 - 1
    return {"image": images, "tokens": ids(*words)}


def _theirs(model: ContrastiveCLIP) -> open_clip.CLIP:
    theirs = open_clip.CLIP(**OPEN)
    theirs.load_state_dict(model.state_dict())  # strict: all names and shapes
    return theirs


def test_it_is_the_clip_of_open_clip() -> None:
    model, batch = _model(), _batch(3, 0, 6)
    theirs = _theirs(model)
    assert model.state_dict().keys() == theirs.state_dict().keys()
    pixels = batch["image"].add(1).div(2).sub(model.mean).div(model.std)
    embeddings, texts = model(batch["image"], batch["tokens"])
    expected = theirs.encode_image(pixels, normalize=True)
    torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-6)
    expected = theirs.encode_text(batch["tokens"], normalize=True)
    torch.testing.assert_close(texts, expected, rtol=0, atol=1e-6)


def test_without_equal_texts_the_loss_and_its_gradients_are_those_of_clip() -> None:
    model, batch = _model(), _batch(3, 0, 6)
    theirs = _theirs(model)
    pixels = batch["image"].add(1).div(2).sub(model.mean).div(model.std)
    expected = ClipLoss()(*theirs(pixels, batch["tokens"]))
    loss = model.loss(batch)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)
    loss.backward()
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-5)


def test_equal_texts_share_their_images() -> None:
    """Two scenes with one caption: neither is wrong for it."""
    model, batch = _model(), _batch(3, 6, 0)
    batch["tokens"][1] = batch["tokens"][0]
    embeddings, texts = model(batch["image"], batch["tokens"])
    logits = embeddings @ texts.T / 0.07
    rows, columns = logits.log_softmax(1), logits.log_softmax(0)
    pairs = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    expected = -(pairs * (rows + columns)).sum() / 6
    torch.testing.assert_close(model.loss(batch), expected, rtol=0, atol=1e-5)


def test_a_network_that_tells_nothing_apart() -> None:
    model, batch = _model(), _batch(3, 0, 6, 2)
    with torch.no_grad():
        model.text_projection.zero_()
    assert model.loss(batch).item() == pytest.approx(math.log(4))
    assert model.accuracy(batch) == 0.25


def test_the_scale_starts_as_that_of_clip_and_is_bounded() -> None:
    model, batch = _model(), _batch(3, 0, 6)
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(100))
        bounded = model.loss(batch)
        model.logit_scale.fill_(20)
    assert torch.equal(model.loss(batch), bounded)


def test_accuracy_counts_any_image_with_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = _model(), _batch(3, 6, 0, 2)
    batch["tokens"][1] = batch["tokens"][0]
    axes = torch.eye(4)
    # Nearest images of the texts: 1 (the same text), 1, 2 and 0 (wrong).
    monkeypatch.setattr(model, "forward", lambda *_: (axes, axes[[1, 1, 2, 0]]))
    assert model.accuracy(batch) == 0.75


def test_it_learns_scenes_and_the_frozen_halves_take_its_file(tmp_path: Path) -> None:
    """From nothing to every caption of a batch at its image, then into the two encoders."""
    described = {
        "embed_dim": 32,
        "text_cfg": {**OPEN["text_cfg"], "context_length": 16, "width": 16, "layers": 1},
        "vision_cfg": {**OPEN["vision_cfg"], "image_size": 16, "width": 32, "head_width": 16},
    }
    arch = tmp_path / "arch.json"
    arch.write_text(json.dumps(described))
    tokenizer = ClipTokenizer(16, pad="zero")
    scenes = SceneDataset(16, 16, num_objects=(1, 2), tokenizer=tokenizer)
    batch = default_collate([scenes[i] for i in range(16)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ContrastiveCLIP(str(arch), tokenizer)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    first = model.loss(batch).item()
    assert model.accuracy(batch) < 0.4
    for _ in range(100):
        loss = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2 * first
    assert model.accuracy(batch) > 0.85

    file = tmp_path / "model.safetensors"
    save_file(model.state_dict(), file)
    text = OpenCLIPText(str(arch), str(file), layer="pooled", length=16)
    image = OpenCLIPImage(str(arch), str(file))
    embeddings, texts = model(batch["image"], batch["tokens"])
    torch.testing.assert_close(text(batch["tokens"])[:, 0], texts, rtol=0, atol=1e-6)
    torch.testing.assert_close(image(batch["image"])[:, 0], embeddings, rtol=0, atol=1e-6)
    assert F.cosine_similarity(embeddings, texts).mean() > 0.5


def test_bad_batches_name_the_entry() -> None:
    model, batch = _model(), _batch(3, 0)
    with pytest.raises(DataError, match="hold no 'tokens': give the data set a tokenizer"):
        model.loss({"image": batch["image"]})
    with pytest.raises(DataError, match="hold no 'image'"):
        model.accuracy({"tokens": batch["tokens"]})
    with pytest.raises(DataError, match="9 tokens per text, more than 8"):
        model.loss({**batch, "tokens": ids(3, 0, length=9)})
    with pytest.raises(DataError, match=r"'image' must be float of shape \(B, 3, any, any\)"):
        model.loss({**batch, "image": torch.zeros(2, 1, 8, 8)})


def test_bad_arguments(tmp_path: Path) -> None:
    small = {**OPEN, "text_cfg": {**OPEN["text_cfg"], "vocab_size": 128}}
    with pytest.raises(ConfigError, match="makes 7 ids of 49408, but the encoder"):
        ContrastiveCLIP(small, ClipTokenizer(7, "zero"))
    with pytest.raises(ConfigError, match="the encoder takes 1 to 8 tokens"):
        ContrastiveCLIP(OPEN, ClipTokenizer(9, "zero"))
    with pytest.raises(ConfigError, match=r"absent\.json': cannot be read as JSON: "):
        ContrastiveCLIP(str(tmp_path / "absent.json"))
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(
        ConfigError, match=r"list\.json': expected values by name, got list; it must describe"
    ):
        ContrastiveCLIP(str(tmp_path / "list.json"))
