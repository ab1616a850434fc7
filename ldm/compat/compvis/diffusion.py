"""``LatentDiffusion`` of the original code, as a native node."""

from __future__ import annotations

from typing import Any

from ldm.compat.compvis.conditioners import conditioners
from ldm.compat.compvis.networks import FIRST_STAGES, IDENTITY_NAME, UNET_NAME, unet
from ldm.compat.native import masked_inputs
from ldm.compat.rules import Ignored, Inert, Renamed, Required, Table, apply, node, split
from ldm.errors import ConfigError

_SHAPE = Ignored("the shape of samples follows from the request and the autoencoder")
_DISPLAY = Ignored("only says what is logged, or which checkpoint is called the best")

LATENT_DIFFUSION: Table = {
    "first_stage_config": Required("first_stage_config"),
    "cond_stage_config": Required("cond_stage_config"),
    "unet_config": Required("unet_config"),
    "num_timesteps_cond": Inert((None, 1)),
    "cond_stage_key": Renamed("cond_stage_key", "image"),
    "cond_stage_trainable": Renamed("cond_stage_trainable", False),
    "cond_stage_forward": Inert((None,)),
    "concat_mode": Renamed("concat_mode", True),
    "conditioning_key": Renamed("conditioning_key", None),
    "scale_factor": Renamed("scale_factor", 1.0),
    "scale_by_std": Renamed("scale_by_std", False),
    "timesteps": Renamed("timesteps", 1000),
    "beta_schedule": Renamed("beta_schedule", "linear"),
    "linear_start": Renamed("linear_start", 1e-4),
    "linear_end": Renamed("linear_end", 2e-2),
    "cosine_s": Renamed("cosine_s", 8e-3),
    "given_betas": Renamed("given_betas", None),
    "v_posterior": Renamed("v_posterior", 0.0),
    "parameterization": Renamed("parameterization", "eps"),
    "loss_type": Renamed("loss_type", "l2"),
    "original_elbo_weight": Renamed("original_elbo_weight", 0.0),
    "l_simple_weight": Renamed("l_simple_weight", 1.0),
    "learn_logvar": Renamed("learn_logvar", False),
    "logvar_init": Renamed("logvar_init", 0.0),
    "ckpt_path": Renamed("ckpt_path", None),
    "ignore_keys": Inert(([], None)),
    "load_only_unet": Inert((False,)),
    "scheduler_config": Renamed("scheduler_config", None),
    "use_ema": Renamed("use_ema", True),
    "use_positional_encodings": Inert((False,)),
    "clip_denoised": Ignored("the original never clips latents, whatever this says"),
    "first_stage_key": Ignored("names an entry of the original data sets; here it is 'image'"),
    "image_size": _SHAPE,
    "channels": _SHAPE,
    "log_every_t": _DISPLAY,
    "monitor": _DISPLAY,
}

INPAINTING: Table = {
    **LATENT_DIFFUSION,
    "concat_keys": Inert((["mask", "masked_image"],)),
    "masked_image_key": Inert(("masked_image",)),
    "finetune_keys": Ignored("says which weights a file of the plain model lacks"),
    "keep_finetune_dims": Ignored("belongs to finetune_keys"),
    "c_concat_log_start": _DISPLAY,
    "c_concat_log_end": _DISPLAY,
}
"""``LatentInpaintDiffusion`` of Stable Diffusion."""

BOXES = "coordinates_bbox"
_PREDICTIONS = {"eps": "Eps", "x0": "X0", "v": "V"}
"""The last one is that of Stable Diffusion 2, whose class has the same name."""


def layout2img(params: Any, name: str, path: str) -> dict[str, Any]:
    """``Layout2ImgDiffusion``: a ``LatentDiffusion`` on boxes, which differs in what it logs."""
    key = (params or {}).get("cond_stage_key")
    if key != BOXES:
        raise ConfigError(f"{path}.cond_stage_key: {name} takes {BOXES} only, got {key!r}")
    return latent_diffusion(params, name, path)


def inpainting(params: Any, name: str, path: str) -> dict[str, Any]:
    """``LatentInpaintDiffusion`` of Stable Diffusion: text, the mask, the hidden image.

    The mask is in {0, 1}, comes before the image, holes are mid-grey, and latents of the image are
    multiplied by the scale factor: nothing of which is so in the inpainting model of the paper.
    """
    values = apply(INPAINTING, params, name, path)
    if values["conditioning_key"] != "hybrid":
        raise ConfigError(
            f"{path}.conditioning_key: {name} joins maps and text, set hybrid, not "
            f"{values['conditioning_key']!r}"
        )
    plain = {key: value for key, value in params.items() if key in LATENT_DIFFUSION}
    result = latent_diffusion(plain, name, path)
    text, *_ = result["params"]["conditioners"]
    factor = result["params"]["scale_factor"]
    if factor is None:
        raise ConfigError(f"{path}.scale_by_std: {name} needs a scale_factor, its number")
    result["params"]["conditioners"] = [text, *masked_inputs(factor)]
    return result


def latent_diffusion(params: Any, name: str, path: str) -> dict[str, Any]:
    """``LatentDiffusion`` with its parts; a part without native counterpart is left as it is."""
    values = apply(LATENT_DIFFUSION, params, name, path)
    denoiser = _denoiser(values["unet_config"], f"{path}.unet_config")
    result = node(
        "ldm.diffusion.LatentDiffusion",
        denoiser=denoiser,
        autoencoder=_first_stage(values["first_stage_config"], denoiser, path),
        schedule=_schedule(values),
        conditioners=conditioners(values, denoiser, path),
        prediction=_prediction(values["parameterization"], path),
        weighting=_weighting(values),
        loss=values["loss_type"],
    )
    result["params"]["scale_factor"] = _scale_factor(values, path)
    return result


def _denoiser(foreign: Any, path: str) -> dict[str, Any]:
    name, params = split(foreign, path)
    return unet(params, name, f"{path}.params") if name == UNET_NAME else dict(foreign)


def _first_stage(foreign: Any, denoiser: dict[str, Any], path: str) -> dict[str, Any]:
    path = f"{path}.first_stage_config"
    name, params = split(foreign, path)
    if name not in FIRST_STAGES:
        return dict(foreign)
    result = FIRST_STAGES[name](params, name, f"{path}.params")
    if name == IDENTITY_NAME:  # the original does not say how many channels its images have
        result["params"]["channels"] = denoiser["params"]["out_channels"]
    return result


def _schedule(values: dict[str, Any]) -> dict[str, Any]:
    name = "ldm.diffusion.NoiseSchedule"
    v_posterior = values["v_posterior"] or None
    if values["given_betas"] is not None:
        return node(name, betas=values["given_betas"], v_posterior=v_posterior)
    kind, timesteps = values["beta_schedule"], values["timesteps"]
    if kind == "cosine":
        offset = values["cosine_s"]
        return node(
            name, kind=kind, timesteps=timesteps, cosine_offset=offset, v_posterior=v_posterior
        )
    return node(
        name,
        kind=kind,
        timesteps=timesteps,
        start=values["linear_start"],
        end=values["linear_end"],
        v_posterior=v_posterior,
    )


def _prediction(parameterization: Any, path: str) -> dict[str, Any]:
    if parameterization not in _PREDICTIONS:
        raise ConfigError(
            f"{path}.parameterization: expected eps, x0 or v, got {parameterization!r}"
        )
    return node(f"ldm.diffusion.{_PREDICTIONS[parameterization]}")


def _weighting(values: dict[str, Any]) -> dict[str, Any] | None:
    """None where the published mixture is a plain mean over all steps."""
    mixture = {
        "init": values["logvar_init"],
        "learn": values["learn_logvar"],
        "simple_weight": values["l_simple_weight"],
        "elbo_weight": values["original_elbo_weight"],
    }
    if mixture == {"init": 0, "learn": False, "simple_weight": 1, "elbo_weight": 0}:
        return None
    betas = values["given_betas"]
    timesteps = values["timesteps"] if betas is None else len(betas)
    return node("ldm.diffusion.LogVariance", timesteps=timesteps, **mixture)


def _scale_factor(values: dict[str, Any], path: str) -> float | None:
    """The number, or None: to be measured (``scale_by_std``)."""
    factor: float = values["scale_factor"]
    if not values["scale_by_std"]:
        return factor
    if factor != 1:
        raise ConfigError(f"{path}.scale_factor: {factor} contradicts scale_by_std; remove one")
    return None
