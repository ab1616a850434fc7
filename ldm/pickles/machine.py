"""Runs a pickle on stand-ins of its values."""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ldm.errors import UserError
from ldm.pickles.calls import Calls
from ldm.pickles.values import (
    LONGEST_LINE,
    MOST_BYTES,
    MOST_STEPS,
    TENSOR,
    Global,
    Group,
    measure,
    refuse,
)


class PickleScan:
    """Scans pickles that stand one behind the other.

    Args:
        data: the bytes.
        see: called with the dotted name of each class or function that one of them refers to.

    Attributes:
        position: of the first byte after the pickle that was scanned last.
        calls: what they come to, with the storages that they name.
    """

    def __init__(self, data: bytes, see: Callable[[str], object]) -> None:
        self.data, self.position, self.calls = data, 0, Calls(see)
        self._steps = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def scan(self) -> Any:
        """What stands for the value of the next pickle: numbers and short texts do for themselves.

        Raises:
            RefusedError: it is damaged, or asks for more than checkpoints need.
            UserError: whatever ``see`` raises.
        """
        self._stack, self._marks, self._memo = [], [], {}
        try:
            self._run()
            result = self._pop()
        except (IndexError, KeyError, ValueError, struct.error) as error:
            if isinstance(error, UserError):
                raise
            refuse("its pickle is cut short or none")
        if type(result) is Group:
            measure(result)
        return result

    def _run(self) -> None:
        """Take all steps up to the end; those that are most of a checkpoint's at once."""
        data, stack, memo, marks = self.data, self._stack, self._memo, self._marks
        position, steps = self.position, self._steps
        while (code := data[position]) != _STOP:
            steps += 1
            if steps > MOST_STEPS:
                refuse(f"it has more than {MOST_STEPS} steps")
            position += 2  # past the code and a number of one byte
            if code == _BINPUT:
                memo[data[position - 1]] = stack[-1]
            elif code == _BINGET:
                stack.append(memo[data[position - 1]])
            elif code == _BININT1:
                stack.append(data[position - 1])
            elif code == _LONG_BINPUT:
                position += 3
                index = int.from_bytes(data[position - 4 : position], "little")
                if index > steps:
                    refuse(f"it asks for a memo of {index} places")
                memo[index] = stack[-1]
            elif code == _MARK:
                position -= 1
                marks.append(len(stack))
            else:
                self.position, self._steps = position - 1, steps
                _STEPS[code](self)
                position = self.position
        self.position, self._steps = position + 1, steps

    # -- bytes ------------------------------------------------------------------------------------

    def _read(self, length: int) -> bytes:
        start = self.position
        self.position = start + length
        if self.position > len(self.data):
            refuse(f"it claims {length} bytes where {len(self.data) - start} are left")
        return self.data[start : self.position]

    def _number(self, width: int) -> int:
        return int.from_bytes(self._read(width), "little")

    def _line(self, longest: int = LONGEST_LINE) -> bytes:
        end = self.data.index(b"\n", self.position, self.position + longest + 1)
        line = self.data[self.position : end]
        self.position = end + 1
        return line

    # -- the stack --------------------------------------------------------------------------------

    def _pop(self) -> Any:
        if self._marks and len(self._stack) <= self._marks[-1]:
            raise IndexError
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _top(self) -> Any:
        if self._marks and len(self._stack) <= self._marks[-1]:
            raise IndexError
        return self._stack[-1]

    def _put(self, index: int) -> None:
        if not 0 <= index <= self._steps:
            refuse(f"it asks for a memo of {index} places")
        self._memo[index] = self._top()

    # -- steps ------------------------------------------------------------------------------------

    def _name(self) -> Global:
        module, name = self._line(), self._line()
        return self.calls.name(module.decode("utf-8", "replace"), name.decode("utf-8", "replace"))

    def _append(self, values: Sequence[Any]) -> None:
        target = self._top()
        if type(target) is Group and target.items is None:
            target.take(values)

    def _set(self, values: Sequence[Any]) -> None:
        if len(values) % 2:
            refuse("it has a key without a value")
        self.calls.keys(values[::2])
        self._append(values)

    def _dict(self, values: Sequence[Any]) -> Group:
        self._stack.append(self.calls.group())
        self._set(values)
        return self._stack.pop()

    def _list(self, values: Sequence[Any]) -> Group:
        group = self.calls.group()
        group.take(values)
        return group

    def _frozen(self, values: Sequence[Any]) -> Group:
        self.calls.keys(values)
        return self.calls.group(tuple(values))

    def _build(self, state: Any) -> None:
        if self._top() is TENSOR:
            refuse("it changes a tensor that is made")
        self._append([state])


# -- the steps, by their code ---------------------------------------------------------------------

_Step = Callable[[PickleScan], object]
_STOP, _MARK, _BININT1, _BINGET, _BINPUT, _LONG_BINPUT = b".(Khqr"


def _unknown(_: PickleScan) -> NoReturn:
    refuse("its pickle is damaged or none")


def _push(make: Callable[[PickleScan], Any]) -> _Step:
    return lambda scan: scan._stack.append(make(scan))


def _constant(value: Any) -> _Step:
    return lambda scan: scan._stack.append(value)


def _signed(width: int) -> _Step:
    return _push(lambda scan: int.from_bytes(scan._read(width), "little", signed=True))


def _long(width: int) -> _Step:
    def step(scan: PickleScan) -> Any:
        length = scan._number(width)
        if length > LONGEST_LINE:
            refuse(f"it has a number of {length} bytes")
        return scan.calls.integer(int.from_bytes(scan._read(length), "little", signed=True))

    return _push(step)


def _text(width: int) -> _Step:
    def step(scan: PickleScan) -> str:
        return scan._read(scan._number(width)).decode("utf-8", "surrogatepass")

    return _push(step)


def _bytes(width: int) -> _Step:
    return _push(lambda scan: scan._read(scan._number(width)))


def _decimal(scan: PickleScan) -> Any:
    return scan.calls.integer(int(scan._line().rstrip(b"L")))


def _quoted(scan: PickleScan) -> str:
    escaped: Any = codecs.escape_decode(scan._line(MOST_BYTES).strip(b" ")[1:-1])[0]
    return str(escaped, "utf-8")


def _escaped(scan: PickleScan) -> str:
    return scan._line(MOST_BYTES).decode("raw-unicode-escape")


def _tuple(length: int) -> _Step:
    def step(scan: PickleScan) -> Any:
        values = [scan._pop() for _ in range(length)]
        return scan.calls.group(tuple(reversed(values)))

    return _push(step)


def _reduce(scan: PickleScan) -> None:
    arguments = scan._pop()
    scan._stack.append(scan.calls.call(scan._pop(), arguments))


def _reduce_with_names(scan: PickleScan) -> None:
    scan._pop()
    _reduce(scan)


def _instance(scan: PickleScan) -> Any:
    function = scan._name()
    return scan.calls.call(function, scan.calls.group(tuple(scan._pop_mark())))


def _object(scan: PickleScan) -> Any:
    function, *rest = scan._pop_mark()
    return scan.calls.call(function, scan.calls.group(tuple(rest)))


def _name_of_stack(scan: PickleScan) -> Any:
    name = scan._pop()
    return scan.calls.name(scan._pop(), name)


def _set_one(scan: PickleScan) -> None:
    value = scan._pop()
    scan._set((scan._pop(), value))


def _add(scan: PickleScan) -> None:
    values = scan._pop_mark()
    scan.calls.keys(values)
    scan._append(values)


def _drop(scan: PickleScan) -> None:
    if scan._marks and len(scan._stack) == scan._marks[-1]:
        scan._marks.pop()
    else:
        scan._pop()


def _frame(scan: PickleScan) -> None:
    length = scan._number(8)
    if length > len(scan.data) - scan.position:
        refuse(f"it claims a frame of {length} bytes")


_BY_NAME: dict[str, _Step] = {
    # values
    "N": _constant(None),
    "\x88": _constant(True),
    "\x89": _constant(False),
    "I": _push(_decimal),
    "L": _push(_decimal),
    "J": _signed(4),
    "M": _push(lambda scan: scan._number(2)),
    "\x8a": _long(1),
    "\x8b": _long(4),
    "F": _push(lambda scan: float(scan._line())),
    "G": _push(lambda scan: struct.unpack(">d", scan._read(8))[0]),
    "S": _push(_quoted),
    "V": _push(_escaped),
    "T": _text(4),
    "U": _text(1),
    "X": _text(4),
    "\x8c": _text(1),
    "\x8d": _text(8),
    "B": _bytes(4),
    "C": _bytes(1),
    "\x8e": _bytes(8),
    "\x96": _bytes(8),
    # containers
    "]": _push(lambda scan: scan.calls.group()),
    "}": _push(lambda scan: scan.calls.group()),
    "\x8f": _push(lambda scan: scan.calls.group()),
    ")": _push(lambda scan: scan.calls.group(())),
    "\x85": _tuple(1),
    "\x86": _tuple(2),
    "\x87": _tuple(3),
    "t": _push(lambda scan: scan.calls.group(tuple(scan._pop_mark()))),
    "l": _push(lambda scan: scan._list(scan._pop_mark())),
    "d": _push(lambda scan: scan._dict(scan._pop_mark())),
    "\x91": _push(lambda scan: scan._frozen(scan._pop_mark())),
    "a": lambda scan: scan._append((scan._pop(),)),
    "e": lambda scan: scan._append(scan._pop_mark()),
    "s": _set_one,
    "u": lambda scan: scan._set(scan._pop_mark()),
    "\x90": _add,
    # the stack and the memo
    "0": _drop,
    "1": lambda scan: scan._pop_mark(),
    "2": _push(lambda scan: scan._top()),
    "g": _push(lambda scan: scan._memo[int(scan._line())]),
    "j": _push(lambda scan: scan._memo[scan._number(4)]),
    "p": lambda scan: scan._put(int(scan._line())),
    "\x94": lambda scan: scan._put(len(scan._memo)),
    # names and calls
    "c": _push(lambda scan: scan._name()),
    "\x93": _push(_name_of_stack),
    "R": _reduce,
    "\x81": _reduce,
    "\x92": _reduce_with_names,
    "i": _push(_instance),
    "o": _push(_object),
    "b": lambda scan: scan._build(scan._pop()),
    "Q": _push(lambda scan: scan.calls.storage(scan._pop())),
    # frames
    "\x80": lambda scan: scan._read(1),
    "\x95": _frame,
}
_STEPS: list[_Step] = [_BY_NAME.get(chr(code), _unknown) for code in range(256)]
"""Left out are codes that need what a file does not have: buffers, registries of extensions."""
