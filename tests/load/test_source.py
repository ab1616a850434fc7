"""Finding config and weights in folders of every layout; what is said when they are not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from ldm.checkpoint import read_state, save
from ldm.compat.diffusers.autoencoder import WEIGHTS, to_config, to_diffusers
from ldm.config import save_config
from ldm.errors import CheckpointError, ConfigError
from ldm.load.model import load_model, locate
from tests.compat.first_stages import KINDS, build, images, kl

NODE = kl()


def write_diffusers(folder: Path, node: dict[str, Any] = NODE, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_config(node, 0.5) | changes))
    save(to_diffusers(build(node).state_dict()), folder / WEIGHTS)
    return folder


def write_native(folder: Path, weights: str) -> Path:
    save_config(OmegaConf.create({"model": NODE}), folder / "config.yaml")
    state = build(NODE).state_dict()
    save({"state_dict": state} if weights.endswith("ckpt") else state, folder / weights)
    return folder


# -- this library and the published layout ----------------------------------------------------


@pytest.mark.parametrize("weights", ["checkpoints/last.ckpt", "model.safetensors", "model.ckpt"])
def test_native_folders(weights: str, tmp_path: Path) -> None:
    folder = write_native(tmp_path / "x", weights)
    for source in (folder, str(folder), folder / weights):
        found = locate(source)
        assert found.weights_file() == folder / weights
        assert found.config().model == NODE
    assert locate(folder, "other.ckpt").weights_file() == Path("other.ckpt")


def test_a_model_needs_no_data(tmp_path: Path) -> None:
    config = tmp_path / "ae.yaml"
    data = "data_root: ???\ndata: {root: '${data_root}'}\n"
    config.write_text(OmegaConf.to_yaml({"model": NODE}) + data)
    save(build(NODE).state_dict(), tmp_path / "ae.ckpt")
    load_model(config, tmp_path / "ae.ckpt")
    config.write_text(config.read_text().replace("embed_dim: 4", "embed_dim: ???"))
    with pytest.raises(ConfigError, match=r"model\.params\.embed_dim"):
        load_model(config, tmp_path / "ae.ckpt")


@pytest.mark.parametrize("name", ["mine.ckpt", "v1.5.pt", "x.safetensors"])
def test_a_folder_may_be_called_like_a_file(name: str, tmp_path: Path) -> None:
    folder = write_native(tmp_path / name, "checkpoints/last.ckpt")
    assert locate(folder).weights_file() == folder / "checkpoints" / "last.ckpt"


def test_a_run_goes_first(tmp_path: Path) -> None:
    write_native(tmp_path, "model.safetensors")
    write_native(tmp_path, "checkpoints/best.ckpt")
    write_diffusers(tmp_path / "vae")
    assert locate(tmp_path).weights_file().name == "best.ckpt"
    with pytest.raises(CheckpointError, match=r"has no checkpoints/last\.ckpt"):
        locate(tmp_path, "last").weights_file()


def test_nothing_to_find(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not a run folder, it has no config\.yaml; nor one of"):
        locate(tmp_path).config()
    with pytest.raises(CheckpointError, match=r"gone\.ckpt: no such checkpoint file"):
        locate(tmp_path / "gone.ckpt")
    alone = tmp_path / "alone.ckpt"
    torch.save({}, alone)
    with pytest.raises(ConfigError, match=r"alone\.ckpt: no config\.yaml beside it; give its con"):
        locate(alone)
    config = write_native(tmp_path / "x", "model.ckpt") / "config.yaml"
    with pytest.raises(CheckpointError, match="a config alone has no weights"):
        locate(config).weights_file()


# -- diffusers --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["kl-attention", "vq"])
@pytest.mark.parametrize("inside", ["", "vae", "vqvae"])
def test_folders_of_diffusers(kind: str, inside: str, tmp_path: Path) -> None:
    folder = write_diffusers(tmp_path / "pipeline" / inside, KINDS[kind])
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    for source in (tmp_path / "pipeline", folder, folder / WEIGHTS):
        assert locate(source).weights_file() == folder / WEIGHTS
        assert locate(source).config().scale_factor == 0.5
        model = load_model(source)
        assert not model.training
        for key, value in build(KINDS[kind]).state_dict().items():
            assert torch.equal(model.state_dict()[key], value)


def test_pickled_weights_of_diffusers(tmp_path: Path) -> None:
    folder = write_diffusers(tmp_path / "vae")
    state = read_state(folder / WEIGHTS).state_dict
    (folder / WEIGHTS).unlink()
    torch.save(state, folder / "diffusion_pytorch_model.bin")
    assert locate(folder).weights_file().suffix == ".bin"
    load_model(folder)
    (folder / "diffusion_pytorch_model.bin").rename(folder / "diffusion_pytorch_model.fp16.bin")
    with pytest.raises(CheckpointError, match=r"give one of these as checkpoint: diff.*fp16\.bin"):
        load_model(folder)
    load_model(folder, folder / "diffusion_pytorch_model.fp16.bin")
    load_model(folder / "diffusion_pytorch_model.fp16.bin")
    with pytest.raises(CheckpointError, match="is a folder of diffusers and has no 'best'"):
        load_model(folder, "best")


@pytest.mark.parametrize("absent", [["quant_conv"], ["post_quant_conv"], "both"])
def test_models_without_1x1_convolutions(absent: list[str] | str, tmp_path: Path) -> None:
    library = pytest.importorskip("diffusers")
    names = ["quant_conv", "post_quant_conv"] if absent == "both" else list(absent)
    config = to_config(NODE) | {f"use_{name}": False for name in names}
    config.pop("_class_name")
    torch.manual_seed(0)
    theirs = library.AutoencoderKL(**config).eval()
    theirs.save_pretrained(tmp_path)
    ours: Any = load_model(tmp_path)
    x = images(NODE)
    with torch.no_grad():
        posterior = theirs.encode(x).latent_dist
        want = [posterior.mean, posterior.logvar, theirs.decode(posterior.mean).sample]
        got = [ours.encode(x).mean, ours.encode(x).logvar, ours.decode(posterior.mean)]
    for a, b in zip(got, want, strict=True):
        assert float((a - b).abs().max()) <= 1e-5
    state = read_state(tmp_path / WEIGHTS).state_dict
    del state["quant_conv.weight" if absent == ["post_quant_conv"] else "encoder.conv_in.weight"]
    save(state, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"1 missing \((quant_conv|encoder\.conv_in)\.weight"):
        load_model(tmp_path)


def test_two_autoencoders_in_one_folder(tmp_path: Path) -> None:
    write_diffusers(tmp_path / "vae")
    write_diffusers(tmp_path / "vqvae")
    with pytest.raises(ConfigError, match="holds vae and vqvae; name one of them"):
        load_model(tmp_path)
    load_model(tmp_path / "vae")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"a": ' + "9" * 5000 + "}", "cannot be read as JSON"),
        ("\xff\xfe\x00", "cannot be read as JSON"),
        ("[1]", "expected the settings of a model, got a list"),
        ("{}", "_class_name: missing; only AutoencoderKL, VQModel and"),
        ('{"_class_name": "UNet3DConditionModel"}', "'UNet3DConditionModel'; only AutoencoderKL"),
        ('{"_class_name": "AutoencoderKL", "act_fn": "relu"}', r"AutoencoderKL\.act_fn: .*'relu'"),
        ('{"_class_name": "AutoencoderKL", "scaling_factor": NaN}', "scaling_factor: expected a"),
    ],
)
def test_malformed_descriptions(text: str, message: str, tmp_path: Path) -> None:
    folder = write_diffusers(tmp_path / "vae")
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as error:
        load_model(folder)
    assert str(error.value).startswith(f"{folder / 'config.json'}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "claims",
    [
        {"block_out_channels": [2**16, 2**16]},
        {"latent_channels": 2**20, "use_quant_conv": False},
        {"layers_per_block": 64},
        {"in_channels": 2**20},
        {"norm_num_groups": 1, "mid_block_add_attention": False},
    ],
)
def test_descriptions_of_another_model(claims: dict[str, Any], tmp_path: Path) -> None:
    """Refused by comparison with the file, before the memory that they ask for is taken."""
    folder = write_diffusers(tmp_path / "vae", **claims)
    with pytest.raises(CheckpointError, match="does not fit the model") as error:
        load_model(folder)
    assert str(folder / WEIGHTS) in str(error.value)
