"""What a latent cache is made of, as the config of a stage-2 model says it: two nodes of data.

Nothing here imports PyTorch: what is wrong with the nodes is said before that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ldm.errors import ConfigError

SPLITS = ("train", "validation")
FLIP = "flip"
"""Name of the parameter, a probability, of every data set and framing that mirrors images."""


def data_nodes(config: DictConfig) -> dict[str, Any]:
    """The nodes of training and validation set, resolved.

    Raises:
        ConfigError: one is missing, is a cache itself, or mirrors what it must not.
    """
    nodes = {}
    for name in SPLITS:
        place = f"data.params.{name}"
        node = OmegaConf.select(config, place)
        if node is None:
            raise ConfigError(f"{place}: missing; a cache is made of both data sets")
        nodes[name] = OmegaConf.to_container(node, resolve=True)
        if ".CachedLatents" in str(nodes[name]):
            raise ConfigError(f"{place}: is a latent cache itself; name the images")
        if flip_probability(nodes[name], place) > 0 and name == "validation":
            raise ConfigError(f"{place}: a validation set is not mirrored: set flip=0")
    return nodes


def model_node(config: DictConfig) -> tuple[DictConfig, str]:
    """The node of the model that the task of a config trains, and its place.

    Raises:
        ConfigError: there is none.
    """
    for place in ("task.params.model", "model"):
        node = OmegaConf.select(config, place)
        if node is not None:
            return node, place
    raise ConfigError("model: missing; a cache needs the config of a latent diffusion model")


def flip_probability(node: Any, path: str) -> float:
    """Probability with which the data set of a node mirrors its images.

    Args:
        node: plain mappings, lists and values.
        path: where it stands, for messages.

    Raises:
        ConfigError: parts of it have different ones.
    """
    found = sorted({float(value) for key, value in _walk(node) if _is_flip(key, value)})
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
    seeds = (value for key, value in _walk(node) if key == "seed" and isinstance(value, int))
    return next(seeds, 0)


def _walk(node: Any) -> Iterator[tuple[Any, Any]]:
    """All keys and values of a node that are no mappings or lists, in their order."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, (dict, list)):
            yield from _walk(value)
        else:
            yield key, value


def _is_flip(key: Any, value: Any) -> bool:
    return key == FLIP and isinstance(value, (int, float)) and not isinstance(value, bool)
