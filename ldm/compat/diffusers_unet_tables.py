"""Every argument of the UNets of diffusers, and what becomes of it."""

from __future__ import annotations

from ldm.compat.rules import Ignored, Inert, Renamed, Same, Table

CONDITIONAL, PLAIN = "UNet2DConditionModel", "UNet2DModel"
_SIZE = Ignored("the size of what is sampled, not of the network")

_BOTH: Table = {
    "sample_size": _SIZE,
    "in_channels": Renamed("in_channels", 4),
    "out_channels": Renamed("out_channels", 4),
    "center_input_sample": Inert((False,)),
    "flip_sin_to_cos": Inert((True,)),
    "freq_shift": Inert((0,)),
    "block_out_channels": Renamed("widths", (320, 640, 1280, 1280)),
    "layers_per_block": Renamed("layers", 2),
    "downsample_padding": Inert((1,)),
    "mid_block_scale_factor": Inert((1, 1.0)),
    "dropout": Same(),
    "act_fn": Inert(("silu", "swish")),
    "norm_num_groups": Renamed("norm_groups", 32),
    "norm_eps": Inert((1e-5,)),
    "attention_head_dim": Renamed("heads", 8),
    "resnet_time_scale_shift": Renamed("scale_shift", "default"),
    "time_embedding_type": Inert(("positional",)),
    "time_embedding_dim": Renamed("time_embedding_dim", None),
    "class_embed_type": Inert((None,)),
    "num_class_embeds": Renamed("num_classes", None),
}
CONDITIONAL_MODEL: Table = {
    **_BOTH,
    "down_block_types": Renamed("down", ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)),
    "mid_block_type": Inert(("UNetMidBlock2DCrossAttn",)),
    "up_block_types": Renamed("up", ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3),
    "only_cross_attention": Inert((False,)),
    "cross_attention_dim": Renamed("context_dim", 1280),
    "transformer_layers_per_block": Renamed("depth", 1),
    "reverse_transformer_layers_per_block": Inert((None,)),
    "encoder_hid_dim": Inert((None,)),
    "encoder_hid_dim_type": Inert((None,)),
    "num_attention_heads": Inert((None,)),
    "dual_cross_attention": Inert((False,)),
    "use_linear_projection": Renamed("linear", False),
    "addition_embed_type": Inert((None,)),
    "addition_time_embed_dim": Inert((None,)),
    "addition_embed_type_num_heads": Ignored("means nothing without addition_embed_type"),
    "upcast_attention": Ignored("the precision of a product in half precision"),
    "resnet_skip_time_act": Inert((False,)),
    "resnet_out_scale_factor": Inert((1, 1.0)),
    "time_embedding_act_fn": Inert((None,)),
    "timestep_post_act": Inert((None,)),
    "time_cond_proj_dim": Inert((None,)),
    "conv_in_kernel": Inert((3,)),
    "conv_out_kernel": Inert((3,)),
    "projection_class_embeddings_input_dim": Inert((None,)),
    "attention_type": Inert(("default",)),
    "class_embeddings_concat": Inert((False,)),
    "mid_block_only_cross_attention": Inert((None, False)),
    "cross_attention_norm": Inert((None,)),
}
PLAIN_MODEL: Table = {
    **_BOTH,
    "in_channels": Renamed("in_channels", 3),
    "out_channels": Renamed("out_channels", 3),
    "block_out_channels": Renamed("widths", (224, 448, 672, 896)),
    "down_block_types": Renamed("down", ("DownBlock2D",) + ("AttnDownBlock2D",) * 3),
    "mid_block_type": Inert(("UNetMidBlock2D",)),
    "up_block_types": Renamed("up", ("AttnUpBlock2D",) * 3 + ("UpBlock2D",)),
    "downsample_type": Renamed("downsample", "conv"),
    "upsample_type": Renamed("upsample", "conv"),
    "attn_norm_num_groups": Renamed("attention_groups", None),
    "add_attention": Inert((True,)),
    "num_train_timesteps": Ignored("belongs to learned time embeddings, which do not load"),
}
MODELS: dict[str, Table] = {CONDITIONAL: CONDITIONAL_MODEL, PLAIN: PLAIN_MODEL}
