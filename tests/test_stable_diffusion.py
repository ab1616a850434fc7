"""A checkpoint with the layout of Stable Diffusion: read, sampled, fine-tuned, in diffusers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from ldm.compat.diffusers.pipeline import pipeline_from_configs
from ldm.config import load_config
from ldm.errors import CheckpointError, ConfigError
from ldm.export import differences, export
from ldm.load.model import load_model
from ldm.samplers.ddim import DDIM
from tests.compat.first_stages import vq
from tests.conditioners.clips import OPEN, TEXT
from tests.stable_diffusion import MODEL, UNCONDITIONAL, build, published, write_checkpoint

library = pytest.importorskip("diffusers")

PROMPTS = ["a red fox, 2 metres tall; it's PAINTED", "x" * 90]
SAME = {"weights": 0.0, "latents": 0.0, "images": 0.0, "predictions": 0.0}


def latents(
    model: Any, prompts: list[str], start: Tensor, steps: int = 5, spacing: str = "uniform"
) -> Tensor:
    """Ours: DDIM, eta 0, guidance 7.5."""
    batch = {"tokens": model.conditioners[0].tokenizer(prompts)}
    with torch.no_grad():
        denoise = model.denoise(model.condition(batch), model.unconditional(batch), 7.5)
        steps_made = list(
            DDIM(steps, spacing=spacing)(denoise, start, model.schedule, torch.randn_like)
        )
    return steps_made[-1].x


def fine_tuned(model: Any, steps: int = 2) -> Any:
    model = copy.deepcopy(model).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1,
        "tokens": model.conditioners[0].tokenizer(PROMPTS),
    }
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch, generator)[0].backward()
        optimizer.step()
    return model.eval()


def pipeline(folder: Path) -> Any:
    found = library.StableDiffusionPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    found.set_progress_bar_config(disable=True)
    return found


CONFIG = OmegaConf.create({"model": MODEL})


@pytest.fixture
def start() -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def test_from_a_checkpoint_to_diffusers(tmp_path: Path, start: Tensor) -> None:
    original = build()
    file = write_checkpoint(tmp_path / "sd-v1-4.ckpt", original, shift=1.0)
    model: Any = load_model(CONFIG, file)
    assert differences(model, original) == SAME, "the averaged weights"
    before = latents(model, PROMPTS, start)
    assert before.abs().max() > 0.5
    assert torch.equal(before, latents(original, PROMPTS, start))

    tuned = fine_tuned(model)
    moved = differences(model, tuned)
    assert moved["predictions"] > 1e-3
    assert moved["images"] == 0
    for key, value in model.conditioners[0].state_dict().items():
        assert torch.equal(tuned.conditioners[0].state_dict()[key], value), "CLIP is frozen"

    export(tuned, CONFIG, tmp_path / "pipeline", "diffusers")
    theirs = pipeline(tmp_path / "pipeline")
    assert theirs.safety_checker is None
    want = latents(tuned, PROMPTS, start)
    options = {"height": 16, "width": 16, "guidance_scale": 7.5, "eta": 0.0}
    got = theirs(
        PROMPTS, latents=start, num_inference_steps=5, output_type="latent", **options
    ).images
    assert (want - before).abs().max() > 1e-2, "training was to change something"
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
    assert (
        theirs.tokenizer(PROMPTS[0]).input_ids[:3]
        == tuned.conditioners[0].tokenizer(PROMPTS[:1])[0, :3].tolist()
    )

    theirs.save_pretrained(tmp_path / "saved")
    for folder in ("pipeline", "saved"):
        again: Any = load_model(tmp_path / folder)
        assert differences(again, tuned) == SAME
        torch.testing.assert_close(latents(again, PROMPTS, start), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("version", [1, 2])
def test_configuration_of_the_original(version: int, tmp_path: Path, start: Tensor) -> None:
    """The YAML of v1 or v2 in small, with a file in its layout."""
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text(json.dumps({**TEXT, "model_type": "clip"}))
    encoders = "ldm.modules.encoders.modules."
    unet = {
        "image_size": 32,  # unused
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "attention_resolutions": [1, 2],
        "num_res_blocks": 1,
        "channel_mult": [1, 2],
        "num_heads": 8,
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": TEXT["hidden_size"],
        "use_checkpoint": True,
        "legacy": False,
    }
    text: dict[str, Any] = {
        "target": f"{encoders}FrozenCLIPEmbedder",
        "params": {"version": str(tmp_path / "clip"), "max_length": 8},
    }
    params: dict[str, Any] = {
        "linear_start": 0.00085,
        "linear_end": 0.0120,
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "timesteps": 1000,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": 64,
        "channels": 4,
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "monitor": "val/loss_simple_ema",
        "scale_factor": 0.18215,
        "use_ema": False,
    }
    if version == 2:
        del unet["num_heads"]
        unet |= {"num_head_channels": 16, "use_linear_in_transformer": True, "use_fp16": True}
        arch: Any = OPEN
        text = {
            "target": f"{encoders}FrozenOpenCLIPEmbedder",
            "params": {"arch": arch, "version": None, "layer": "penultimate", "max_length": 8},
        }
        params |= {"parameterization": "v"}
    params["unet_config"] = {
        "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
        "params": unet,
    }
    ddconfig = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    params["first_stage_config"] = {
        "target": "ldm.models.autoencoder.AutoencoderKL",
        "params": {
            "embed_dim": 4,
            "monitor": "val/rec_loss",
            "ddconfig": ddconfig,
            "lossconfig": {"target": "torch.nn.Identity"},
        },
    }
    params["cond_stage_config"] = text
    model = {
        "base_learning_rate": 1.0e-04,
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": params,
    }
    file = tmp_path / "v-inference.yaml"
    OmegaConf.save(OmegaConf.create({"model": model}), file)
    native = OmegaConf.to_container(load_config(file, complete=False).model)
    assert isinstance(native, dict)
    native["params"]["conditioners"][0]["params"] |= (
        {"path": None, "config": TEXT} if version == 1 else {}
    )
    original = build(native)
    write_checkpoint(tmp_path / "sd.ckpt", original)
    loaded: Any = load_model(file, tmp_path / "sd.ckpt")
    assert differences(loaded, original) == SAME
    want = latents(original, PROMPTS, start, steps=2)
    assert torch.equal(latents(loaded, PROMPTS, start, steps=2), want)
    assert isinstance(loaded.denoiser.middle_block[1].proj_in, nn.Linear) is (version == 2)
    if version == 1:
        export(loaded, OmegaConf.create({"model": native}), tmp_path / "out", "diffusers")
        again: Any = load_model(tmp_path / "out")
        torch.testing.assert_close(latents(again, PROMPTS, start, steps=2), want)


def test_second_to_last_layer_of_the_text_encoder(tmp_path: Path, start: Tensor) -> None:
    node = copy.deepcopy(MODEL)
    node["params"]["conditioners"][0]["params"]["layer"] = "penultimate"
    node["params"]["prediction"] = {"target": "ldm.diffusion.V"}
    model = build(node)
    export(model, OmegaConf.create({"model": node}), tmp_path, "diffusers")
    assert (
        json.loads((tmp_path / "text_encoder" / "config.json").read_text())["num_hidden_layers"]
        == 2
    )
    options = {"output_type": "latent", "height": 16, "width": 16}
    for steps, spacing in ((7, "strided"), (3, "uniform")):  # 7 does not divide 1000
        found = pipeline(tmp_path)(PROMPTS, latents=start, num_inference_steps=steps, **options)
        want = latents(model, PROMPTS, start, steps, spacing)
        torch.testing.assert_close(found.images, want, rtol=0, atol=1e-4)
    again = load_model(tmp_path)
    torch.testing.assert_close(latents(again, PROMPTS, start, steps=3), want, rtol=0, atol=5e-5)


@pytest.mark.parametrize("first_stage", ["kl", "vq"])
def test_unconditional_models(first_stage: str, tmp_path: Path) -> None:
    node = copy.deepcopy(UNCONDITIONAL)
    if first_stage == "vq":
        node["params"]["autoencoder"] = vq()
    model = build(node)
    export(model, OmegaConf.create({"model": node}), tmp_path, "diffusers")
    theirs = library.LDMPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    theirs.set_progress_bar_config(disable=True)
    side = json.loads((tmp_path / "unet" / "config.json").read_text())["sample_size"]
    assert side == 8
    generator = torch.Generator().manual_seed(1)
    got = theirs(2, generator, num_inference_steps=4, output_type="np").images
    start = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        denoise = model.denoise(model.condition({}))
        steps = list(DDIM(steps=4)(denoise, start, model.schedule, torch.randn_like))
        want = (model.decode(steps[-1].x) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert want.std() > 0.05
    torch.testing.assert_close(torch.from_numpy(got), want, rtol=0, atol=1e-4)
    assert differences(load_model(tmp_path), model) == SAME


# -- strictness -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"model.diffusion_model.out.2.bias": None}, r"1 missing \(denoiser\.out\.2\.bias\)"),
        ({"cond_stage_model.x": torch.ones(1)}, r"1 unexpected \(conditioners\.0\.x\)"),
        (
            {"first_stage_model.quant_conv.bias": torch.ones(3)},
            r"1 of another shape \(autoencoder\.quant_conv\.bias: \(3,\) in the file, \(8,\)",
        ),
        ({"betas": torch.full((1000,), 0.1)}, "its noise schedule differs from the config's"),
        ({"model_ema.diffusion_modelout": torch.ones(1)}, "1 averaged weights belong to no weight"),
    ],
)
def test_misfits_are_refused(damage: dict[str, Any], message: str, tmp_path: Path) -> None:
    state = published(build()) | damage
    for key, value in damage.items():
        if value is None:
            del state[key]
            del state["model_ema." + key.removeprefix("model.").replace(".", "")]
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(CONFIG, tmp_path / "a.ckpt")
    assert "\n" not in str(error.value)


def test_missing_parts_of_a_pipeline(tmp_path: Path) -> None:
    export(build(), CONFIG, tmp_path, "diffusers")
    (tmp_path / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"text_encoder has no model\.safetensors or pytorch"):
        load_model(tmp_path)
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ConfigError, match="StableDiffusionPipeline: it has no folder scheduler"):
        load_model(tmp_path)


PARTS = {
    "": {"_class_name": "StableDiffusionPipeline"},
    "unet": {"_class_name": "UNet2DConditionModel"},
    "vae": {"_class_name": "AutoencoderKL"},
    "scheduler": {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear"},
    "text_encoder": {"architectures": ["CLIPTextModel"], "hidden_size": 768},
    "tokenizer": {"pad_token": {"content": "!"}},
}


def test_settings_from_the_hub() -> None:
    node = pipeline_from_configs(PARTS)["params"]
    assert node["schedule"]["params"]["kind"] == "linear"
    assert node["prediction"]["target"].endswith(".Eps")
    clip = node["conditioners"][0]["params"]
    assert clip["path"] is None
    assert clip["tokenizer"]["params"]["pad"] == "zero"
    noise = {"_class_name": "DDIMScheduler", "trained_betas": [0.1, 0.2]}
    noise |= {"prediction_type": "v_prediction"}
    node = pipeline_from_configs(PARTS | {"scheduler": noise})["params"]
    assert node["schedule"]["params"] == {"betas": [0.1, 0.2]}
    assert node["prediction"]["target"].endswith(".V")


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("", {"_class_name": "StableDiffusionXLPipeline"}, "StableDiffusionXLPipeline has no cou"),
        ("unet", {"in_channels": 9}, "unet: it takes 9 channels where latents have 4"),
        ("scheduler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "scheduler: FlowMatch"),
        ("scheduler", {"beta_schedule": "sigmoid"}, "scheduler.beta_schedule: 'sigmoid' has no"),
        ("scheduler", {"prediction_type": "flow"}, "scheduler.prediction_type: 'flow' has no"),
        ("scheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr=True has no"),
        ("text_encoder", {"architectures": ["T5EncoderModel"]}, "text_encoder: .*T5EncoderModel"),
        ("tokenizer", {"pad_token": "<pad>"}, "tokenizer: pad_token '<pad>' has no counterpart"),
    ],
)
def test_pipelines_without_counterpart(part: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        pipeline_from_configs(PARTS | {part: PARTS[part] | changes})
    assert "\n" not in str(error.value)


def changed(**params: Any) -> dict[str, Any]:
    node = copy.deepcopy(MODEL)
    node["params"] |= params
    return node


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"conditioners": []}, "no pipeline of diffusers fits this UNet without conditioners"),
        ({"autoencoder": vq()}, "StableDiffusionPipeline works with AutoencoderKL only"),
        (
            {"conditioners": [{"target": "ldm.conditioners.ClassLabel", "params": {}}]},
            "diffusers has no pipeline for ClassLabel, only for ldm.conditioners.CLIPText",
        ),
        (
            {
                "schedule": {
                    "target": "ldm.diffusion.NoiseSchedule",
                    "params": {"kind": "sqrt"},
                }
            },
            "schedule.params.kind: diffusers has no 'sqrt'",
        ),
        ({"prediction": {"target": "mine.Score"}}, "prediction: diffusers has no mine.Score"),
    ],
)
def test_not_in_diffusers(params: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = OmegaConf.create({"model": changed(**params)})
    with pytest.raises(ConfigError, match=message):
        export(build(), config, tmp_path / "out", "diffusers")
    assert not (tmp_path / "out").exists()
