"""The switches for mirror images in the description of a data set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ldm.errors import ConfigError

FLIP = "flip"
"""Name of the parameter, a probability, of every data set and framing that mirrors images."""


def flip_probability(node: Any, path: str) -> float:
    """Probability with which the data set of a node mirrors its images.

    Args:
        node: plain mappings, lists and values.
        path: where it stands, for messages.

    Raises:
        ConfigError: parts of it have different ones.
    """
    found = sorted({float(value) for value in _flips(node)})
    if len(found) > 1:
        raise ConfigError(f"{path}: flip has several values, {found}: give one to all parts")
    return found[0] if found else 0.0


def with_flip(node: Any, value: float) -> Any:
    """A copy of a node whose data set mirrors its images with another probability.

    What belongs to an image (boxes, label maps) is mirrored with it by the data set itself. The
    other draws of an item stay as they are.
    """
    if isinstance(node, dict):
        return {key: value if _is_flip(key, v) else with_flip(v, value) for key, v in node.items()}
    if isinstance(node, list):
        return [with_flip(child, value) for child in node]
    return node


def first_seed(node: Any) -> int:
    """The seed of the draws of a data set: the first one in its node, 0 if there is none."""
    return next(_seeds(node), 0)


def _seeds(node: Any) -> Iterator[int]:
    children = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in children:
        if key == "seed" and isinstance(value, int):
            yield value
        elif isinstance(value, (dict, list)):
            yield from _seeds(value)


def _flips(node: Any) -> Iterator[float]:
    children = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in children:
        if _is_flip(key, value):
            yield value
        elif isinstance(value, (dict, list)):
            yield from _flips(value)


def _is_flip(key: Any, value: Any) -> bool:
    return key == FLIP and isinstance(value, (int, float)) and not isinstance(value, bool)
