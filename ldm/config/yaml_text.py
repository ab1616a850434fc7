"""The text of a YAML file in, plain values out; whatever is wrong with it is one error.

A few hundred bytes of YAML can stand for more values than memory holds (anchors within anchors), or
nest so deep that a parser ends the interpreter. Both are counted before anything is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.config.paths import at, failure, one_line
from ldm.errors import ConfigError
from ldm.files import read_text, shown

_DEEPEST = 64
"""Levels of nesting."""
_MOST = 100_000
"""Values, with those that anchors repeat."""
_LARGEST = 1 << 24
"""Bytes of a file."""
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> dict[Any, Any]:
    """The mapping that a YAML file holds; an empty file holds an empty one.

    Raises:
        FileNotFoundError: there is none.
        ConfigError: it cannot be read, is no YAML, or holds something else.
    """
    where = shown(path)
    try:
        text = read_text(path, _LARGEST)
        _check_size(text)
        plain = OmegaConf.to_container(OmegaConf.create(text)) if text.strip() else {}
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: cannot be read as a YAML file: {one_line(error)}") from error
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{where}: YAML error{line}: {one_line(error.problem)}") from error
    except OmegaConfBaseException as error:
        place = at(str(error.full_key or ""))
        raise ConfigError(f"{where}: {place}{one_line(error)}") from error
    except Exception as error:  # constructors of tags raise what they like
        raise ConfigError(f"{where}: YAML error: {failure(error)}") from error
    if isinstance(plain, dict) and (not plain or not _is_text(plain, text)):
        return plain
    kind = "a list" if isinstance(plain, list) else "a single value"
    raise ConfigError(f"{where}: the top level must be a mapping of keys, not {kind}")


def _is_text(plain: dict[Any, Any], text: str) -> bool:
    """Whether the file holds a text alone, of which OmegaConf makes a key without a value."""
    (event, *_) = [e for e in yaml.parse(text, Loader=_Loader) if isinstance(e, yaml.NodeEvent)]
    return isinstance(event, yaml.ScalarEvent)


def _check_size(text: str) -> None:
    """Count what a text stands for, event by event.

    Raises:
        ConfigError: it is too much, or has no end.
    """
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, count))
            count += 1
            if len(open_nodes) > _DEEPEST:
                raise _TooMuchError(f"nested deeper than {_DEEPEST} levels", event)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = count - before
        elif isinstance(event, yaml.AliasEvent):
            if any(event.anchor == anchor for anchor, _ in open_nodes):
                raise _TooMuchError(f"*{event.anchor} stands inside what it names", event)
            count += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if count > _MOST:
            raise _TooMuchError(f"more than {_MOST} values", event)


class _TooMuchError(yaml.MarkedYAMLError):
    def __init__(self, problem: str, event: yaml.Event) -> None:
        super().__init__(problem=problem, problem_mark=event.start_mark)
