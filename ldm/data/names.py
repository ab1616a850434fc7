"""Names of files: found as they are written or, if nothing is called so, by what they mean.

macOS keeps an accented letter as two code points where most lists have one; cameras write ``.JPG``,
people ``.jpg``; Windows divides paths by backslashes. Two names mean the same if they are the same
in Unicode's normal form C and with slashes, the case of their endings aside. A name that is not
UTF-8 keeps its bytes, as surrogates: only itself.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ldm.errors import DataError
from ldm.files import shown


def normal(text: str) -> str:
    """A text in normal form C: composed and decomposed spellings of it become the same."""
    return unicodedata.normalize("NFC", text)


def with_slashes(path: str) -> str:
    """A path as it is, or that of Windows with slashes."""
    return posixpath.normpath(path.replace("\\", "/")) if "\\" in path else path


def may_be_a_file(name: str) -> bool:
    """Whether a text, as JSON has it, may be the name of a file."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:  # half of a character
        return False


def stem(name: str) -> str:
    """A path without its ending, as a POSIX path."""
    return str(PurePosixPath(name).with_suffix(""))


class Names:
    """Names that there are.

    Args:
        names: the names, or paths.
        where: they are, for messages.
    """

    def __init__(self, names: Iterable[str], where: str) -> None:
        self._names, self._where = dict.fromkeys(names), where
        self._forms: dict[int, dict[str, list[str]]] = {}

    def find(self, name: str, ending: str | None = None) -> str | None:
        """The name that is meant; None: there is none.

        Args:
            name: as it is written elsewhere.
            ending: the end of it, whose case does not matter; None: what follows its last dot.

        Raises:
            DataError: none is written so, and two mean the same.
        """
        if name in self._names:
            return name
        ending = PurePosixPath(name).suffix if ending is None else ending
        length = len(normal(ending))
        if length not in self._forms:
            self._forms[length] = {}
            for known in self._names:
                self._forms[length].setdefault(_form(known, length), []).append(known)
        found = self._forms[length].get(_form(name, length), [])
        if len(found) > 1:
            self._refuse(found[0], found[1], name)
        return found[0] if found else None

    def match(self, wanted: Iterable[tuple[str, str]]) -> dict[str, str]:
        """The names that are meant, by those that are wanted; what is absent is left out.

        What is wanted as it is written is not given to another spelling of it.

        Args:
            wanted: the beginning of each name, and its ending, whose case does not matter.

        Raises:
            DataError: two names mean the same, and neither is written so.
        """
        exact: dict[str, str] = {}
        others: dict[str, str] = {}
        for begin, ending in wanted:
            name = begin + ending
            if name in self._names:
                exact[name] = name
            else:
                others[name] = ending
        meant: dict[str, str] = {}
        for name, ending in others.items():
            found = self.find(name, ending)
            if found is None or found in exact:
                continue
            if found in meant:
                self._refuse(meant[found], name, found)
            meant[found] = name
        return exact | {name: found for found, name in meant.items()}

    def _refuse(self, one: str, other: str, name: str) -> None:
        raise DataError(
            f"{self._where}: {_spelled(one)} and {_spelled(other)} are two spellings of "
            f"'{shown(name)}': rename or remove one of them"
        )


def _form(name: str, length: int) -> str:
    """What a name means, of which the case of the last ``length`` characters does not matter."""
    name = normal(with_slashes(name))
    begin = max(len(name) - length, 0)
    return name[:begin] + name[begin:].lower()


def _spelled(name: str) -> str:
    """A name, with its code points where they cannot be told from its looks."""
    text = f"'{shown(name)}'"
    return text if name.isascii() else f"{text} ({ascii(name)[1:-1]})"


class Folder:
    """Files below a folder, by paths that were written elsewhere.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[Path, Names] = {}

    def path(self, name: str) -> Path:
        """The file that a path means; what is absent comes back as it is written.

        Raises:
            DataError: there is no such file, and two names mean the same.
        """
        path = self.root / name
        if os.path.exists(path):
            return path
        here = self.root
        for part in PurePosixPath(with_slashes(name).lstrip("/")).parts:
            if part != ".." and not os.path.exists(here / part):
                part = self._in(here).find(part) or part
            here /= part
        return here

    def _in(self, folder: Path) -> Names:
        if folder not in self._names:
            try:
                names = os.listdir(folder)
            except (OSError, ValueError):
                names = []
            self._names[folder] = Names(names, f"folder '{shown(folder)}'")
        return self._names[folder]
