"""UNet and first stages of the original code, as native nodes."""

from __future__ import annotations

from typing import Any

from ldm.compat.rules import (
    Ignored,
    Inert,
    Renamed,
    Required,
    Same,
    Table,
    Translator,
    apply,
    node,
)
from ldm.errors import ConfigError

_NOT_A_WEIGHT = Ignored("no weight and no result depends on it")
_ENTRY_NAME = Ignored("names an entry of the original data sets; here images are called 'image'")

UNET: Table = {
    "image_size": _NOT_A_WEIGHT,
    "in_channels": Required("in_channels"),
    "model_channels": Required("model_channels"),
    "out_channels": Required("out_channels"),
    "num_res_blocks": Required("num_res_blocks"),
    "attention_resolutions": Required("attention_resolutions"),
    "channel_mult": Renamed("channel_mult", [1, 2, 4, 8]),
    "dropout": Same(),
    "conv_resample": Same(),
    "dims": Inert((2,)),
    "num_classes": Same(),
    "use_checkpoint": Same(),
    "use_fp16": Inert((False,)),
    "num_heads": Same(),
    "num_head_channels": Same(),
    "num_heads_upsample": Same(),
    "use_scale_shift_norm": Same(),
    "resblock_updown": Same(),
    "use_new_attention_order": Same(),
    "use_spatial_transformer": Same(),
    "transformer_depth": Same(),
    "context_dim": Same(),
    "n_embed": Inert((None,)),
    "legacy": Same(),
}

ENCODER_DECODER: Table = {
    "ch": Required("channels"),
    "out_ch": Required("out_channels"),
    "ch_mult": Renamed("channel_mult", [1, 2, 4, 8]),
    "num_res_blocks": Required("num_res_blocks"),
    "attn_resolutions": Required("attn_resolutions"),
    "dropout": Same(),
    "resamp_with_conv": Inert((True,)),
    "in_channels": Required("in_channels"),
    "resolution": Required("resolution"),
    "z_channels": Required("z_channels"),
    "double_z": Renamed("double_z", True),
    "use_linear_attn": Inert((False,)),
    "attn_type": Renamed("attn_type", "vanilla"),
    "give_pre_end": Inert((False,)),
    "tanh_out": Inert((False,)),
}

KL: Table = {
    "ddconfig": Required("ddconfig"),
    "lossconfig": Required("lossconfig"),
    "embed_dim": Required("embed_dim"),
    "ckpt_path": Renamed("ckpt_path", None),
    "ignore_keys": Inert(([], None)),
    "image_key": _ENTRY_NAME,
    "colorize_nlabels": Inert((None,)),
    "monitor": _NOT_A_WEIGHT,
}

VQ: Table = {
    **KL,
    "n_embed": Required("n_embed"),
    "batch_resize_range": Inert((None,)),
    "scheduler_config": Inert((None,)),
    "lr_g_factor": Inert((1.0,)),
    "remap": Inert((None,)),
    "sane_index_shape": _NOT_A_WEIGHT,
    "use_ema": Inert((False,)),
}

IDENTITY: Table = {"vq_interface": _NOT_A_WEIGHT}


def unet(params: Any, name: str, path: str) -> dict[str, Any]:
    """``UNetModel`` -> ``UNet``, under the same argument names."""
    return node("ldm.denoisers.unet.UNet", **apply(UNET, params, name, path))


def autoencoder_kl(params: Any, name: str, path: str) -> dict[str, Any]:
    """``AutoencoderKL``; its loss belongs to training and is translated there."""
    values = apply(KL, params, name, path)
    return node(
        "ldm.autoencoders.kl.AutoencoderKL",
        architecture=_architecture(values["ddconfig"], True, name, f"{path}.ddconfig"),
        embed_dim=values["embed_dim"],
    )


def autoencoder_vq(params: Any, name: str, path: str) -> dict[str, Any]:
    """``VQModel`` and ``VQModelInterface``: the same network, seen from two sides."""
    values = apply(VQ, params, name, path)
    quantizer = node(
        "ldm.autoencoders.quantizer.VectorQuantizer",
        num_codes=values["n_embed"],
        dim=values["embed_dim"],
    )
    return node(
        "ldm.autoencoders.vq.AutoencoderVQ",
        architecture=_architecture(values["ddconfig"], False, name, f"{path}.ddconfig"),
        embed_dim=values["embed_dim"],
        quantizer=quantizer,
    )


def autoencoder_identity(params: Any, name: str, path: str) -> dict[str, Any]:
    """``IdentityFirstStage``."""
    apply(IDENTITY, params, name, path)
    return node("ldm.autoencoders.identity.AutoencoderIdentity")


def _architecture(ddconfig: Any, double_z: bool, name: str, path: str) -> dict[str, Any]:
    values = apply(ENCODER_DECODER, ddconfig, f"{name}'s encoder and decoder", path)
    if values.pop("double_z") is not double_z:
        raise ConfigError(f"{path}.double_z: {name} works with {str(double_z).lower()} only")
    attention = values.pop("attn_type")
    if attention not in ("vanilla", "none"):
        raise ConfigError(
            f"{path}.attn_type: {attention!r} has no native counterpart, only 'vanilla' and 'none'"
        )
    if attention == "none":  # removes the attention of all levels, not only of the middle
        values |= {"attn_resolutions": [], "mid_attention": False}
    return node("ldm.autoencoders.networks.Architecture", **values)


UNET_NAME = "ldm.modules.diffusionmodules.openaimodel.UNetModel"
IDENTITY_NAME = "ldm.models.autoencoder.IdentityFirstStage"
FIRST_STAGES: dict[str, Translator] = {
    "ldm.models.autoencoder.AutoencoderKL": autoencoder_kl,
    "ldm.models.autoencoder.VQModel": autoencoder_vq,
    "ldm.models.autoencoder.VQModelInterface": autoencoder_vq,
    IDENTITY_NAME: autoencoder_identity,
}
