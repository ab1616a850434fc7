from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm.conditioners.clip import CLIPText
from ldm.conditioners.tokenizers import ClipTokenizer
from ldm.errors import CheckpointError, ConfigError, DataError
from tests.conditioners.clips import TEXT, ids, text_model, write_folder


def _clip(path: str | None, **options: Any) -> CLIPText:
    return CLIPText(path, **{"length": 8, **options})


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that nobody reaches; the names that it was asked for."""
    asked: list[str] = []

    def download(name: str, file: str, **_: Any) -> str:
        asked.append(f"{name}/{file}")
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_last_layer_is_that_of_transformers(tmp_path: Path) -> None:
    clip = _clip(write_folder(tmp_path))
    value = ids(3, 0, 6)
    with torch.no_grad():
        expected = text_model()(value).last_hidden_state
    assert torch.equal(clip(value), expected)
    assert clip(value).shape == (3, 8, 8)
    assert clip.dim == 8


def test_penultimate_layer_is_the_last_of_a_model_without_the_last(tmp_path: Path) -> None:
    clip = _clip(write_folder(tmp_path), layer="penultimate")
    shorter = text_model()
    del shorter.encoder.layers[-1]
    value = ids(3, 0, 6)
    with torch.no_grad():
        expected = shorter(value).last_hidden_state
    torch.testing.assert_close(clip(value), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(clip(value), _clip(str(tmp_path))(value), atol=1e-2)


def test_parameters_have_the_names_of_stable_diffusion_1() -> None:
    with torch.device("meta"):
        clip = CLIPText()  # neither files nor hub
    names = list(clip.state_dict())
    assert names[:2] == [
        "transformer.text_model.embeddings.token_embedding.weight",
        "transformer.text_model.embeddings.position_embedding.weight",
    ]
    assert "transformer.text_model.encoder.layers.11.self_attn.out_proj.bias" in names
    assert "transformer.text_model.encoder.layers.0.mlp.fc1.weight" in names
    assert names[-1] == "transformer.text_model.final_layer_norm.bias"
    assert len(names) == 196
    # OpenAI's ViT-L/14: the text transformer without its projection
    assert sum(p.numel() for p in clip.parameters()) == 123_060_480
    assert clip.dim == 768


def test_it_is_frozen(tmp_path: Path) -> None:
    clip = _clip(write_folder(tmp_path))
    assert clip.frozen
    assert not any(p.requires_grad for p in clip.parameters())
    assert not clip(ids(2)).requires_grad


def test_files_of_older_transformers(tmp_path: Path) -> None:
    """The whole model in one file, in half precision, with position ids, and as a pickle."""
    expected = _clip(write_folder(tmp_path / "new"))(ids(3))
    own = load_file(tmp_path / "new" / "model.safetensors")
    whole = {f"text_model.{name}": value for name, value in own.items()}
    whole["text_model.embeddings.position_ids"] = torch.arange(8)[None]
    whole["vision_model.post_layernorm.bias"] = torch.zeros(3)
    whole["logit_scale"] = torch.tensor(1.0)
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text((tmp_path / "new" / "config.json").read_text())
    torch.save(whole, old / "pytorch_model.bin")
    assert torch.equal(_clip(str(old))(ids(3)), expected)
    halves = {k: v.half() if v.is_floating_point() else v for k, v in whole.items()}
    save_file(halves, old / "model.safetensors")
    assert torch.allclose(_clip(str(old))(ids(3)), expected, atol=1e-2)
    assert _clip(str(old))(ids(3)).dtype == torch.float32


def test_weights_are_read_when_needed_and_not_if_a_checkpoint_brings_them(
    no_hub: list[str],
) -> None:
    """Building and loading ask for nothing; encoding without weights does."""
    clip = _clip("some/clip", config=TEXT)
    value = ids(3)
    with pytest.raises(CheckpointError, match=r"no model.safetensors or .* of 'some/clip'.*: give"):
        clip(value)
    assert set(no_hub) == {"some/clip/model.safetensors", "some/clip/pytorch_model.bin"}
    no_hub.clear()
    brought = _clip(None, config=TEXT)
    clip.load_state_dict(brought.state_dict())
    assert torch.equal(clip(value), brought(value))
    assert no_hub == []


def test_values_of_its_own_bring_no_weights(tmp_path: Path) -> None:
    """A loader may fill up what a file lacks with what the module holds already."""
    expected = _clip(write_folder(tmp_path))(ids(3))
    clip = _clip(str(tmp_path))
    clip.load_state_dict(clip.state_dict())
    assert torch.equal(clip(ids(3)), expected)


def test_copies_read_too(tmp_path: Path) -> None:
    clip = copy.deepcopy(_clip(write_folder(tmp_path)))
    assert torch.equal(clip(ids(3)), _clip(str(tmp_path))(ids(3)))


def test_weights_outside_the_checkpoint_are_read_at_once(tmp_path: Path, no_hub: list[str]) -> None:
    clip = _clip(write_folder(tmp_path), in_checkpoint=False)
    weights: Tensor = clip.transformer.text_model.final_layer_norm.weight
    assert torch.equal(weights, text_model().final_layer_norm.weight)
    assert not clip.in_checkpoint
    with pytest.raises(CheckpointError, match="'some/clip'"):
        _clip("some/clip", config=TEXT, in_checkpoint=False)
    with torch.device("meta"):  # a dry run
        _clip("some/clip", config=TEXT, in_checkpoint=False)


def test_the_hubs_sizes_need_its_config(no_hub: list[str]) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json of 'some/clip' here .*: give"):
        _clip("some/clip")
    assert no_hub == ["some/clip/config.json"] * 2  # the cache, then the hub


def test_a_folder_that_is_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder; give"):
        _clip(str(tmp_path / "absent"))
    with pytest.raises(CheckpointError, match=r"has no config\.json: give"):
        _clip(str(tmp_path))


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    clip = _clip(write_folder(tmp_path), config={**TEXT, "num_hidden_layers": 2})
    with pytest.raises(CheckpointError, match="16 are missing, surplus or of another shape"):
        clip(ids(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "first"}, "layer must be one of last, penultimate, got 'first'"),
        ({"length": 9}, "length=9 of 'tokens': the encoder takes 1 to 8 tokens"),
        ({"drop_prob": 0.1}, r"drop_prob=0\.1 of 'tokens' needs a tokenizer"),
        ({"in_checkpoint": False}, "needs pretrained weights: give the path"),
        ({"tokenizer": ClipTokenizer(7)}, "makes 7 ids of 49408, but .* length=8 ids of 49408"),
        ({"config": {**TEXT, "hidden_sizes": 8}}, r"config\.hidden_sizes: unknown"),
        ({"config": {**TEXT, "num_attention_heads": 3}}, "config: .* multiple"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _clip(None, **{"config": TEXT, **options})


def test_bad_values() -> None:
    clip = _clip(None, config=TEXT)
    with pytest.raises(DataError, match=r"'tokens' must be int64 ids of shape \(B, any\)"):
        clip(torch.zeros(1, 8))
    with pytest.raises(DataError, match="holds 9 tokens per text, more than 8"):
        clip(torch.zeros(1, 9, dtype=torch.int64))
    with pytest.raises(DataError, match="token 49408 is outside"):
        clip(torch.full((1, 8), 49408))


def test_null_is_the_empty_text() -> None:
    clip = _clip(None, config=TEXT, tokenizer=ClipTokenizer(8), drop_prob=0.5)
    assert clip.null(2, ids(1)).tolist() == [[49406, *[49407] * 7]] * 2
    with pytest.raises(ConfigError, match="guidance needs a tokenizer"):
        _clip(None, config=TEXT).null(1, ids(1))
