"""Configuration: YAML files in, Python objects out.

A node ``{target: dotted.name, params: {...}}`` stands for the call ``name(**params)``; children are
built first, so constructors receive objects. ``partial: true`` beside ``target`` gives
``functools.partial(name, **params)`` instead. Everything else is plain data.

- ``load_config``: Merge YAML files from left to right, then apply overrides.
- ``save_config``: Write a configuration; never leaves half a file.
- ``to_yaml``: A configuration as the text of a file.
- ``instantiate``: Build the object that a node describes, its children first.
- ``check``: Refuse what ``instantiate`` would refuse, without any import.
"""

from ldm.config.nodes import check, instantiate
from ldm.config.reading import load_config, save_config, to_yaml

__all__ = ["check", "instantiate", "load_config", "save_config", "to_yaml"]
