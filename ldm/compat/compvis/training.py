"""What a configuration file of the original code says about training, as native nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm.compat.compvis.diffusion import INPAINTING
from ldm.compat.compvis.networks import KL, VQ
from ldm.compat.rules import (
    Ignored,
    Inert,
    Renamed,
    Required,
    Table,
    Translator,
    apply,
    node,
    split,
)
from ldm.errors import ConfigError

EMA_DECAY = 0.9999
MAX_EPOCHS = 1000
"""Where Lightning ended at the time if nothing was said."""
_UNUSED = Ignored("the original reads it and never uses it")
_DISPLAY = Ignored("only says what is drawn or printed")

KL_LOSS: Table = {
    "disc_start": Required("disc_start"),
    "logvar_init": Renamed("logvar_init", 0.0),
    "kl_weight": Renamed("kl_weight", 1.0),
    "pixelloss_weight": _UNUSED,
    "disc_num_layers": Renamed("num_layers", 3),
    "disc_in_channels": Renamed("in_channels", 3),
    "disc_factor": Renamed("disc_factor", 1.0),
    "disc_weight": Renamed("disc_weight", 1.0),
    "perceptual_weight": Renamed("perceptual_weight", 1.0),
    "use_actnorm": Inert((False,)),
    "disc_conditional": Inert((False,)),
    "disc_loss": Renamed("disc_loss", "hinge"),
}

VQ_LOSS: Table = {
    **{key: rule for key, rule in KL_LOSS.items() if key not in ("logvar_init", "kl_weight")},
    "codebook_weight": Renamed("codebook_weight", 1.0),
    "disc_ndf": Renamed("width", 64),
    "n_classes": Renamed("num_codes", None),
    "perceptual_loss": Inert(("lpips",)),
    "pixel_loss": Renamed("pixel_loss", "l1"),
}

COSINE: Table = {
    "warm_up_steps": Required("warmup_steps"),
    "lr_min": Required("end"),
    "lr_max": Required("peak"),
    "lr_start": Required("start"),
    "max_decay_steps": Required("decay_steps"),
    "verbosity_interval": _DISPLAY,
}

CYCLES: Table = {
    "warm_up_steps": Required("warmup_steps"),
    "f_min": Required("end"),
    "f_max": Required("peak"),
    "f_start": Required("start"),
    "cycle_lengths": Required("cycle_lengths"),
    "verbosity_interval": _DISPLAY,
}

IMAGE_LOGGER: Table = {
    "batch_frequency": Required("images"),
    "max_images": _DISPLAY,
    "clamp": _DISPLAY,
    "increase_log_steps": _DISPLAY,
    "rescale": _DISPLAY,
    "log_on_batch_idx": _DISPLAY,
    "log_first_step": _DISPLAY,
    "log_images_kwargs": _DISPLAY,
}


def kl_loss(params: Any, name: str, path: str) -> dict[str, Any]:
    """``LPIPSWithDiscriminator``."""
    return _objective("KLObjective", apply(KL_LOSS, params, name, path))


def vq_loss(params: Any, name: str, path: str) -> dict[str, Any]:
    """``VQLPIPSWithDiscriminator`` of either repository."""
    return _objective("VQObjective", apply(VQ_LOSS, params, name, path))


def _objective(native: str, values: dict[str, Any]) -> dict[str, Any]:
    sizes = {
        key: values.pop(key) for key in ("in_channels", "width", "num_layers") if key in values
    }
    discriminator = node("ldm.losses.patch_discriminator", **sizes)
    perceptual = None
    if values["perceptual_weight"] != 0:
        # the original's shift by three values makes three channels of one
        channels = "repeat" if sizes["in_channels"] == 1 else None
        perceptual = node("ldm.losses.lpips", channels=channels)
    return node(
        f"ldm.losses.{native}",
        discriminator=discriminator,
        perceptual=perceptual,
        **values,
    )


def cosine(params: Any, name: str, path: str) -> dict[str, Any]:
    """``LambdaWarmUpCosineScheduler``."""
    return node("ldm.training.WarmupCosine", **apply(COSINE, params, name, path))


def cosine_cycles(params: Any, name: str, path: str) -> dict[str, Any]:
    """``LambdaWarmUpCosineScheduler2``."""
    return node("ldm.training.CosineCycles", **apply(CYCLES, params, name, path))


def linear_cycles(params: Any, name: str, path: str) -> dict[str, Any]:
    """``LambdaLinearScheduler``."""
    return node("ldm.training.LinearCycles", **apply(CYCLES, params, name, path))


LOSSES: dict[str, Translator] = {
    "ldm.modules.losses.LPIPSWithDiscriminator": kl_loss,
    "ldm.modules.losses.contperceptual.LPIPSWithDiscriminator": kl_loss,
    "ldm.modules.losses.vqperceptual.VQLPIPSWithDiscriminator": vq_loss,
    "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator": vq_loss,
}
LR_SCHEDULES: dict[str, Translator] = {
    "ldm.lr_scheduler.LambdaWarmUpCosineScheduler": cosine,
    "ldm.lr_scheduler.LambdaWarmUpCosineScheduler2": cosine_cycles,
    "ldm.lr_scheduler.LambdaLinearScheduler": linear_cycles,
}
NO_LOSS = ("torch.nn.Identity", "ldm.modules.losses.contperceptual.DummyLoss")


def learning_rate(base: float, tree: Mapping[str, Any]) -> float | None:
    """The learning rate of one device: base rate x batch size x accumulated batches.

    None if the file names no batch size, as those for sampling only.
    """
    data = tree.get("data") or {}
    batch_size = (data.get("params") or {}).get("batch_size")
    return None if batch_size is None else float(base * batch_size * accumulated_batches(tree))


def accumulated_batches(tree: Mapping[str, Any]) -> int:
    """Batches of one device that make an optimiser step."""
    trainer = (tree.get("lightning") or {}).get("trainer") or {}
    return trainer.get("accumulate_grad_batches") or 1


def diffusion_task(params: Any, name: str, path: str, rate: float) -> dict[str, Any]:
    """The task that trains a ``LatentDiffusion`` as the original does: AdamW, EMA."""
    values = apply(INPAINTING, params, name, path)  # checked: the model was translated
    return node(
        "ldm.training.LatentDiffusionTask",
        model=_initialised(values, path),
        optimizer={**node("torch.optim.AdamW", lr=rate), "partial": True},
        lr_schedule=_lr_schedule(values["scheduler_config"], f"{path}.scheduler_config"),
    )


def autoencoder_task(params: Any, name: str, path: str, rate: float) -> dict[str, Any] | None:
    """The task that trains a first stage as the original does; None without a loss."""
    values = apply(VQ if "n_embed" in (params or {}) else KL, params, name, path)
    loss, loss_params = split(values["lossconfig"], f"{path}.lossconfig")
    if loss in NO_LOSS:
        return None
    objective = values["lossconfig"]
    if loss in LOSSES:
        objective = LOSSES[loss](loss_params, loss, f"{path}.lossconfig.params")
    adam = {**node("torch.optim.Adam", lr=rate, betas=[0.5, 0.9]), "partial": True}
    return node(
        "ldm.training.AutoencoderTask",
        model=_initialised(values, path),
        objective=objective,
        optimizer=adam,
        discriminator_optimizer=adam,
    )


def trainer_options(lightning: Any, path: str) -> dict[str, Any]:
    """``trainer`` and ``every`` of the top level, from the ``lightning`` part of a file."""
    lightning = lightning or {}
    for key in lightning:
        if key not in ("trainer", "callbacks"):
            raise ConfigError(f"{path}.{key}: has no native counterpart; remove it")
    trainer = dict(lightning.get("trainer") or {})
    if not trainer.keys() & {"max_epochs", "max_steps"}:
        trainer["max_epochs"] = MAX_EPOCHS
    options: dict[str, Any] = {"trainer": trainer}
    for key, callback in (lightning.get("callbacks") or {}).items():
        if key != "image_logger":
            raise ConfigError(f"{path}.callbacks.{key}: has no native counterpart; remove it")
        name, params = split(callback, f"{path}.callbacks.{key}")
        options["every"] = apply(IMAGE_LOGGER, params, name, f"{path}.callbacks.{key}.params")
    return options


def _lr_schedule(foreign: Any, path: str) -> dict[str, Any] | None:
    if foreign is None:
        return None
    name, params = split(foreign, path)
    return LR_SCHEDULES[name](params, name, f"{path}.params") if name in LR_SCHEDULES else foreign


def _initialised(values: dict[str, Any], path: str) -> Any:
    """The model of a training run, with the weights that ``ckpt_path`` entries name."""
    checkpoints = {}
    first_stage = values.get("first_stage_config")
    if first_stage is not None:
        _, params = split(first_stage, f"{path}.first_stage_config")
        checkpoints["autoencoder"] = (params or {}).get("ckpt_path")
    checkpoints[""] = values["ckpt_path"]
    model: Any = "${model}"
    for part, checkpoint in checkpoints.items():
        if checkpoint is not None:
            model = node(
                "ldm.load.pretrained", path=model, checkpoint=checkpoint, part=part or None
            )
    return model
