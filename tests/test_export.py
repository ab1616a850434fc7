"""Exported files in the hands of those who read them: this library, and diffusers itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ldm.checkpoint import read_state, save
from ldm.compat.compvis.weights import TRAINING_ONLY, to_compvis
from ldm.compat.diffusers.autoencoder import WEIGHTS
from ldm.compat.native import read_first_stage
from ldm.config import instantiate, load_config
from ldm.errors import ConfigError
from ldm.export import differences, export, part_of, read_back, round_parameters
from ldm.load.model import load_model, run_config
from tests.compat.first_stages import KINDS, build, images, kl, vq

TOLERANCE = 3e-5  # a loaded model is channels_last: sums in another order
SAME = {"weights": 0.0, "latents": 0.0, "images": 0.0, "predictions": 0.0}
LATENT_DIFFUSION: dict[str, Any] = {
    "target": "ldm.diffusion.LatentDiffusion",
    "params": {
        "scale_factor": 0.25,
        "autoencoder": kl(channels=32, norm_groups=32),
        "schedule": {"target": "ldm.diffusion.NoiseSchedule", "params": {"timesteps": 9}},
        "denoiser": {
            "target": "ldm.denoisers.UNet",
            "params": {
                "in_channels": 4,
                "out_channels": 4,
                "model_channels": 32,
                "channel_mult": [1],
                "num_res_blocks": 1,
                "attention_resolutions": [],
                "num_heads": 1,
                "norm_groups": 32,
            },
        },
    },
}


def config_of(node: dict[str, Any]) -> DictConfig:
    return OmegaConf.create({"model": node})


def in_diffusers(folder: Path) -> Any:
    library = pytest.importorskip("diffusers")
    name = json.loads((folder / "config.json").read_text())["_class_name"]
    model = getattr(library, name).from_pretrained(folder, low_cpu_mem_usage=False)
    return model.eval()


@torch.no_grad()
def way(model: Any, x: Tensor) -> list[Tensor]:
    """Mean and log-variance, or latents before quantisation, and the decoded image."""
    posterior = model.encode(x)
    if hasattr(posterior, "mean"):
        return [posterior.mean, posterior.logvar, model.decode(posterior.mean)]
    return [posterior.z, model.decode(posterior.z), model.decode(posterior.z, quantize=False)]


@torch.no_grad()
def way_of_diffusers(model: Any, x: Tensor) -> list[Tensor]:
    output = model.encode(x)
    if hasattr(output, "latent_dist"):
        z = output.latent_dist.mean
        return [z, output.latent_dist.logvar, model.decode(z).sample]
    z = output.latents
    return [z, model.decode(z).sample, model.decode(z, force_not_quantize=True).sample]


def assert_same(got: list[Tensor], want: list[Tensor]) -> None:
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= TOLERANCE


# -- to diffusers and back --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_compvis_checkpoint_in_diffusers(kind: str, tmp_path: Path) -> None:
    """A file of the original code -> here -> diffusers: the same latents and images; and back."""
    node = KINDS[kind]
    source, x = build(node), images(node)
    state = to_compvis(source.state_dict()) | {"loss.logvar": torch.zeros(())}
    save({"state_dict": state, "optimizer_states": [{"state": {}}]}, tmp_path / "model.ckpt")
    config = config_of(node)
    model = load_model(config, tmp_path / "model.ckpt")
    export(model, config, tmp_path / "vae", "diffusers", scaling_factor=0.5)

    theirs = in_diffusers(tmp_path / "vae")
    assert theirs.config.scaling_factor == 0.5
    want = way(source, x)
    assert_same(way_of_diffusers(theirs, x), want)
    assert max(float(image.std()) for image in want[-2:]) > 0.05, "nothing to compare"

    theirs.save_pretrained(tmp_path / "again" / "vae")
    back = load_model(tmp_path / "again")
    assert_same(way(back, x), want)
    kept = {k: v for k, v in source.state_dict().items() if k not in TRAINING_ONLY}
    assert back.state_dict().keys() == kept.keys()
    assert all(torch.equal(back.state_dict()[key], value) for key, value in kept.items())


@pytest.mark.parametrize("kind", ["kl-attention", "kl-deep"])
def test_only_rounding_differs(kind: str, tmp_path: Path) -> None:
    """At the published widths float32 differs by 2e-5; in float64 the two are one function."""
    node = KINDS[kind]
    model = build(node)
    export(model, config_of(node), tmp_path, "diffusers")
    got = way_of_diffusers(in_diffusers(tmp_path).double(), images(node).double())
    for a, b in zip(got, way(model.double(), images(node).double()), strict=True):
        assert float((a - b).abs().max()) <= 1e-12


def test_codes_are_those_of_diffusers(tmp_path: Path) -> None:
    node = vq(codes=50)
    model = build(node)
    export(model, config_of(node), tmp_path, "diffusers")
    z = torch.randn(3, 4, 9, 7, generator=torch.Generator().manual_seed(0))
    quantized, _, (_, _, indices) = in_diffusers(tmp_path).quantize(z)
    ours = model.quantize(z)
    assert torch.equal(ours.indices.flatten(), indices.flatten())
    assert len(indices.unique()) > 10
    torch.testing.assert_close(ours.z, quantized)


# -- the other formats ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["kl-deep", "vq-32", "vq-noattn-32"])
def test_compvis_folder_describes_itself(kind: str, tmp_path: Path) -> None:
    wide = {"channels": 32, "norm_groups": 32}
    node = {
        "kl-deep": KINDS["kl-deep"],
        "vq-32": vq(3, z_channels=5, attn_resolutions=[8], dropout=0.2, **wide),
        "vq-noattn-32": vq(mid_attention=False, channel_mult=[2, 1], in_channels=1, **wide),
    }[kind]
    model = build(node)
    export(model, config_of(node), tmp_path, "compvis")
    tree = OmegaConf.load(tmp_path / "config.yaml").model
    assert tree.target.startswith("ldm.models.autoencoder.")
    assert tree.params.lossconfig.target == "torch.nn.Identity"
    assert read_state(tmp_path / "model.ckpt").state_dict.keys() == model.state_dict().keys()
    again = load_model(tmp_path)
    assert_same(way(again, images(node)), way(model, images(node)))
    native = OmegaConf.to_container(load_config(tmp_path / "config.yaml").model)
    assert read_first_stage(native) == read_first_stage(node)


def test_upkeep_of_the_codebook_stays_here(tmp_path: Path) -> None:
    node = KINDS["vq-upkeep"]
    model = build(node)
    model.quantize.ema_count.fill_(3.0)
    model.quantize.idle.fill_(5)
    names = set(TRAINING_ONLY)
    assert names < model.state_dict().keys()
    export(model, config_of(node), tmp_path / "native", "native")
    assert (load_model(tmp_path / "native").quantize.idle == 5).all()
    export(model, config_of(node), tmp_path / "vae", "diffusers")
    assert not names & read_state(tmp_path / "vae" / WEIGHTS).state_dict.keys()
    assert not names & to_compvis(model.state_dict()).keys()


@pytest.mark.parametrize("format", ["native", "compvis"])
def test_whole_model(format: str, tmp_path: Path) -> None:
    config = config_of(LATENT_DIFFUSION)
    torch.manual_seed(0)
    model: Any = instantiate(config.model)
    model.denoiser.out[2].weight.data.normal_()
    export(model, config, tmp_path, format)
    again = read_back(tmp_path, config)
    assert differences(model, again) == SAME
    if format == "compvis":
        state = read_state(tmp_path / "model.ckpt").state_dict
        averaged = [key for key in state if key.startswith("model_ema.diffusion_model")]
        assert len(averaged) == len(list(model.denoiser.parameters()))
        assert not (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize("part", ["autoencoder.params.architecture", "denoiser"])
def test_other_groups_than_the_original_has_are_refused(part: str, tmp_path: Path) -> None:
    """No weight tells them, so the original would compute something else without a word."""
    config = config_of(LATENT_DIFFUSION)
    OmegaConf.update(config, f"model.params.{part}.params.norm_groups", 8)
    model = instantiate(config.model)
    with pytest.raises(ConfigError, match=rf"{part}.params.norm_groups: the original code has 32"):
        export(model, config, tmp_path, "compvis")
    assert not list(tmp_path.iterdir())


def test_first_stage_of_a_whole_model(tmp_path: Path) -> None:
    config = config_of(LATENT_DIFFUSION)
    model: Any = instantiate(config.model)
    part, described = part_of(model, config, "autoencoder")
    assert part is model.autoencoder
    assert described.scale_factor == 0.25
    export(part, described, tmp_path, "diffusers", described.scale_factor)
    assert run_config(tmp_path).scale_factor == 0.25
    assert part_of(part, described, "autoencoder") == (part, described)
    with pytest.raises(ConfigError, match="there is no denoiser: the source is AutoencoderKL alon"):
        part_of(part, described, "denoiser")


# -- precision and comparison -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_parameters_only(dtype: torch.dtype, tmp_path: Path) -> None:
    node = KINDS["vq-upkeep"]
    model = build(node)
    export(model, config_of(node), tmp_path, "native", dtype=dtype)
    written = read_state(tmp_path / "model.safetensors").state_dict
    assert written["encoder.conv_in.weight"].dtype == dtype
    assert written["quantize.ema_sum"].dtype == torch.float32
    assert written["quantize.idle"].dtype == torch.int64
    again = load_model(tmp_path)
    assert differences(model, again)["weights"] > 0
    round_parameters(model, dtype)
    assert differences(model, again)["weights"] == 0
    assert model.decoder.conv_in.weight.dtype == torch.float32


def test_differences_are_found() -> None:
    one, other = build(kl()), build(kl())
    assert set(differences(one, other).values()) == {0.0}
    with torch.no_grad():
        other.quant_conv.bias[-1] += 0.5  # the log-variance of one channel
    found = differences(one, other)
    assert found["weights"] == pytest.approx(0.5)
    assert found["latents"] > 0.01
    assert found["images"] == 0
    with torch.no_grad():
        other.decoder.conv_out.bias[0] = torch.nan
    assert math.isnan(differences(one, other)["images"])


def test_identity_and_unknown_formats(tmp_path: Path) -> None:
    node = {"target": "ldm.autoencoders.AutoencoderIdentity", "params": {"channels": 2}}
    model = instantiate(node)
    assert set(differences(model, model).values()) == {0.0}
    with pytest.raises(ConfigError, match="AutoencoderIdentity cannot be exported; only"):
        export(model, config_of(node), tmp_path, "diffusers")
    with pytest.raises(ValueError, match="unknown format 'onnx': choose one of native, compvis"):
        export(model, config_of(node), tmp_path, "onnx")
