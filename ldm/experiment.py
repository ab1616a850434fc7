"""What a config must hold to be trained, checked before anything heavy is imported."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ldm.config import check, to_yaml
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
_INTERVALS = ("val_check_interval", "check_val_every_n_epoch")


def check_experiment(config: DictConfig) -> None:
    """Refuse what cannot be trained, as far as that shows without an import.

    Raises:
        ConfigError: a part is missing, or there is a key or a name that nothing knows.
    """
    check_parts(config)
    trainer_options(config)
    intervals(config)
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
        tree = OmegaConf.to_container(config[part], resolve=True)
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


def trainer_options(config: DictConfig) -> dict[str, Any]:
    """Check the ``trainer`` node, which holds plain arguments of Lightning's ``Trainer``."""
    options: dict[str, Any] = OmegaConf.to_container(config.trainer, resolve=True)  # type: ignore[assignment]
    known = [parameter.name for parameter in parameters("pytorch_lightning.Trainer") or ()]
    accepted = [name for name in known or options if name not in _RESERVED]  # or it refuses itself
    for key in options:
        if key in _INTERVALS:
            raise ConfigError(f"trainer.{key}: use every.validation, the steps between validations")
        if key not in accepted:
            raise ConfigError(
                f"trainer.{key}: not an argument of Lightning's Trainer that a config may set"
                f"{suggest(key, accepted)}; it accepts {', '.join(accepted)}"
            )
    for key in ("max_steps", "max_epochs"):
        if key in options and type(options[key]) is not int:
            raise ConfigError(f"trainer.{key}: expected a whole number, got {options[key]!r}")
        if options.get(key, 0) < -1:
            raise ConfigError(f"trainer.{key}: {options[key]} is below 0 (-1: no limit)")
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
    unknown = set(config.get("every", {})) - set(every)
    if unknown:
        raise ConfigError(f"every.{min(unknown)}: unknown; it accepts {', '.join(every)}")
    every |= dict(config.get("every", {}))
    for key, value in every.items():
        lowest = 0 if key in ("images", "keep") else 1  # 0: none
        if not isinstance(value, int) or value < lowest:
            raise ConfigError(
                f"every.{key}: expected a number of steps from {lowest}, got {value!r}"
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
