"""The classifier of noisy latents of the original code (LDM-8-G), as a native node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm.compat.compvis.diffusion import latent_diffusion
from ldm.compat.compvis.networks import UNET_NAME, unet
from ldm.compat.compvis.training import LR_SCHEDULES
from ldm.compat.rules import Ignored, Inert, Renamed, Required, Same, Table, apply, node, split
from ldm.errors import ConfigError

_UNUSED = Ignored("the original takes it from the UNet's arguments and never uses it")
_DISPLAY = Ignored("only says what is logged, or which checkpoint is called the best")

ENCODER_UNET: Table = {
    "image_size": Required("image_size"),
    "in_channels": Required("in_channels"),
    "model_channels": Required("model_channels"),
    "out_channels": Required("out_channels"),
    "num_res_blocks": Required("num_res_blocks"),
    "attention_resolutions": Required("attention_resolutions"),
    "channel_mult": Renamed("channel_mult", [1, 2, 4, 8]),
    "dropout": Same(),
    "conv_resample": Same(),
    "dims": Inert((2,)),
    "use_checkpoint": Same(),
    "use_fp16": Ignored("whoever runs the model chooses its precision"),
    "num_heads": Renamed("num_heads", 1),
    "num_head_channels": Same(),
    "use_scale_shift_norm": Same(),
    "resblock_updown": Same(),
    "use_new_attention_order": Same(),
    "pool": Renamed("pool", "adaptive"),
    "num_heads_upsample": _UNUSED,
    "num_classes": _UNUSED,
    "use_spatial_transformer": _UNUSED,
    "transformer_depth": _UNUSED,
    "context_dim": _UNUSED,
    "n_embed": _UNUSED,
    "legacy": _UNUSED,
}

CLASSIFIER: Table = {
    "diffusion_path": Required("diffusion"),
    "num_classes": Required("num_classes"),
    "ckpt_path": Renamed("ckpt_path", None),
    "pool": Renamed("pool", "attention"),
    "label_key": Renamed("label_key", None),
    "diffusion_ckpt_path": Renamed("diffusion_ckpt_path", None),
    "scheduler_config": Renamed("scheduler_config", None),
    "weight_decay": Renamed("weight_decay", 1e-2),
    "log_steps": _DISPLAY,
    "monitor": _DISPLAY,
}


def encoder_unet(params: Any, name: str, path: str) -> dict[str, Any]:
    """``EncoderUNetModel`` -> ``EncoderUNet``."""
    return node("ldm.denoisers.EncoderUNet", **apply(ENCODER_UNET, params, name, path))


def noisy_latent_classifier(params: Any, name: str, path: str) -> dict[str, Any]:
    """``NoisyLatentImageClassifier``: the diffusion model's own UNet settings, with a new head.

    Raises:
        ConfigError: ``diffusion_path`` is the name of a folder, which this function cannot read.
    """
    values = apply(CLASSIFIER, params, name, path)
    place = f"{path}.diffusion_path"
    if not isinstance(values["diffusion"], Mapping):
        raise ConfigError(
            f"{place}: in place of the folder {values['diffusion']!r}, write the node 'model' of "
            "the newest configs/*-project.yaml in it"
        )
    target, diffusion = split(values["diffusion"], place, beside=("base_learning_rate",))
    native = latent_diffusion(diffusion, target, f"{place}.params")
    unet_name, unet_params = split(diffusion["unet_config"], f"{place}.params.unet_config")
    sizes = {
        **unet_params,
        "in_channels": unet_params["out_channels"],
        "out_channels": values["num_classes"],
    }
    place = f"{place}.params.unet_config.params"
    label_key = diffusion.get("cond_stage_key", values["label_key"])
    if label_key == "class_label":
        network = encoder_unet({**sizes, "pool": values["pool"]}, ENCODER_NAME, place)
    elif label_key == "segmentation" and unet_name == UNET_NAME:
        network = unet(sizes, unet_name, place)
    else:
        raise ConfigError(f"{path}.label_key: expected class_label or segmentation: {label_key!r}")
    target = "ldm.diffusion.classifier_for"
    return node(target, diffusion=native, network=network, label_key=label_key)


def classifier_task(params: Any, name: str, path: str, rate: float) -> dict[str, Any]:
    """The task that trains a ``NoisyLatentImageClassifier`` as the original does: AdamW."""
    values = apply(CLASSIFIER, params, name, path)
    model: Any = "${model}"
    if values["diffusion_ckpt_path"] is not None:
        model = node(
            "ldm.diffusion.classifier_for",
            diffusion=_pretrained("${model.params.diffusion}", values["diffusion_ckpt_path"]),
            network="${model.params.network}",
            label_key="${model.params.label_key}",
        )
    if values["ckpt_path"] is not None:
        model = _pretrained(model, values["ckpt_path"])
    lr_schedule = values["scheduler_config"]
    if lr_schedule is not None:
        target, options = split(lr_schedule, f"{path}.scheduler_config")
        if target in LR_SCHEDULES:
            place = f"{path}.scheduler_config.params"
            lr_schedule = LR_SCHEDULES[target](options, target, place)
    adamw = node("torch.optim.AdamW", lr=rate, weight_decay=values["weight_decay"])
    return node(
        "ldm.training.ClassifierTask",
        model=model,
        optimizer={**adamw, "partial": True},
        lr_schedule=lr_schedule,
    )


def _pretrained(path: Any, checkpoint: str) -> dict[str, Any]:
    return node("ldm.load.pretrained", path=path, checkpoint=checkpoint)


ENCODER_NAME = "ldm.modules.diffusionmodules.openaimodel.EncoderUNetModel"
CLASSIFIER_NAME = "ldm.models.diffusion.classifier.NoisyLatentImageClassifier"
CLASSIFIERS = {ENCODER_NAME: encoder_unet, CLASSIFIER_NAME: noisy_latent_classifier}
