"""torch.compile for the networks of a model."""

from __future__ import annotations

from torch import nn

NETWORKS = (
    *("denoiser", "network", "autoencoder.encoder", "autoencoder.decoder"),
    *("encoder", "decoder"),
)
"""Where the costly networks of a model lie; ``network`` is that of a classifier of latents, encoder
and decoder alone are those of a first stage."""


def compile_networks(model: nn.Module) -> list[str]:
    """Let torch.compile translate the networks of a model when they are first called.

    In place: weights keep their names and the modules their types. A model that has none of
    ``NETWORKS`` is compiled as a whole.

    Args:
        model: a ``LatentDiffusion``, a first stage or a single network.

    Returns:
        The names of what is compiled; "" is the model itself.
    """
    modules = dict(model.named_modules())
    found = [name for name in NETWORKS if name in modules] or [""]
    for name in found:
        modules[name].compile()
    return found
