"""The files of weights that a run began with: on resume they may have moved, not changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ldm.checkpoint import file_sha256
from ldm.errors import ConfigError
from ldm.load import pretrained_checkpoints
from ldm.training.run_folder import RunFolder


def check_inputs(
    folder: RunFolder, config: DictConfig, changed: Mapping[str, tuple[Any, Any]]
) -> dict[str, dict[str, str]]:
    """Refuse a first stage that is not the one a run began with, whose weights it goes on with.

    Args:
        folder: the run's folder.
        config: the present config, with its ``ldm.load.pretrained`` nodes.
        changed: by key, the value in the run's config and the present one.

    Returns:
        By those keys that name another place of the same file: its path and SHA-256.

    Raises:
        ConfigError: it names both.
    """
    inputs = folder.status().get("inputs")
    if inputs is None:  # status.json was lost: nobody knows
        return {}
    for path, digest in pretrained_checkpoints(config).items():
        if digest not in inputs.values():
            raise _another(folder, ", ".join(inputs) or "no weights of a file", path)
    moved = {}
    for key, (before, now) in changed.items():
        for old, new in _files(before, now, inputs):
            if not new.is_file():
                raise ConfigError(f"{key}={now}: {new} does not exist; the run began with {old}")
            if file_sha256(new) != inputs[old]:
                raise _another(folder, old, f"{new} ({key}={now})")
            moved[key] = {str(new): inputs[old]}
    return moved


def _files(before: Any, now: Any, inputs: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Each input that a value of a config names, itself or by its folder, and what it names now."""
    if not (isinstance(before, str) and isinstance(now, str)):
        return
    for file in inputs:
        if Path(before) in (Path(file), *Path(file).parents[:2]):  # RUN/checkpoints/last.ckpt
            yield file, Path(now) / Path(file).relative_to(before)


def _another(folder: RunFolder, before: str, now: str) -> ConfigError:
    return ConfigError(
        f"{folder.path} began with {before}, whose weights are in its checkpoints; {now} holds "
        f"others: continue with --resume {folder.path} alone, or start another run with name=..."
    )
