from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from ldm.compat.compvis.config import translate, translate_file
from ldm.compat.compvis.weights import from_compvis_classifier, is_compvis_classifier
from ldm.config import instantiate, load_config
from ldm.denoisers.encoder_unet import EncoderUNet
from ldm.denoisers.unet import UNet
from ldm.diffusion.classifier import NoisyLatentClassifier
from ldm.errors import ConfigError
from ldm.training.tasks.classifier import ClassifierTask
from tests.parity import published_configs

ENCODER = "ldm.modules.diffusionmodules.openaimodel.EncoderUNetModel"
CLASSIFIER = "ldm.models.diffusion.classifier.NoisyLatentImageClassifier"


def encoder_params(**changes: Any) -> dict[str, Any]:
    sizes = {
        "image_size": 8,
        "in_channels": 3,
        "model_channels": 32,
        "out_channels": 5,
        "num_res_blocks": 1,
        "attention_resolutions": [2],
        "channel_mult": [1, 2],
        "num_head_channels": 32,
    }
    return sizes | changes


def published_diffusion() -> dict[str, Any]:
    model: dict[str, Any] = published_configs()["configs/latent-diffusion/cin-ldm-vq-f8.yaml"]
    return model["model"]


def classifier(diffusion: Any = None, **params: Any) -> dict[str, Any]:
    diffusion = published_diffusion() if diffusion is None else diffusion
    return {
        "target": CLASSIFIER,
        "params": {"diffusion_path": diffusion, "num_classes": 1000} | params,
    }


def built(node: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return instantiate(node)


def test_an_encoder_has_the_defaults_of_the_original() -> None:
    model = instantiate({"target": ENCODER, "params": encoder_params(context_dim=512)})
    assert isinstance(model, EncoderUNet)
    assert model.pool == "adaptive"
    params = encoder_params(pool="attention")
    del params["channel_mult"]
    assert translate({"target": ENCODER, "params": params})["params"]["channel_mult"] == [
        1,
        2,
        4,
        8,
    ]


def test_the_classifier_of_the_published_diffusion_model() -> None:
    """Its UNet's own settings give the 111.60 M that are printed."""
    model = built(classifier())
    assert isinstance(model, NoisyLatentClassifier)
    assert isinstance(model.network, EncoderUNet)
    assert model.network.pool == "attention"
    assert sum(p.numel() for p in model.network.parameters()) == 111_604_200
    assert model.label_key == "class_label"
    assert model.autoencoder.downsampling_factor == 8


def test_maps_are_classified_by_a_unet() -> None:
    diffusion = published_diffusion()
    diffusion["params"]["cond_stage_key"] = "segmentation"
    diffusion["params"]["cond_stage_config"] = {
        "target": "ldm.modules.encoders.modules.SpatialRescaler",
        "params": {"n_stages": 3, "in_channels": 7, "out_channels": 4},
    }
    diffusion["params"]["conditioning_key"] = "concat"
    diffusion["params"]["unet_config"]["params"] = encoder_params(in_channels=8, out_channels=4)
    model = built(classifier(diffusion, num_classes=7))
    assert isinstance(model.network, UNet)
    assert (model.network.in_channels, model.network.out_channels) == (4, 7)
    assert model.label_key == "segmentation"


def test_an_experiment_becomes_a_task(tmp_path: Path) -> None:
    schedule = {
        "target": "ldm.lr_scheduler.LambdaLinearScheduler",
        "params": {
            "warm_up_steps": [10],
            "cycle_lengths": [100],
            "f_start": [0.1],
            "f_max": [1.0],
            "f_min": [0.5],
        },
    }
    tree = {
        "model": classifier(scheduler_config=schedule) | {"base_learning_rate": 1e-6},
        "data": published_configs()["configs/latent-diffusion/cin-ldm-vq-f8.yaml"]["data"],
    }
    file = tmp_path / "classifier.yaml"
    file.write_text(yaml.safe_dump(tree))
    config = load_config(file, overrides=["data_root=x"])
    task = built(config.task)
    assert isinstance(task, ClassifierTask)
    groups = task.configure_optimizers()["optimizer"].param_groups
    assert groups[0]["initial_lr"] == pytest.approx(6.4e-5)
    assert groups[0]["lr"] == pytest.approx(6.4e-6)
    assert groups[0]["weight_decay"] == 0.01
    assert config.get("ema_decay") is None


def test_checkpoints_are_loaded_by_the_task() -> None:
    tree = {
        "model": classifier(diffusion_ckpt_path="ldm.ckpt", ckpt_path="classifier.ckpt")
        | {"base_learning_rate": 1e-6},
        "data": {"target": "x", "params": {"batch_size": 2}},
    }
    task = translate_file(tree, "run")["task"]["params"]["model"]
    assert task["params"]["checkpoint"] == "classifier.ckpt"
    inner = task["params"]["path"]["params"]
    assert inner["diffusion"]["params"]["checkpoint"] == "ldm.ckpt"
    assert inner["network"] == "${model.params.network}"


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (classifier("logs/my-run"), "in place of the folder 'logs/my-run', write the node 'model'"),
        (classifier(depth=3), "depth: unknown key"),
        ({"target": ENCODER, "params": {"image_size": 8}}, "missing key in_channels"),
        ({"target": ENCODER, "params": encoder_params(dims=3)}, "dims=3 has no native"),
    ],
)
def test_what_does_not_translate(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        translate(node)


def test_other_conditions_have_no_classifier() -> None:
    diffusion = published_diffusion()
    diffusion["params"]["cond_stage_key"] = "caption"
    with pytest.raises(ConfigError, match="label_key: expected class_label or segmentation"):
        translate(classifier(diffusion))


def test_weights() -> None:
    state: dict[str, Tensor] = {
        name: torch.tensor(float(i))
        for i, name in enumerate(
            [
                "diffusion_model.betas",
                "diffusion_model.scale_factor",
                "diffusion_model.model.diffusion_model.out.0.weight",
                "diffusion_model.model_ema.decay",
                "diffusion_model.first_stage_model.encoder.conv_in.weight",
                "diffusion_model.cond_stage_model.embedding.weight",
                "model.out.2.c_proj.weight",
            ]
        )
    }
    assert is_compvis_classifier(state)
    assert not is_compvis_classifier(["model.diffusion_model.out.0.weight", "first_stage_model.x"])
    assert from_compvis_classifier(state) == {
        "scale_factor": state["diffusion_model.scale_factor"],
        "autoencoder.encoder.conv_in.weight": torch.tensor(4.0),
        "network.out.2.c_proj.weight": torch.tensor(6.0),
    }


def test_weights_fit_strictly() -> None:
    """A file of the original with all of its diffusion model fits the translated classifier."""
    model = built(classifier())
    own = model.state_dict()
    theirs = {
        key.replace("network.", "model.", 1)
        if key.startswith("network.")
        else f"diffusion_model.{key.replace('autoencoder.', 'first_stage_model.', 1)}": value
        for key, value in own.items()
    }
    theirs["diffusion_model.model.diffusion_model.time_embed.0.weight"] = torch.zeros(1)
    assert from_compvis_classifier(theirs).keys() == own.keys()
