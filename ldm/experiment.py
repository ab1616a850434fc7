"""What a config must hold to be trained, checked before anything heavy is imported."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.config import check, to_yaml
from ldm.config.kinds import Kind, as_counted, kinds_of, misfit
from ldm.config.paths import one_line
from ldm.errors import ConfigError, DataError, suggest
from ldm.signatures import parameters

_PARTS = ("name", "model", "task", "data", "trainer")
_KEYS = (
    *(*_PARTS, "base", "seed", "image_size", "every", "ema_decay", "compile", "profile"),
    *("peak_tflops", "uncached"),
)
"""Top-level keys that mean something."""
_RESERVED = (
    *("callbacks", "logger", "default_root_dir", "plugins", "enable_progress_bar"),
    *("enable_checkpointing", "gradient_clip_val", "gradient_clip_algorithm"),
    *("fast_dev_run", "use_distributed_sampler"),
)
_COUNTED = ("num_nodes", "accumulate_grad_batches")
_INTERVALS = ("val_check_interval", "check_val_every_n_epoch")


def check_experiment(config: DictConfig) -> None:
    """Refuse what cannot be trained, as far as that shows without an import.

    Raises:
        ConfigError: a part is missing, or there is a key or a name that nothing knows.
    """
    check_parts(config)
    check_seed(config.get("seed", 0))
    trainer_options(config)
    intervals(config)
    ema_decay(config)
    peak_tflops(config)
    compiled(config)
    profile_options(config.get("profile"))
    check(config.task, "task")
    check(config.data, "data")
    check_keys(config)


def check_keys(config: DictConfig) -> None:
    """Refuse a top-level key that is nearly one that means something, and that nothing refers to.

    Raises:
        ConfigError: it names the key that was meant.
    """
    text = to_yaml(config)
    for key in map(str, config):
        near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.8)
        if key not in _KEYS and near and f"${{{key}" not in text:
            raise ConfigError(
                f"{key}: unknown, and nothing refers to it; did you mean {near[0]!r}?"
            )


def check_places(config: DictConfig) -> None:
    """Refuse a first stage or a folder of images that is not there.

    Raises:
        ConfigError: it names the first stage.
        DataError: it names the folder.
    """
    for part in ("task", "data"):
        tree = plain(config, part)
        for path, target, params in _nodes(tree, part):
            if target == "ldm.load.pretrained" and _is_absent(params.get("path")):
                raise ConfigError(
                    f"{path}: {params['path']}: no such run folder or config; train it first, or "
                    "correct the path"
                )
            if target == "ldm.data.ImageFolder" and _is_absent(params.get("root")):
                raise DataError(
                    f"{path}: image folder '{params['root']}' does not exist: set root to a folder "
                    "of images"
                )


def _nodes(tree: Any, path: str) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Place, target and arguments of all nodes that name what is to be built."""
    if isinstance(tree, dict):
        if isinstance(tree.get("params"), dict):
            yield path, tree.get("target"), tree["params"]
        for key, value in tree.items():
            yield from _nodes(value, f"{path}.{key}")
    elif isinstance(tree, list):
        for k, value in enumerate(tree):
            yield from _nodes(value, f"{path}[{k}]")


def _is_absent(place: Any) -> bool:
    return isinstance(place, str) and not Path(place).expanduser().exists()


def check_parts(config: DictConfig) -> None:
    """Refuse a config that is no whole experiment.

    Raises:
        ConfigError: it names the part that is missing.
    """
    for key in _PARTS:
        if key not in config:
            raise ConfigError(f"{key}: missing; an experiment needs {', '.join(_PARTS)}")
    for key in ("model", "task", "data"):
        node = plain(config, key)
        if not isinstance(node, dict) or "target" not in node:
            raise ConfigError(f"{key}: expected a node with a target, got {_shown(node)}")
    if not isinstance(plain(config, "trainer"), dict):
        raise ConfigError(
            "trainer: expected arguments of Lightning's Trainer by name, got "
            + _shown(plain(config, "trainer"))
        )


def data_set(config: DictConfig, split: str) -> tuple[Any, str]:
    """The node of one of the two data sets of a config, and its place.

    It is that of the whole data module where this names none.

    Raises:
        ConfigError: there is none that could be built.
    """
    for path in ("data", "data.params", f"data.params.{split}"):
        try:
            node = OmegaConf.select(config, path, throw_on_resolution_failure=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{path}: {one_line(error)}") from error
        if node is None and path != "data":
            break
        if not isinstance(node, DictConfig):
            got = plain(config, "data") if path == "data" else node
            raise ConfigError(f"{path}: expected a node with a target, got {_shown(got)}")
        found = node, path
    if found[1] == "data.params":
        found = config.data, "data"
    if "target" not in found[0]:
        raise ConfigError(f"{found[1]}: expected a node with a target, got {_shown(found[0])}")
    return found


def check_data_set(dataset: Any, path: str) -> None:
    """Refuse what holds no items.

    Raises:
        ConfigError: it names the place.
    """
    if not hasattr(dataset, "__getitem__") and not hasattr(dataset, "__iter__"):
        raise ConfigError(f"{path}: it builds a {type(dataset).__name__}, not a data set")
    if isinstance(dataset, (str, bytes, Mapping, list, tuple)):
        raise ConfigError(f"{path}: it builds a {type(dataset).__name__}, not a data set")


def check_seed(seed: Any) -> None:
    """Refuse what no generator can begin with; without a seed no run could be repeated.

    Raises:
        ConfigError: it is no whole number that NumPy takes.
    """
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise ConfigError(
            f"seed: expected a whole number from 0 to {2**32 - 1}, got {_shown(seed)}"
        )


def ema_decay(config: DictConfig) -> float | None:
    """The checked key ``ema_decay``; without it, or with 0, no average is kept."""
    decay: float | None = config.get("ema_decay")
    if decay is not None and not (_is_number(decay) and 0 <= decay < 1):
        raise ConfigError(f"ema_decay: must lie in [0, 1), got {_shown(decay)}")
    return decay


def peak_tflops(config: DictConfig) -> float | None:
    """The checked key ``peak_tflops``: what the device can do at best, 1e12 operations/s."""
    peak = config.get("peak_tflops")
    if peak is not None and not (_is_number(peak) and 0 < peak < math.inf):
        raise ConfigError(f"peak_tflops: expected a number above 0, got {_shown(peak)}")
    return None if peak is None else float(peak)


def compiled(config: DictConfig) -> bool:
    """The checked key ``compile``."""
    value = config.get("compile", False)
    if not isinstance(value, bool):
        raise ConfigError(f"compile: expected true or false, got {_shown(value)}")
    return value


def plain(config: DictConfig, key: str) -> Any:
    """A value of a config as plain values, its interpolations resolved.

    Raises:
        ConfigError: one of them leads nowhere.
    """
    try:
        value = config.get(key)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f"{key}: {one_line(error)}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def trainer_options(config: DictConfig) -> dict[str, Any]:
    """Check the ``trainer`` node, which holds plain arguments of Lightning's ``Trainer``."""
    options: dict[str, Any] = plain(config, "trainer")
    known = [parameter.name for parameter in parameters("pytorch_lightning.Trainer") or ()]
    accepted = [name for name in known or options if name not in _RESERVED]  # or it refuses itself
    for key in map(str, options):
        if key in _INTERVALS:
            raise ConfigError(f"trainer.{key}: use every.validation, the steps between validations")
        if key not in accepted:
            raise ConfigError(
                f"trainer.{key}: not an argument of Lightning's Trainer that a config may set"
                f"{suggest(key, accepted)}; it accepts {', '.join(accepted)}"
            )
    for key, value in options.items():  # 1e5
        options[key] = as_counted(value, kinds_of("pytorch_lightning.Trainer", str(key)))
    for key in ("max_steps", "max_epochs"):
        if key in options and type(options[key]) is not int:
            raise ConfigError(f"trainer.{key}: expected a whole number, got {options[key]!r}")
        if options.get(key, 0) < -1:
            raise ConfigError(f"trainer.{key}: {options[key]} is below 0 (-1: no limit)")
    for key, value in options.items():
        reason = misfit(value, kinds_of("pytorch_lightning.Trainer", str(key)))
        if isinstance(value, dict) and key != "max_time":
            reason = f"expected a plain value, got {_shown(value)}"
        if reason is not None:
            raise ConfigError(f"trainer.{key}: {reason}")
    for key in _COUNTED:
        if key in options and isinstance(options[key], (int, float)) and options[key] < 1:
            raise ConfigError(f"trainer.{key}: expected 1 or more, got {_shown(options[key])}")
    if options.get("limit_train_batches", 1) == 0:
        raise ConfigError("trainer.limit_train_batches: 0 leaves nothing to train with")
    if "max_steps" not in options and "max_epochs" not in options:
        raise ConfigError("trainer: set max_steps (optimiser steps) or max_epochs")
    return options


def intervals(config: DictConfig) -> dict[str, int]:
    """The checked node ``every``: steps between logs, validations, checkpoints and images.

    ``keep`` are those between checkpoints that stay for ever. No images are drawn and none stay
    where the number is 0.
    """
    every = {"log": 10, "validation": 500, "checkpoint": 500, "images": 500, "keep": 0}
    given = plain(config, "every") if "every" in config else {}
    if not isinstance(given, dict):
        raise ConfigError(f"every: expected {', '.join(every)} by name, got {_shown(given)}")
    unknown = [str(key) for key in given if key not in every]
    if unknown:
        raise ConfigError(f"every.{min(unknown)}: unknown; it accepts {', '.join(every)}")
    every |= given
    for key, value in every.items():
        every[key] = value = as_counted(value, (Kind("whole number"),))
        lowest = 0 if key in ("images", "keep") else 1  # 0: none
        if type(value) is not int or not lowest <= value < 2**63:
            raise ConfigError(
                f"every.{key}: expected a number of steps from {lowest}, got {_shown(value)}"
            )
    return every


def profile_options(value: Any) -> dict[str, int] | None:
    """The checked node ``profile`` of a config: None, a bool, or ``start`` and ``steps``.

    Returns:
        Arguments of ``ProfileSteps``; None if nothing is to be profiled.

    Raises:
        ConfigError: it is something else.
    """
    value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    if value is None or value is False:
        return None
    if value is True:
        return {}
    lowest = {"start": 0, "steps": 1}
    if not isinstance(value, Mapping):
        raise ConfigError(f"profile: expected true, false or start and steps, got {value!r}")
    for key, number in value.items():
        if key not in lowest:
            raise ConfigError(f"profile.{key}: unknown; it accepts start, steps")
        if type(number) is not int or number < lowest[key]:
            raise ConfigError(
                f"profile.{key}: expected a number of steps from {lowest[key]}, got {number!r}"
            )
    return dict(value)


def with_images(config: DictConfig) -> DictConfig:
    """The config with the images in place of their cached latents, if it trained on those."""
    config = copy.deepcopy(config)
    for name, node in config.get("uncached", {}).items():
        found = OmegaConf.select(config, f"data.params.{name}.target")
        if str(found).endswith(".CachedLatents"):
            config.data.params[name] = node
    return config
