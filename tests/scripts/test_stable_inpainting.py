"""Stable Diffusion's inpainting model in small: read, sampled, exported, in diffusers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from ldm.config import load_config
from ldm.data.inpainting.blending import hide
from ldm.diffusion.sampling import run_sampler
from ldm.errors import ConfigError
from ldm.export import differences, export
from ldm.load.model import load_model
from ldm.samplers.ddim import DDIM
from tests.conditioners.clips import TEXT
from tests.scripts.conftest import Outcome
from tests.stable_diffusion import MODEL, build, write_checkpoint

library = pytest.importorskip("diffusers")

PROMPTS = ["a red fox", "x" * 90]
SAME = {"weights": 0.0, "latents": 0.0, "images": 0.0, "predictions": 0.0}
SCALE = 0.18215
INPUTS = [
    {"target": "ldm.conditioners.ResizedMask", "params": {"low": 0.0}},
    {"target": "ldm.conditioners.LatentImage", "params": {"scale": SCALE, "hidden": 0.0}},
]


def inpainting_node() -> dict[str, Any]:
    node = copy.deepcopy(MODEL)
    node["params"]["conditioners"] += copy.deepcopy(INPUTS)
    node["params"]["denoiser"]["params"]["in_channels"] = 9
    return node


def sure_of_its_latents(model: Any) -> Any:
    """Posteriors without variance: diffusers draws from them."""
    with torch.no_grad():
        model.autoencoder.quant_conv.weight[4:] = 0
        model.autoencoder.quant_conv.bias[4:] = -30
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return sure_of_its_latents(build(inpainting_node()))


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    export(model, OmegaConf.create({"model": inpainting_node()}), folder, "diffusers")
    return folder


def images() -> tuple[Tensor, Tensor]:
    """Images (2, 3, 16, 16) in [-1, 1] and their holes (2, 1, 16, 16)."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(2, 1, 16, 16)
    masks[0, :, 3:9, 5:12] = 1
    masks[1, :, ::3, 1:] = 1
    return torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1, masks


def ours(model: Any, start: Tensor, steps: int, rescale: float = 0.0) -> Tensor:
    pictures, masks = images()
    batch = {
        "tokens": model.conditioners[0].tokenizer(PROMPTS),
        "mask": masks,
        "masked_image": hide(pictures, masks, 0.0),
    }
    with torch.no_grad():
        denoise = model.conditional_denoise(batch, 7.5, rescale)
        sampler = DDIM(steps, spacing="strided")
        return run_sampler(sampler, denoise, start, model.schedule, torch.randn_like)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_the_pipeline_of_diffusers_gives_the_same(model: Any, folder: Path, rescale: float) -> None:
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = library.StableDiffusionInpaintPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    theirs.set_progress_bar_config(disable=True)
    pictures, masks = images()
    if rescale:  # that pipeline has no such option
        scale = library.pipelines.stable_diffusion.pipeline_stable_diffusion.rescale_noise_cfg
        step = theirs.scheduler.step
        unet, seen = theirs.unet.forward, {}

        def forward(*args: Any, **options: Any) -> Any:
            seen["text"] = (result := unet(*args, **options))[0].chunk(2)[1]
            return result

        theirs.unet.forward = forward
        theirs.scheduler.step = lambda noise, *args, **options: step(
            scale(noise, seen["text"], rescale), *args, **options
        )
    got = theirs(
        PROMPTS,
        image=pictures / 2 + 0.5,
        mask_image=masks,
        latents=start,
        height=16,
        width=16,
        num_inference_steps=7,
        guidance_scale=7.5,
        strength=1.0,
        output_type="latent",
    ).images
    want = ours(model, start, 7, rescale)
    torch.testing.assert_close(got, want, rtol=0, atol=2e-4)
    assert (ours(model, start, 7, 0.5) - want).abs().max() > 1e-3, "rescaling was to change them"


def test_there_and_back(model: Any, folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionInpaintPipeline"
    again: Any = load_model(folder)
    assert differences(again, model) == SAME
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours(again, start, 3), ours(model, start, 3), rtol=0, atol=1e-5)


def test_what_the_paper_has_is_another_model() -> None:
    """Its conventions have no pipeline, and are not exported as if they had."""
    for key, value in (("low", -1.0), ("scale", 1.0), ("hidden", -1.0)):
        node = inpainting_node()
        part = next(p for p in node["params"]["conditioners"] if key in p["params"])
        part["params"][key] = value
        with pytest.raises(ConfigError, match="no pipeline for CLIPText, ResizedMask, LatentImage"):
            export(build(node), OmegaConf.create({"model": node}), Path("none"), "diffusers")


def original(tmp_path: Path, **changes: Any) -> Path:
    """The YAML of the inpainting model in small."""
    (tmp_path / "clip").mkdir(exist_ok=True)
    (tmp_path / "clip" / "config.json").write_text(json.dumps({**TEXT, "model_type": "clip"}))
    modules = "ldm.modules."
    unet = {
        **{"image_size": 32, "in_channels": 9, "out_channels": 4, "model_channels": 32},
        **{"attention_resolutions": [2], "num_res_blocks": 1, "channel_mult": [1, 2]},
        **{"num_heads": 8, "use_spatial_transformer": True, "transformer_depth": 1},
        **{"context_dim": TEXT["hidden_size"], "use_checkpoint": True, "legacy": False},
    }
    ddconfig = {
        **{"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3},
        **{"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": []},
        "dropout": 0.0,
    }
    first_stage = {
        **{"embed_dim": 4, "monitor": "val/rec_loss", "ddconfig": ddconfig},
        "lossconfig": {"target": "torch.nn.Identity"},
    }
    clip = {"version": str(tmp_path / "clip"), "max_length": 8}
    params = {
        **{"linear_start": 0.00085, "linear_end": 0.0120, "num_timesteps_cond": 1},
        **{"log_every_t": 200, "timesteps": 1000, "first_stage_key": "jpg"},
        **{"cond_stage_key": "txt", "image_size": 64, "channels": 4, "scale_factor": SCALE},
        **{"cond_stage_trainable": False, "conditioning_key": "hybrid", "use_ema": False},
        **{"monitor": "val/loss_simple_ema", "finetune_keys": None},
        "unet_config": {
            "target": f"{modules}diffusionmodules.openaimodel.UNetModel",
            "params": unet,
        },
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": first_stage,
        },
        "cond_stage_config": {
            "target": f"{modules}encoders.modules.FrozenCLIPEmbedder",
            "params": clip,
        },
    } | changes
    target = "ldm.models.diffusion.ddpm.LatentInpaintDiffusion"
    file = tmp_path / "v1-inpainting-inference.yaml"
    model = {"base_learning_rate": 7.5e-05, "target": target, "params": params}
    OmegaConf.save(OmegaConf.create({"model": model}), file)
    return file


def test_configuration_and_checkpoint_of_the_original(tmp_path: Path) -> None:
    file = original(tmp_path)
    native: Any = OmegaConf.to_container(load_config(file, complete=False).model)
    assert native["params"]["conditioners"][1:] == INPUTS
    native["params"]["conditioners"][0]["params"] |= {"path": None, "config": TEXT}
    made = build(native)
    write_checkpoint(tmp_path / "sd-v1-5-inpainting.ckpt", made)
    loaded: Any = load_model(file, tmp_path / "sd-v1-5-inpainting.ckpt")
    assert differences(loaded, made) == SAME
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    assert torch.equal(ours(loaded, start, 2), ours(made, start, 2))
    export(loaded, OmegaConf.create({"model": native}), tmp_path / "back", "compvis")
    again: Any = load_model(file, tmp_path / "back" / "model.ckpt")
    assert differences(again, made) == SAME


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditioning_key": "concat"}, "conditioning_key: .*set hybrid"),
        ({"scale_by_std": True, "scale_factor": 1.0}, "scale_by_std: .*needs a scale_factor"),
        ({"concat_keys": ["masked_image", "mask"]}, "concat_keys: "),
        ({"masked_image_key": "hole"}, "masked_image_key: "),
    ],
)
def test_what_has_no_counterpart(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(original(tmp_path, **changes), complete=False)


def test_inpaint_py_runs_it(
    script: Callable[..., Outcome], folder: Path, model: Any, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    hole = np.zeros((16, 16), np.uint8)
    hole[4:12, 4:12] = 255
    Image.fromarray(pixels).save(pictures / "a.png")
    Image.fromarray(hole).save(pictures / "a_mask.png")
    options = ("--prompt", "a red fox", "--guidance", "7.5", "--guidance-rescale", "0.5")
    outcome = script(
        "inpaint.py", folder, pictures, *options, "--steps", "2", "--out", tmp_path / "out"
    )
    assert outcome.code == 0, outcome.err
    made = np.asarray(Image.open(tmp_path / "out" / "images" / "a.png"))
    assert (made[hole == 0] == pixels[hole == 0]).all()
    assert (made[hole > 0] != pixels[hole > 0]).any()
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert record["settings"]["guidance_rescale"] == 0.5
    assert record["settings"]["method"] == "inpainting model"
    wrong = script("txt2img.py", folder, "--prompt", "a", "--out", tmp_path / "text")
    assert (wrong.code, "inpaint.py" in wrong.err) == (2, True)
    nothing = script("inpaint.py", folder, pictures, "--guidance-rescale", "0.5")
    assert (nothing.code, "no effect without --guidance" in nothing.err) == (2, True)
