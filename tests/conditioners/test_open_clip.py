from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image

from ldm.conditioners.open_clip import OpenCLIPImage, OpenCLIPText
from ldm.conditioners.tokenizers import ClipTokenizer
from ldm.errors import CheckpointError, ConfigError, DataError
from tests.conditioners.clips import OPEN, ids


@pytest.fixture
def theirs(tmp_path: Path) -> tuple[open_clip.CLIP, str]:
    """A whole model of open_clip, and a file with its weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**OPEN).eval()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    file = tmp_path / "open_clip_model.safetensors"
    save_file(model.state_dict(), file)
    return model, str(file)


def _text(pretrained: str | None = None, **options: Any) -> OpenCLIPText:
    return OpenCLIPText(OPEN, pretrained, **{"length": 8, **options})


def test_pooled_text_is_encode_text(theirs: tuple[open_clip.CLIP, str]) -> None:
    model, file = theirs
    text = _text(file, layer="pooled")
    value = ids(3, 0, 6)
    with torch.no_grad():
        expected = model.encode_text(value, normalize=True)
    torch.testing.assert_close(text(value), expected[:, None], rtol=0, atol=1e-6)
    assert text.dim == 6
    assert not text(value).requires_grad


@pytest.mark.parametrize(("layer", "index"), [("last", -1), ("penultimate", -2)])
def test_layers_are_those_of_open_clip(
    theirs: tuple[open_clip.CLIP, str], layer: Any, index: int
) -> None:
    model, file = theirs
    text = _text(file, layer=layer).double()  # float32 rounds by 1e-6 on some processors
    value = ids(3, 0, 6)
    with torch.no_grad():
        found = model.double().forward_intermediates(
            text=value, text_indices=3, normalize_intermediates=True, intermediates_only=True
        )
    expected = found["text_intermediates"][index]
    torch.testing.assert_close(text(value), expected, rtol=0, atol=1e-6)
    # causal: what follows does not matter
    torch.testing.assert_close(text(value[:, :5]), expected[:, :5], rtol=0, atol=1e-6)
    assert text.dim == 8


def test_parameters_have_the_names_of_stable_diffusion_2() -> None:
    with torch.device("meta"):
        text = OpenCLIPText("ViT-H-14", "laion2b_s32b_b79k")  # asks for no file
    names = list(text.state_dict())
    assert names[:4] == [
        "model.positional_embedding",
        "model.text_projection",
        "model.logit_scale",
        "model.transformer.resblocks.0.ln_1.weight",
    ]
    assert "model.transformer.resblocks.23.attn.in_proj_weight" in names
    assert "model.transformer.resblocks.0.mlp.c_fc.bias" in names
    assert names[-3:] == [
        "model.token_embedding.weight",
        "model.ln_final.weight",
        "model.ln_final.bias",
    ]
    assert len(names) == 24 * 12 + 6
    assert sum(p.numel() for p in text.parameters()) == 354_032_641
    assert text.dim == 1024
    assert text.frozen


def test_images_are_prepared_and_encoded_as_in_open_clip(
    theirs: tuple[open_clip.CLIP, str],
) -> None:
    model, file = theirs
    image = torch.rand(1, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    image = (image * 255).round() / 255
    prepare = open_clip.image_transform(8, is_train=False)
    with torch.no_grad():
        pixels = prepare(to_pil_image(image[0]))[None]
        expected = model.encode_image(pixels, normalize=True)
    encoder = OpenCLIPImage(OPEN, file)
    torch.testing.assert_close(
        encoder._prepare(image * 2 - 1), pixels, rtol=0, atol=0.02
    )  # PIL rounds to 256 values
    torch.testing.assert_close(encoder(image * 2 - 1), expected[:, None], rtol=0, atol=0.02)
    with torch.no_grad():  # without resizing nothing is rounded
        small = model.encode_image(encoder._prepare(image[..., :8, :8] * 2 - 1), normalize=True)
    found = encoder(image[..., :8, :8] * 2 - 1)
    torch.testing.assert_close(found, small[:, None], rtol=0, atol=1e-6)
    assert encoder.dim == 6
    assert all(name.startswith("model.visual.") for name in encoder.state_dict())


def test_no_image_is_a_zero_embedding(theirs: tuple[open_clip.CLIP, str]) -> None:
    encoder = OpenCLIPImage(OPEN, theirs[1])
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = encoder(images)
    images[1] = encoder.null(1, images)[0]
    found = encoder(images)
    assert torch.equal(found[1], torch.zeros(1, 6))
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])
    torch.testing.assert_close(found[0].norm(), torch.tensor(1.0))


def test_text_and_image_meet_in_one_space(theirs: tuple[open_clip.CLIP, str]) -> None:
    """What a retrieval database of images is searched with may be a text."""
    text, image = _text(theirs[1], layer="pooled"), OpenCLIPImage(OPEN, theirs[1])
    similarity = F.cosine_similarity(text(ids(3)), image(torch.zeros(1, 3, 8, 8)), dim=-1)
    with torch.no_grad():
        model = theirs[0]
        pixels = image._prepare(torch.zeros(1, 3, 8, 8))
        expected = F.cosine_similarity(model.encode_text(ids(3)), model.encode_image(pixels))
    torch.testing.assert_close(similarity[:, 0], expected, rtol=0, atol=1e-6)


def test_a_tag_is_looked_up_in_the_cache_first(
    theirs: tuple[open_clip.CLIP, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(name: str, file: str, local_files_only: bool = False) -> str:
        asked.append((name, file, local_files_only))
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-H-14", OPEN)  # not a gigabyte
    text = OpenCLIPText("ViT-H-14", "laion2b_s32b_b79k", length=8)
    assert asked == []
    name = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    with pytest.raises(CheckpointError, match=f"'{name}' here or on the hub: give as pretrained"):
        text(ids(3))
    files = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    assert asked == [(name, file, local) for local in (True, False) for file in files]


def test_the_activation_is_that_of_the_weights() -> None:
    """OpenAI trained with another GELU than the architecture of that name says."""
    with torch.device("meta"):
        openai = OpenCLIPText("ViT-B-32", "openai").model.transformer.resblocks[0].mlp.gelu
        laion = OpenCLIPText("ViT-B-32", "laion2b_s34b_b79k").model.transformer.resblocks[0]
    assert type(openai).__name__ == "QuickGELU"
    assert type(laion.mlp.gelu).__name__ == "GELU"


def test_a_file_that_is_not_there_or_of_another_size(
    tmp_path: Path, theirs: tuple[open_clip.CLIP, str]
) -> None:
    text = _text(str(tmp_path / "absent.bin"))
    with pytest.raises(CheckpointError, match=r"absent\.bin: no such file; give as pretrained"):
        text(ids(3))
    other = {**OPEN, "text_cfg": {**OPEN["text_cfg"], "layers": 2}}
    with pytest.raises(CheckpointError, match="12 are missing, surplus or of another shape"):
        OpenCLIPText(other, theirs[1], length=8)(ids(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "ViT-X"}, "arch='ViT-X': open_clip has no such architecture"),
        ({"arch": "xlm-roberta-base-ViT-B-32"}, "not built like that of CLIP"),
        ({"arch": {"embed_dim": 3}}, "arch: a description needs text_cfg, vision_cfg"),
        ({"arch": "ViT-B-32", "pretrained": "best"}, "'best': no file and no weights of ViT-B-32"),
        ({"pretrained": "openai"}, "'openai' needs the name of an architecture"),
        ({"layer": "first"}, "layer must be one of last, penultimate, pooled"),
        ({"length": 77}, "the encoder takes 1 to 8 tokens"),
        ({"drop_prob": 0.1}, "needs a tokenizer"),
        ({"in_checkpoint": False}, "needs pretrained weights"),
        ({"tokenizer": ClipTokenizer(7, "zero")}, "makes 7 ids of 49408"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OpenCLIPText(**{"arch": OPEN, "length": 8, **options})


def test_bad_values() -> None:
    with pytest.raises(DataError, match=r"'tokens' must be int64 ids of shape \(B, any\)"):
        _text()(torch.zeros(1, 8))
    with pytest.raises(DataError, match=r"'image' must be float of shape \(B, 3, any, any\)"):
        OpenCLIPImage(OPEN)(torch.zeros(1, 1, 8, 8))


def test_null_is_the_empty_text() -> None:
    text = _text(tokenizer=ClipTokenizer(8, "zero"), drop_prob=0.5)
    assert text.null(2, ids(1)).tolist() == [[49406, 49407, *[0] * 6]] * 2


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ConfigError, match="pip install open_clip_torch"):
        OpenCLIPText()
