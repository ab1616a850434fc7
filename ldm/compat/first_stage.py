"""What a native node says about a first stage, for the formats that it is exported to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ldm.compat.rules import Ignored, Renamed, Required, Table, apply, split
from ldm.errors import ConfigError

KL_NAME = "ldm.autoencoders.kl.AutoencoderKL"
VQ_NAME = "ldm.autoencoders.vq.AutoencoderVQ"
ARCHITECTURE_NAME = "ldm.autoencoders.networks.Architecture"
QUANTIZER_NAME = "ldm.autoencoders.quantizer.VectorQuantizer"
_TRAINING = Ignored("acts in training only")

KL: Table = {
    "architecture": Required("architecture"),
    "embed_dim": Required("embed_dim"),
    "initial_logvar": _TRAINING,
}
VQ: Table = {
    "architecture": Required("architecture"),
    "embed_dim": Required("embed_dim"),
    "quantizer": Required("quantizer"),
}
QUANTIZER: Table = {
    "num_codes": Required("num_codes"),
    "dim": Required("dim"),
    "beta": _TRAINING,
    "legacy_beta": _TRAINING,
    "ema_decay": _TRAINING,
    "restart_after": _TRAINING,
}
ARCHITECTURE: Table = {
    "in_channels": Renamed("in_channels", 3),
    "out_channels": Renamed("out_channels", None),
    "channels": Renamed("channels", 128),
    "channel_mult": Renamed("channel_mult", (1, 2, 4, 4)),
    "num_res_blocks": Renamed("num_res_blocks", 2),
    "attn_resolutions": Renamed("attn_resolutions", ()),
    "resolution": Renamed("resolution", 256),
    "z_channels": Renamed("z_channels", 4),
    "dropout": Renamed("dropout", 0.0),
    "mid_attention": Renamed("mid_attention", True),
    "resample_with_conv": Renamed("resample_with_conv", True),
    "tanh_out": Renamed("tanh_out", False),
    "norm_groups": Renamed("norm_groups", 32),
}


@dataclass(frozen=True)
class FirstStage:
    """A KL- or VQ-regularised autoencoder in plain values.

    Attributes:
        embed_dim: channels of the latent.
        num_codes: size of the codebook; None: KL.
        architecture: every argument of ``Architecture``, those at their defaults included.
    """

    embed_dim: int
    num_codes: int | None
    architecture: Mapping[str, Any]

    @property
    def attention_levels(self) -> list[bool]:
        """Whether the blocks of each level are followed by attention."""
        a = self.architecture
        sides = [a["resolution"] // 2**level for level in range(len(a["channel_mult"]))]
        return [bool(a["mid_attention"]) and side in a["attn_resolutions"] for side in sides]


def read_first_stage(foreign: Any, path: str = "model") -> FirstStage:
    """A native node ``{target, params}`` of a KL or VQ autoencoder, without interpolations.

    Raises:
        ConfigError: another class, or an argument that this does not know.
    """
    name, params = split(foreign, path)
    if name not in (KL_NAME, VQ_NAME):
        raise ConfigError(f"{path}: a {name} cannot be exported; only {KL_NAME} and {VQ_NAME} can")
    values = apply(VQ if name == VQ_NAME else KL, params, name, f"{path}.params")
    place = f"{path}.params.architecture"
    sizes = _arguments(values["architecture"], ARCHITECTURE_NAME, ARCHITECTURE, place)
    if sizes["out_channels"] is None:
        sizes["out_channels"] = sizes["in_channels"]
    for key in ("channel_mult", "attn_resolutions"):
        sizes[key] = tuple(sizes[key])
    if name == KL_NAME:
        return FirstStage(values["embed_dim"], None, sizes)
    place = f"{path}.params.quantizer"
    codebook = _arguments(values["quantizer"], QUANTIZER_NAME, QUANTIZER, place)
    return FirstStage(values["embed_dim"], codebook["num_codes"], sizes)


def _arguments(foreign: Any, expected: str, table: Table, path: str) -> dict[str, Any]:
    name, params = split(foreign, path)
    if name != expected:
        raise ConfigError(f"{path}: a {name} cannot be exported; only {expected} can")
    return apply(table, params, name, f"{path}.params")
