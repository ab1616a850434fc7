"""State dicts of the original code (CompVis) under the names of this library, and back.

Inside a network the names are the same; only the composition differs:

=================================  ==================================================
CompVis                            here
=================================  ==================================================
``model.diffusion_model.X``        ``denoiser.X``
``model_ema.`` + name, no dots     the averaged copy of ``denoiser.X``
``first_stage_model.X``            ``autoencoder.X``
``cond_stage_model.X``             ``conditioners.0.X``
``logvar``                         ``weighting.logvar``
``loss.X`` (autoencoder files)     ``objective.X``
schedule buffers                   follow from the config: compared, then dropped
=================================  ==================================================

The inpainting model stores its first stage twice, as ``cond_stage_model.X`` too: the copies are
compared, then one is dropped.

Autoencoders of the original code and of taming-transformers stand without prefix; the averaged
copy is then of all weights, those of the loss included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ldm.errors import CheckpointError

PREFIXES = {
    "model.diffusion_model.": "denoiser.",
    "first_stage_model.": "autoencoder.",
    "cond_stage_model.": "conditioners.0.",
    "loss.": "objective.",
}
FIRST_STAGE, CONDITIONER = "first_stage_model.", "cond_stage_model."
EMA = "model_ema."
SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
TRAINING_ONLY = ("quantize.ema_count", "quantize.ema_sum", "quantize.idle")
"""State of the codebook's upkeep, which published files do not have; no result depends on it."""
_INERT = ("model_ema.decay", "model_ema.num_updates", "lvlb_weights")
_NETWORKS = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
_EMA_OF_LOSS = "model_ema.loss"
_GUMBEL = ("quantize.embed.weight", "quantize.proj.weight")
_RTOL = 1e-5


def is_compvis(keys: Iterable[str]) -> bool:
    """Whether these are the keys of a diffusion model or autoencoder of the original code."""
    return any(key.startswith((*PREFIXES, EMA)) for key in keys)


def is_training_only(key: str) -> bool:
    """Whether a native weight, of an autoencoder or of a whole model, matters in training only."""
    return any(key == name or key.endswith(f".{name}") for name in TRAINING_ONLY)


def refuse_unsupported(keys: Iterable[str]) -> None:
    """Raise for networks that resemble those of this library without being one of them.

    Raises:
        CheckpointError: the file holds one; the message names the weight that shows it.
    """
    for key in keys:
        if key.endswith(_GUMBEL):
            raise CheckpointError(
                f"{key}: a GumbelVQ autoencoder of taming-transformers has no counterpart in this "
                "library; its VQModel has"
            )


def from_compvis(
    state: Mapping[str, Tensor], schedule: Mapping[str, Tensor] | None = None, ema: bool = True
) -> dict[str, Tensor]:
    """Native names for the state dict of a diffusion model or an autoencoder.

    Args:
        state: the state dict, as published.
        schedule: the model's own schedule buffers by name, which those in ``state`` must equal;
            None drops them unseen.
        ema: take the averaged weights, of the denoiser or of an autoencoder, where there are any.

    Returns:
        Weights; names that the original code does not have come back unchanged.

    Raises:
        CheckpointError: the schedules differ, two copies of the first stage do, or an averaged
            weight belongs to no weight.
    """
    state = _without_second_first_stage(state)
    result: dict[str, Tensor] = {}
    shadows = {
        key: value for key, value in state.items() if key.startswith(EMA) and key not in _INERT
    }
    for key, value in state.items():
        if key in SCHEDULE:
            _compare(key, value, schedule)
        elif key not in _INERT and not key.startswith(EMA):
            shadow = shadows.pop(_ema_name(key), None)
            result[native_name(key)] = shadow if ema and shadow is not None else value
    if ema:
        _check_average_is_complete(state)
    orphans = [key for key in shadows if not key.startswith(_EMA_OF_LOSS)]  # may be cut off
    if orphans:
        raise CheckpointError(
            f"{len(orphans)} averaged weights belong to no weight of the model, first {orphans[0]}"
        )
    return result


def _check_average_is_complete(state: Mapping[str, Tensor]) -> None:
    """Averaged and raw weights do not mix to a network."""
    for prefixes in (("model.diffusion_model.",), _NETWORKS):
        keys = [key for key in state if key.startswith(prefixes)]
        lacking = [key for key in keys if _ema_name(key) not in state]
        if 0 < len(lacking) < len(keys):
            raise CheckpointError(
                f"{len(lacking)} of {len(keys)} weights have no averaged copy, first {lacking[0]}: "
                "load it with ema=False (--no-ema)"
            )


def to_compvis(
    state: Mapping[str, Tensor],
    schedule: Mapping[str, Tensor] | None = None,
    shadow: Mapping[str, Tensor] | None = None,
    num_updates: int = 0,
    decay: float = 0.9999,
    first_stage_twice: bool = False,
) -> dict[str, Tensor]:
    """The inverse of ``from_compvis``, in the order of published files.

    What only training uses is left out.

    Args:
        state: native state dict of a diffusion model or an autoencoder.
        schedule: schedule buffers by name, for diffusion models.
        shadow: averaged weights by native name; only those of the denoiser have a place.
        num_updates: number of updates of the average.
        decay: its decay.
        first_stage_twice: write the first stage as the conditioner too, which the original needs
            where it encodes the condition (``__is_first_stage__``).

    Raises:
        CheckpointError: a weight has no name in the original code.
    """
    state = {key: value for key, value in state.items() if not is_training_only(key)}
    first = {key: value for key, value in state.items() if key == "weighting.logvar"}
    first |= {key: schedule[key] for key in SCHEDULE} if schedule is not None else {}
    first |= {key: value for key, value in state.items() if key == "scale_factor"}
    rest = {key: value for key, value in state.items() if key not in first}
    denoiser = {key: value for key, value in rest.items() if key.startswith("denoiser.")}
    others = {key: value for key, value in rest.items() if key not in denoiser}
    result = {compvis_name(key): value for key, value in (first | denoiser).items()}
    if shadow is not None:
        result["model_ema.decay"] = torch.tensor(decay, dtype=torch.float32)
        result["model_ema.num_updates"] = torch.tensor(num_updates, dtype=torch.int32)
        for key, value in shadow.items():
            if key.startswith("denoiser."):
                result[_ema_name(compvis_name(key))] = value
    result |= {compvis_name(key): value for key, value in others.items()}
    if first_stage_twice:
        result |= {CONDITIONER + key: value for key, value in _below(FIRST_STAGE, result).items()}
    return result


def native_name(key: str) -> str:
    """The name here of a weight of the original code."""
    for theirs, ours in PREFIXES.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return "weighting.logvar" if key == "logvar" else key


def compvis_name(key: str) -> str:
    """The name in the original code of a weight here.

    Raises:
        CheckpointError: there is none.
    """
    for theirs, ours in PREFIXES.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    if key == "weighting.logvar":
        return "logvar"
    if key in ("scale_factor", *SCHEDULE) or key.startswith(_NETWORKS):
        return key
    raise CheckpointError(f"{key} has no name in the original code")


def _ema_name(key: str) -> str:
    """Name of the averaged copy of a weight: without ``model.`` and all dots."""
    return EMA + key.removeprefix("model.").replace(".", "")


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _without_second_first_stage(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state without a conditioner that has the names of the first stage, and its values."""
    first, second = _below(FIRST_STAGE, state), _below(CONDITIONER, state)
    if not second or first.keys() != second.keys():
        return state
    for key, value in first.items():
        copy = second[key]
        same = value.shape == copy.shape and (value.is_meta or torch.equal(value, copy))
        if value is not copy and not same:
            raise CheckpointError(
                f"{FIRST_STAGE}{key} and {CONDITIONER}{key} differ, but the model has one first "
                "stage, which also encodes the condition"
            )
    return {key: value for key, value in state.items() if not key.startswith(CONDITIONER)}


def _compare(key: str, value: Tensor, schedule: Mapping[str, Tensor] | None) -> None:
    if schedule is None:
        return
    expected = schedule[key].detach().cpu().double()
    rtol = max(_RTOL, 2 * torch.finfo(value.dtype).eps)  # files in half precision round more
    got = value.detach().cpu().double()
    if got.shape != expected.shape:
        raise CheckpointError(
            f"its noise schedule has {got.numel()} steps, the config's {expected.numel()}; "
            "use the config that belongs to the checkpoint"
        )
    if not torch.allclose(got, expected, rtol=rtol, atol=rtol * 1e-2):
        worst = int((got - expected).abs().argmax())
        raise CheckpointError(
            f"its noise schedule differs from the config's: {key}[{worst}] is {got[worst]:.6g}, "
            f"not {expected[worst]:.6g}; use the config that belongs to the checkpoint"
        )


# -- the classifier of noisy latents -----------------------------------------------------------

_DIFFUSION_MODEL, _NETWORK = "diffusion_model.", "model."
_INNER_FIRST_STAGE, _INNER_SCALE = (
    "diffusion_model.first_stage_model.",
    "diffusion_model.scale_factor",
)


def is_compvis_classifier(keys: Iterable[str]) -> bool:
    """Whether these are the keys of a ``NoisyLatentImageClassifier``."""
    return any(key.startswith(_INNER_FIRST_STAGE) for key in keys)


def from_compvis_classifier(
    state: Mapping[str, Tensor], schedule: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Native names of its weights; of the diffusion model in it, first stage and scale stay.

    Raises:
        CheckpointError: the noise schedule in the file is not ``schedule``.
    """
    inner = {key.removeprefix(_DIFFUSION_MODEL): value for key, value in state.items()}
    from_compvis({key: inner[key] for key in SCHEDULE if key in inner}, schedule)
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith(_INNER_FIRST_STAGE):
            result["autoencoder." + key.removeprefix(_INNER_FIRST_STAGE)] = value
        elif key == _INNER_SCALE:
            result["scale_factor"] = value
        elif key.startswith(_NETWORK):
            result["network." + key.removeprefix(_NETWORK)] = value
        elif not key.startswith(_DIFFUSION_MODEL):
            result[key] = value
    return result
