"""What the names, calls and storages of a pickle come to, each within its limits."""

from __future__ import annotations

import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Sequence
from typing import Any

from ldm.pickles.values import (
    ITEM_SIZES,
    MOST_CONTAINERS,
    MOST_GIVEN,
    MOST_IN_KEY,
    MOST_LARGE,
    OTHER,
    TENSOR,
    Global,
    Group,
    Storage,
    check_size,
    check_tensor,
    measure,
    refuse,
)

_MADE = ("collections.OrderedDict", "collections.Counter", "builtins.set")
"""Containers that are made by a call."""
_TENSORS = tuple(f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3"))
_PARAMETERS = (
    *("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"),
    "torch.nn.parameter.Parameter",
)
_OF_TYPE = "torch._tensor._rebuild_from_type_v2"
_ENCODINGS = ("latin1", "latin-1", "utf-8", "ascii")
_UNUSUAL = re.compile(
    r"torch\.([a-z_]+\.)*[A-Z]\w*(Storage|Tensor)|torch\.(_utils|_tensor|nested)\..*|torch\.Tensor"
)
"""What PyTorch calls for a file, and allocates as much as the file says."""


class Calls:
    """Counts what the pickles of one file ask for.

    Args:
        see: called with the dotted name of each class or function.

    Attributes:
        storages: bytes of each storage, by its key.
    """

    def __init__(self, see: Callable[[str], object]) -> None:
        self.storages: dict[str, int] = {}
        self._see = see
        self._views: dict[str, tuple[str, int, int]] = {}
        self._containers = self._large = self._keys = self._given = 0

    def group(self, items: tuple[Any, ...] | None = None) -> Group:
        """A container: a tuple of its items, or an empty one that may change."""
        self._containers += 1
        if self._containers > MOST_CONTAINERS:
            refuse(f"it has more than {MOST_CONTAINERS} containers")
        group = Group(items)
        check_size(group.depth, group.size)
        return group

    def integer(self, value: int) -> int:
        """A number, of which few may be so large that one can choose its hash."""
        if not -(2**63) <= value < 2**63:
            self._large += 1
            if self._large > MOST_LARGE:
                refuse(f"it has more than {MOST_LARGE} numbers of more than 63 bits")
        return value

    def keys(self, values: Sequence[Any]) -> None:
        """Count what becomes a key and has a hash that one can choose."""
        for value in values:
            if type(value) not in (str, bytes, int):
                self._keys += 1
                if type(value) is Group and value.size > MOST_IN_KEY:
                    refuse(f"one of its keys has more than {MOST_IN_KEY} values")
        if self._keys > MOST_IN_KEY:
            refuse(f"it has more than {MOST_IN_KEY} keys that are no numbers or texts")

    def name(self, module: Any, name: Any) -> Global:
        """A class or function, by its present name where Python 2 had another."""
        if type(module) is not str or type(name) is not str:
            refuse("it names a class by what is no text")
        self._see(f"{module}.{name}")
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        found = Global(f"{module}.{name}")
        self._see(found.name)
        return found

    def storage(self, identity: Any) -> Storage:
        """The storage that the place of one names; the views of old files are storages too."""
        match identity.items if type(identity) is Group else None:
            case ("storage", Global() as kind, str(key), str(), int(count), *views):
                width = ITEM_SIZES.get(kind.name.rpartition(".")[2])
            case _:
                refuse("it refers to something outside of it that is no storage")
        if width is None or len(views) > 1 or not 0 <= count < 2**63:
            refuse(f"its storage {key[:80]!r} has no known kind or size")
        if self.storages.setdefault(key, count * width) != count * width:
            refuse(f"its storage {key[:80]!r} has two sizes")
        if views and views[0] is not None:
            count = self._view(key, views[0], count)
        return Storage(count, width)

    def _view(self, key: str, view: Any, count: int) -> int:
        match view.items if type(view) is Group else None:
            case (str(name), int(offset), int(size)) if 0 <= offset <= offset + size <= count:
                if self._views.setdefault(name, (key, offset, size)) == (key, offset, size):
                    return size
            case _:
                pass
        return refuse(f"its storage {key[:80]!r} is seen through a view that does not fit")

    def call(self, function: Any, arguments: Any) -> Any:
        """What a call gives; allowed are those that cost no more than what they are given."""
        if type(function) is not Global:
            return OTHER
        given = arguments.items if type(arguments) is Group else None
        if given is None:
            refuse("it calls a function with what is no tuple")
        self._given += arguments.size + sum(len(v) for v in given if type(v) in (str, bytes))
        if self._given > MOST_GIVEN:
            refuse(f"its calls are given more than {MOST_GIVEN} values")
        name = function.name
        if name in _MADE:
            return self._made(given)
        if name in _TENSORS:
            check_tensor(given, name)
            return TENSOR
        if name in _PARAMETERS:
            return given[0] if given else TENSOR
        if name == _OF_TYPE and len(given) == 4:
            return self.call(given[0], given[2])
        if name == "torch.Size":
            return self._size(given)
        if name == "_codecs.encode":
            return _encoded(given)
        if name == "builtins.bytearray":
            if given and type(given[0]) not in (str, bytes):
                refuse(f"it calls {name} with what is no text")
        elif _UNUSUAL.fullmatch(name):
            refuse(f"it calls {name[:80]}, which weights do not need")
        return OTHER

    def _size(self, given: tuple[Any, ...]) -> Group:
        if len(given) != 1 or type(given[0]) is not Group or given[0].items is None:
            refuse("one of its sizes is no tuple")
        return given[0]

    def _made(self, given: tuple[Any, ...]) -> Group:
        """A dict or set that a class makes of what it is given."""
        for value in given:
            if type(value) is Group:
                size = measure(value)
                self._keys += size
                self._given += size
        self.keys(())
        group = self.group()
        group.take(given)
        return group


def _encoded(given: tuple[Any, ...]) -> bytes:
    """A text as bytes, of which other encodings would make ever more."""
    match given:
        case (str(text), str(encoding)) if encoding in _ENCODINGS:
            return text.encode(encoding)
    return refuse("it encodes what is no text")
