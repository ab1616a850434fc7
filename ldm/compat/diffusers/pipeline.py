"""Whole pipelines of diffusers with their schedulers, and native nodes of latent diffusion models.

================================== ===========================================================
``StableDiffusionPipeline``        text through CLIP, by cross-attention; ``AutoencoderKL``
``StableDiffusionInpaintPipeline`` the same, and a mask and the masked image are concatenated
``LDMPipeline``                    without conditions; ``AutoencoderKL`` or ``VQModel``, in
                                   ``vqvae``
================================== ===========================================================

In diffusers a scheduler is a sampler too. Noise schedule and prediction type are taken from it; its
options as a sampler have no place in a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm.compat.diffusers import autoencoder as diffusers
from ldm.compat.diffusers.unet import CONDITIONAL, PLAIN, unet_from_config, unet_to_config
from ldm.compat.native import are_masked_inputs, masked_inputs
from ldm.compat.rules import Ignored, Inert, Renamed, Required, Same, Table, apply, node, split
from ldm.errors import ConfigError

SCHEDULE_NAME = "ldm.diffusion.NoiseSchedule"
PREDICTION = "ldm.diffusion."
_KINDS = {"linear": "scaled_linear", "sqrt_linear": "linear", "cosine": "squaredcos_cap_v2"}
_PREDICTIONS = {"Eps": "epsilon", "X0": "sample", "V": "v_prediction"}
_SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)

NATIVE: Table = {
    "kind": Renamed("kind", "linear"),
    "timesteps": Renamed("timesteps", 1000),
    "start": Renamed("start", 1e-4),
    "end": Renamed("end", 2e-2),
    "betas": Renamed("betas", None),
    "cosine_offset": Inert((8e-3,)),
    "v_posterior": Ignored("acts in ancestral sampling only"),
}
SCHEDULER: Table = {
    "num_train_timesteps": Renamed("timesteps", 1000),
    "beta_start": Renamed("start", 1e-4),
    "beta_end": Renamed("end", 2e-2),
    "beta_schedule": Renamed("kind", "linear"),
    "trained_betas": Renamed("betas", None),
    "prediction_type": Renamed("prediction", "epsilon"),
    "rescale_betas_zero_snr": Inert((False,)),
}


def noise_to_config(schedule: Any, prediction: Any, path: str = "model.params") -> dict[str, Any]:
    """``scheduler_config.json`` of a ``DDIMScheduler``: the steps of ``DDIM(spacing="strided")``.

    Those are the steps of the default, "uniform", where their number divides T; diffusers has no
    grid that is the same for all numbers.

    Args:
        schedule: native node of a ``NoiseSchedule``.
        prediction: native node of a prediction type; None: ``Eps``.
        path: where both stand, for messages.

    Raises:
        ConfigError: diffusers has no such schedule or prediction.
    """
    name, params = split(schedule, f"{path}.schedule")
    if name != SCHEDULE_NAME:
        raise ConfigError(f"{path}.schedule: diffusers has no {name}")
    values = apply(NATIVE, params, name, f"{path}.schedule.params")
    betas = values["betas"]
    if betas is None and values["kind"] not in _KINDS:
        raise ConfigError(f"{path}.schedule.params.kind: diffusers has no {values['kind']!r}")
    kind = "Eps" if prediction is None else split(prediction, f"{path}.prediction")[0]
    kind = kind.removeprefix(PREDICTION)
    if kind not in _PREDICTIONS:
        raise ConfigError(f"{path}.prediction: diffusers has no {kind}")
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": values["timesteps"] if betas is None else len(betas),
        "beta_start": values["start"],
        "beta_end": values["end"],
        "beta_schedule": "linear" if betas is not None else _KINDS[values["kind"]],
        "trained_betas": None if betas is None else list(betas),
        "prediction_type": _PREDICTIONS[kind],
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }


def noise_from_config(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Native nodes of noise schedule and prediction type, from any scheduler that has one.

    Raises:
        ConfigError: a scheduler of another kind, or a schedule without counterpart here.
    """
    name = config.get("_class_name")
    if name not in _SCHEDULERS:
        raise ConfigError(f"scheduler: {str(name)[:80]} has no counterpart here")
    known = {key: config[key] for key in SCHEDULER if key in config}
    values = apply(SCHEDULER, known, name, "scheduler")
    predictions = {theirs: ours for ours, theirs in _PREDICTIONS.items()}
    if values["prediction"] not in predictions:
        text = str(values["prediction"])[:80]
        raise ConfigError(f"scheduler.prediction_type: {text!r} has no counterpart here")
    prediction = node(PREDICTION + predictions[values["prediction"]])
    if values["betas"] is not None:
        return node(SCHEDULE_NAME, betas=values["betas"]), prediction
    kinds = {theirs: ours for ours, theirs in _KINDS.items()}
    if values["kind"] not in kinds:
        text = str(values["kind"])[:80]
        raise ConfigError(f"scheduler.beta_schedule: {text!r} has no counterpart here")
    sizes = {"kind": kinds[values["kind"]], "timesteps": values["timesteps"]}
    if values["kind"] != "squaredcos_cap_v2":
        sizes |= {"start": values["start"], "end": values["end"]}
    return node(SCHEDULE_NAME, **sizes), prediction


TEXT_PIPELINE, PLAIN_PIPELINE = "StableDiffusionPipeline", "LDMPipeline"
INPAINT_PIPELINE = "StableDiffusionInpaintPipeline"
MODEL_NAME = "ldm.diffusion.LatentDiffusion"
CLIP_NAME = "ldm.conditioners.CLIPText"
TOKENIZER_NAME = "ldm.conditioners.ClipTokenizer"
_WRITTEN_FOR = "0.30.0"
"""The release of diffusers whose settings these are."""
VOCAB_SIZE = 49408
"""Word pieces of CLIP."""
_TRAINING = Ignored("acts in training only")
_PAD = {"end": "<|endoftext|>", "zero": "!"}
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
)

MODEL: Table = {
    "denoiser": Required("denoiser"),
    "autoencoder": Required("autoencoder"),
    "schedule": Required("schedule"),
    "conditioners": Renamed("conditioners", ()),
    "prediction": Renamed("prediction", None),
    "weighting": _TRAINING,
    "loss": _TRAINING,
    "scale_factor": Ignored("the model has it"),
}
CLIP: Table = {
    "path": Ignored("the model has its weights"),
    "layer": Renamed("layer", "last"),
    "length": Renamed("length", 77),
    "key": Ignored("names an entry of the batch"),
    "tokenizer": Renamed("tokenizer", None),
    "in_checkpoint": Ignored("the model has its weights"),
    "drop_prob": _TRAINING,
    "config": Ignored("the model has its sizes"),
}
TOKENIZER: Table = {"length": Same(), "pad": Renamed("pad", "end")}


# -- to diffusers -----------------------------------------------------------------------------


def pipeline_to_configs(
    foreign: Any, scaling_factor: float, text: Mapping[str, Any] | None = None, path: str = "model"
) -> dict[str, dict[str, Any]]:
    """``model_index.json`` (under "") and the settings of each part, by its folder.

    Args:
        foreign: native node of a ``LatentDiffusion``, without interpolations.
        scaling_factor: its scale factor.
        text: settings of its CLIP text encoder, if it has one.
        path: where the node stands, for messages.

    Raises:
        ConfigError: diffusers has no such pipeline; the message says what can be exported.
    """
    name, params = split(foreign, path)
    if name != MODEL_NAME:
        raise ConfigError(f"{path}: a {name} is no diffusion model that diffusers has")
    values = apply(MODEL, params, name, f"{path}.params")
    conditioners = list(values["conditioners"])
    place = f"{path}.params.conditioners"
    inpainting = are_masked_inputs(conditioners[1:], scaling_factor, place)
    conditioners = conditioners[:1] if inpainting else conditioners
    clip = _clip(conditioners, text, place) if conditioners else None
    unet = unet_to_config(values["denoiser"], f"{path}.params.denoiser")
    vae = diffusers.to_config(values["autoencoder"], scaling_factor, f"{path}.params.autoencoder")
    needed = PLAIN if clip is None else CONDITIONAL
    if unet["_class_name"] != needed or unet["num_class_embeds"] is not None:
        raise ConfigError(
            f"{path}.params.denoiser: no pipeline of diffusers fits this UNet "
            f"{'without' if clip is None else 'with'} conditioners; export it by itself"
        )
    if clip is not None and vae["_class_name"] != "AutoencoderKL":
        raise ConfigError(
            f"{path}.params.autoencoder: {TEXT_PIPELINE} works with AutoencoderKL only; export "
            "autoencoder and denoiser by themselves"
        )
    unet["sample_size"] = vae["sample_size"] // 2 ** (len(vae["block_out_channels"]) - 1)
    scheduler = noise_to_config(values["schedule"], values["prediction"], f"{path}.params")
    parts = {"unet": unet, "vqvae" if clip is None else "vae": vae, "scheduler": scheduler}
    index: dict[str, Any] = {part: ["diffusers", c["_class_name"]] for part, c in parts.items()}
    if clip is None:
        return {"": {"_class_name": PLAIN_PIPELINE, **index}, **parts}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"]}
    index |= {"tokenizer": ["transformers", "CLIPTokenizer"], "requires_safety_checker": False}
    for absent in ("feature_extractor", "image_encoder", "safety_checker"):
        index[absent] = [None, None]
    if inpainting:  # that pipeline asks how old the folder is
        index = {"_class_name": INPAINT_PIPELINE, "_diffusers_version": _WRITTEN_FOR, **index}
    else:
        index = {"_class_name": TEXT_PIPELINE, **index}
    return {"": index, **parts, **clip}


def _clip(
    conditioners: list[Any], text: Mapping[str, Any] | None, path: str
) -> dict[str, dict[str, Any]]:
    name = split(conditioners[0], f"{path}[0]")[0]
    if len(conditioners) > 1 or name != CLIP_NAME or text is None:
        found = ", ".join(split(c, path)[0].rpartition(".")[2] for c in conditioners)
        raise ConfigError(
            f"{path}: diffusers has no pipeline for {found}, only for {CLIP_NAME} alone and for "
            "models without conditioners; export autoencoder and denoiser by themselves"
        )
    values = apply(CLIP, split(conditioners[0], path)[1], name, f"{path}[0].params")
    if values["tokenizer"] is None:
        raise ConfigError(f"{path}[0].params.tokenizer: {TEXT_PIPELINE} needs one; add it")
    tokenizer, options = split(values["tokenizer"], f"{path}[0].params.tokenizer")
    if tokenizer != TOKENIZER_NAME:
        raise ConfigError(f"{path}[0].params.tokenizer: {tokenizer} has no counterpart there")
    pad = apply(TOKENIZER, options, tokenizer, f"{path}[0].params.tokenizer.params")["pad"]
    config = {key: text[key] for key in _SIZES}
    if values["layer"] == "penultimate":
        config["num_hidden_layers"] -= 1  # the last one is of no use
    end = VOCAB_SIZE - 1
    config |= {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}
    config |= {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    words = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": values["length"],
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": _PAD[pad],
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    return {"text_encoder": config, "tokenizer": words}


# -- from diffusers ---------------------------------------------------------------------------


def pipeline_from_configs(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The native node of a pipeline.

    Args:
        configs: content of ``model_index.json`` under "", and of the settings of each part by its
            folder: ``config.json``, ``scheduler_config.json`` or ``tokenizer_config.json``.

    Raises:
        ConfigError: a pipeline, or a part of one, that has no counterpart here.
    """
    name = configs[""].get("_class_name")
    if name not in (TEXT_PIPELINE, INPAINT_PIPELINE, PLAIN_PIPELINE):
        raise ConfigError(
            f"model_index.json: {str(name)[:80]} has no counterpart here, only {TEXT_PIPELINE}, "
            f"{INPAINT_PIPELINE} and {PLAIN_PIPELINE} have; name the folder of its vae or unet to "
            "read that alone"
        )
    wanted = ("unet", "scheduler") + (() if name == PLAIN_PIPELINE else ("text_encoder",))
    for part in wanted:
        if part not in configs:
            raise ConfigError(f"{name}: it has no folder {part}")
    config = configs["vae"] if "vae" in configs else configs.get("vqvae")
    if config is None:
        raise ConfigError(f"{name}: it has no folder vae or vqvae")
    autoencoder, factor = diffusers.from_config(config), diffusers.scale_factor(config)
    denoiser = unet_from_config(configs["unet"])
    channels, latent = denoiser["params"]["in_channels"], autoencoder["params"]["embed_dim"]
    if channels != (2 * latent + 1 if name == INPAINT_PIPELINE else latent):
        raise ConfigError(
            f"unet: it takes {channels} channels where latents have {latent}: such a pipeline has "
            "no counterpart here"
        )
    conditioners = []
    if name != PLAIN_PIPELINE:
        conditioners = [_text(configs["text_encoder"], configs.get("tokenizer"))]
    if name == INPAINT_PIPELINE:
        conditioners += masked_inputs(factor)
    schedule, prediction = noise_from_config(configs["scheduler"])
    return node(
        MODEL_NAME,
        denoiser=denoiser,
        autoencoder=autoencoder,
        schedule=schedule,
        prediction=prediction,
        conditioners=conditioners or None,
        scale_factor=factor,
    )


def _text(config: Mapping[str, Any], words: Mapping[str, Any] | None) -> dict[str, Any]:
    architectures = config.get("architectures")
    if architectures != ["CLIPTextModel"]:
        raise ConfigError(
            f"text_encoder: {str(architectures)[:80]} has no counterpart here, only CLIPTextModel"
        )
    sizes = {key: config[key] for key in _SIZES if key in config}
    length = sizes.get("max_position_embeddings", 77)
    tokenizer = None
    if words is not None:
        pad = words.get("pad_token", _PAD["end"])
        pad = pad.get("content") if isinstance(pad, Mapping) else pad
        kinds = {token: kind for kind, token in _PAD.items()}
        if pad not in kinds:
            raise ConfigError(f"tokenizer: pad_token {str(pad)[:80]!r} has no counterpart here")
        tokenizer = node(TOKENIZER_NAME, length=length, pad=kinds[pad])
    clip = node(CLIP_NAME, length=length, tokenizer=tokenizer, config=sizes)
    clip["params"]["path"] = None  # the pipeline has the weights
    return clip
