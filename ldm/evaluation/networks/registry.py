"""Feature networks: published ones by name, and those of a run or of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ldm.errors import UserError
from ldm.evaluation.networks.base import FeatureNetwork, Network
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


def own_network(
    found: Any, resize: str = NETWORK, size: int | None = None, weights_file: str = ""
) -> Network:
    """The network of a run or of a class of one's own, in eval mode.

    Args:
        found: what the run or the class gave.
        resize: name of a resizer, of which only a ``FeatureNetwork`` hears.
        size: side to bring images to, likewise.
        weights_file: where the weights came from, likewise.

    Raises:
        UserError: it is no feature network, or has no size to resize to.
    """
    if isinstance(found, FeatureNetwork):
        return found.use(resize, size, weights_file)
    if not (hasattr(found, "outputs") and hasattr(found, "resize")):
        raise UserError(
            f"a {type(found).__name__} is no feature network: derive it from "
            "ldm.evaluation.FeatureNetwork"
        )
    own: Network = found.eval() if hasattr(found, "eval") else found
    return own
