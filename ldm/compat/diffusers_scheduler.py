"""Schedulers of diffusers: their noise schedule and prediction type, as native nodes.

In diffusers a scheduler is a sampler too; its options as such have no place in a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm.compat.rules import Ignored, Inert, Renamed, Table, apply, node, split
from ldm.errors import ConfigError

SCHEDULE_NAME = "ldm.diffusion.schedule.NoiseSchedule"
PREDICTION = "ldm.diffusion.prediction."
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
    """``scheduler_config.json`` of a ``DDIMScheduler`` that takes the steps of this library's DDIM.

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
