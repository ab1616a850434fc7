"""``key=value`` of a command line."""

from __future__ import annotations

import difflib

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.config.paths import failure, one_line, parts_of, walk
from ldm.config.texts import as_meant, number_wanted
from ldm.errors import ConfigError

_OPEN = ("trainer",)
"""Nodes of plain arguments, whose keys are checked by their reader: overrides may add some."""
_SWITCHES = ("profile", "peak_tflops", "compile", "every", "ema_decay", "seed")
"""Top-level keys that every experiment has though most files leave them out; checked likewise."""


def override(config: DictConfig, text: str) -> None:
    """Change a config by one ``key=value`` or ``+key=value``; see ``load_config``.

    Raises:
        ConfigError: it does not fit; the message names the nearest keys.
    """
    key, equals, value = text.partition("=")
    new, key = key.startswith("+"), key.removeprefix("+")
    parts = parts_of(key)
    if not equals or not parts:
        raise ConfigError(f"override {text!r}: expected key=value")
    known = dict(walk(OmegaConf.to_container(config)))
    open_node = parts[0] in _OPEN and len(parts) > 1 and parts[0] in config
    new = new or open_node or parts[0] in _SWITCHES
    if not new and tuple(parts) not in known and not _reachable(config, key):
        names = [".".join(path) for path in known]
        near = difflib.get_close_matches(key, names, n=3, cutoff=0.5)
        near = near or [name for name in names if name.split(".")[-1] == parts[-1]][:3]
        nearest = f"; nearest: {', '.join(near)}" if near else ""
        file = "; nor is there a file of this name" if text.endswith((".yaml", ".yml")) else ""
        raise ConfigError(f"override {text!r}: no such key{nearest} (+{text} adds it){file}")
    for end in range(1, len(parts)):
        above = known.get(tuple(parts[:end]), {})
        if not isinstance(above, (dict, list, str)):
            name = ".".join(parts[:end])
            raise ConfigError(f"override {text!r}: {name} is {above!r}, it holds no keys")
    try:
        meant = as_meant(config, parts, value)
        if isinstance(meant, str) and (wanted := number_wanted(config, parts, meant)):
            raise ConfigError(f"override {text!r}: expected {wanted}")
        OmegaConf.update(config, key, meant, merge=False, force_add=new)
    except ConfigError:
        raise
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"override {text!r}: {one_line(error)}") from error
    except Exception as error:  # constructors of tags raise what they like
        raise ConfigError(f"override {text!r}: {failure(error)}") from error


def _reachable(config: DictConfig, key: str) -> bool:
    """Whether a key exists behind an interpolation."""
    try:
        return OmegaConf.select(config, key) is not None
    except OmegaConfBaseException:
        return False
