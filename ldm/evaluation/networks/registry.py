"""Published feature networks by name."""

from __future__ import annotations

from pathlib import Path

from ldm.errors import UserError
from ldm.evaluation.networks.base import Network
from ldm.evaluation.networks.resizing import NETWORK

NAMES = ("inception", "vgg16", "dinov2", "clip:ARCH")


def network(name: str, weights: str | Path | None = None, resize: str = NETWORK) -> Network:
    """A published feature network with its weights, in eval mode, on the CPU.

    Args:
        name: ``inception``, ``vgg16``, ``dinov2``, or ``clip:ARCH`` with an architecture of
            open_clip (its name, or a JSON file that describes it).
        weights: file of the weights (CLIP: or a tag of open_clip); None = where PyTorch keeps
            downloaded checkpoints, CLIP: open_clip's ``openai``.
        resize: a name of ``ldm.evaluation.networks.resizing.NAMES``; ``network`` = as in the
            code that made the network's published figures.

    Raises:
        UserError: the name is unknown, a package is missing, or weights are absent or do not fit.
    """
    if name == "inception":
        from ldm.evaluation.networks.inception import inception

        return inception(weights, resize)
    if name == "vgg16":
        from ldm.evaluation.networks.vgg16 import vgg16

        return vgg16(weights, resize)
    if name == "dinov2":
        from ldm.evaluation.networks.dinov2 import dinov2

        return dinov2(weights, resize)
    kind, _, arch = name.partition(":")
    if kind == "clip" and arch:
        from ldm.evaluation.networks.clip import clip

        return clip(arch, weights, resize)
    raise UserError(f"feature network {name!r} is none of {', '.join(NAMES)}")
