"""UNet and first stages of the original code, as native nodes."""

from __future__ import annotations

from typing import Any

from ldm.compat.native import read_first_stage
from ldm.compat.rules import Ignored, Inert, Renamed, Required, Same, Table, Translator, apply, node
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
    "use_fp16": Ignored("whoever runs the model chooses its precision"),
    "num_heads": Same(),
    "num_head_channels": Same(),
    "num_heads_upsample": Same(),
    "use_scale_shift_norm": Same(),
    "resblock_updown": Same(),
    "use_new_attention_order": Same(),
    "use_spatial_transformer": Same(),
    "use_linear_in_transformer": Same(),
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
    "use_ema": Ignored("the average is read from the file, and kept by the run if it is true"),
}

IDENTITY: Table = {"vq_interface": _NOT_A_WEIGHT}


def unet(params: Any, name: str, path: str) -> dict[str, Any]:
    """``UNetModel`` -> ``UNet``, under the same argument names."""
    return node("ldm.denoisers.UNet", **apply(UNET, params, name, path))


def autoencoder_kl(params: Any, name: str, path: str) -> dict[str, Any]:
    """``AutoencoderKL``; its loss belongs to training and is translated there."""
    values = apply(KL, params, name, path)
    return node(
        "ldm.autoencoders.AutoencoderKL",
        architecture=_architecture(values["ddconfig"], True, name, f"{path}.ddconfig"),
        embed_dim=values["embed_dim"],
    )


def autoencoder_vq(params: Any, name: str, path: str) -> dict[str, Any]:
    """``VQModel``, also that of taming, and ``VQModelInterface``: the same network."""
    values = apply(VQ, params, name, path)
    quantizer = node(
        "ldm.autoencoders.VectorQuantizer",
        num_codes=values["n_embed"],
        dim=values["embed_dim"],
    )
    return node(
        "ldm.autoencoders.AutoencoderVQ",
        architecture=_architecture(values["ddconfig"], False, name, f"{path}.ddconfig"),
        embed_dim=values["embed_dim"],
        quantizer=quantizer,
    )


def autoencoder_identity(params: Any, name: str, path: str) -> dict[str, Any]:
    """``IdentityFirstStage``."""
    apply(IDENTITY, params, name, path)
    return node("ldm.autoencoders.AutoencoderIdentity")


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
    return node("ldm.autoencoders.Architecture", **values)


def to_compvis_first_stage(foreign: Any, path: str = "model") -> dict[str, Any]:
    """The node of the original code for a native KL or VQ autoencoder, without a loss.

    Args:
        foreign: native node, without interpolations.
        path: where it stands, for messages.

    Raises:
        ConfigError: the original code has no such autoencoder; the message names the argument.
    """
    stage = read_first_stage(foreign, path)
    a = stage.architecture
    for key, only in (("norm_groups", 32), ("resample_with_conv", True), ("tanh_out", False)):
        if a[key] != only:
            raise ConfigError(
                f"{path}.params.architecture.params.{key}: the original code has {only} only, "
                f"not {a[key]}"
            )
    ddconfig = {
        "double_z": stage.num_codes is None,
        "z_channels": a["z_channels"],
        "resolution": a["resolution"],
        "in_channels": a["in_channels"],
        "out_ch": a["out_channels"],
        "ch": a["channels"],
        "ch_mult": list(a["channel_mult"]),
        "num_res_blocks": a["num_res_blocks"],
        "attn_resolutions": list(a["attn_resolutions"]),
        "dropout": a["dropout"],
    }
    if not a["mid_attention"]:
        ddconfig["attn_type"] = "none"
    sizes = {"embed_dim": stage.embed_dim, "n_embed": stage.num_codes}
    lossconfig = {"target": "torch.nn.Identity"}
    name = KL_NAME if stage.num_codes is None else VQ_NAME
    return node(name, **sizes, ddconfig=ddconfig, lossconfig=lossconfig)


UNET_NAME = "ldm.modules.diffusionmodules.openaimodel.UNetModel"
IDENTITY_NAME = "ldm.models.autoencoder.IdentityFirstStage"
KL_NAME = "ldm.models.autoencoder.AutoencoderKL"
VQ_NAME = "ldm.models.autoencoder.VQModel"
FIRST_STAGES: dict[str, Translator] = {
    KL_NAME: autoencoder_kl,
    VQ_NAME: autoencoder_vq,
    "ldm.models.autoencoder.VQModelInterface": autoencoder_vq,
    "taming.models.vqgan.VQModel": autoencoder_vq,
    IDENTITY_NAME: autoencoder_identity,
}
