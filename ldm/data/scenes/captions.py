"""The language of the synthetic scenes: what a scene holds, as words and back.

Grammar (lower case, one space between words)::

    caption  = item | item relation item | item {", " item} " and " item
    item     = "a" colour shape | ("two" | "three") colour shape-plural
    relation = "left of" | "right of" | "above" | "below"       (between two single objects)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ldm.errors import DataError

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
RELATIONS = ("left of", "right of", "above", "below")
CLASS_NAMES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
"""Name of every class; the class id is ``shape index * number of colours + colour index``."""

_COUNT_WORDS = {1: "a", 2: "two", 3: "three"}
_COUNTS = {word: count for count, word in _COUNT_WORDS.items()}
_PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
_SINGULARS = {plural: shape for shape, plural in _PLURALS.items()}

CAPTION_WORDS = (
    *("a", "two", "three", "and", "left", "right", "of", "above", "below"),
    *COLOURS,
    *SHAPES,
    *_PLURALS.values(),
)
"""Every word that a caption may hold (the comma aside)."""


def class_index(shape: str, colour: str) -> int:
    """Class id of a coloured shape, an index into ``CLASS_NAMES``."""
    return SHAPES.index(shape) * len(COLOURS) + COLOURS.index(colour)


@dataclass(frozen=True)
class Item:
    """``count`` (1 to 3) equal objects of a scene."""

    shape: str
    colour: str
    count: int = 1

    def __str__(self) -> str:
        noun = self.shape if self.count == 1 else _PLURALS[self.shape]
        return f"{_COUNT_WORDS[self.count]} {self.colour} {noun}"


@dataclass(frozen=True)
class SceneSpec:
    """What a caption says: its items in order and, between two objects, their relation."""

    items: tuple[Item, ...]
    relation: str | None = None

    def counts(self) -> Counter[tuple[str, str]]:
        """Number of objects of each (shape, colour)."""
        counts: Counter[tuple[str, str]] = Counter()
        for item in self.items:
            counts[item.shape, item.colour] += item.count
        return counts


def write_caption(spec: SceneSpec) -> str:
    """The sentence that says ``spec``; ``parse_caption`` is its exact inverse."""
    names = [str(item) for item in spec.items]
    if spec.relation is not None:
        return f"{names[0]} {spec.relation} {names[1]}"
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def parse_caption(caption: str) -> SceneSpec:
    """Read a caption of the grammar above.

    Raises:
        DataError: a word is not known (the known ones are listed), or the words are known but
            do not form a caption.
    """
    words = caption.replace(",", " , ").split()
    unknown = [word for word in words if word != "," and word not in CAPTION_WORDS]
    if unknown:
        raise DataError(
            f"caption '{caption}': unknown word '{unknown[0]}'; known words: "
            f"{', '.join(CAPTION_WORDS)}"
        )
    spec = _parse_words(words, caption)
    if write_caption(spec) != caption:
        raise _malformed(caption)
    return spec


def describe(classes: Sequence[tuple[str, str]], relation: str | None) -> SceneSpec:
    """Spec of a scene with these (shape, colour) objects: equal ones are counted together.

    ``relation`` (of the first object to the second) is kept for two different objects only.
    """
    counts = Counter(classes)
    items = tuple(Item(shape, colour, count) for (shape, colour), count in counts.items())
    related = len(classes) == 2 and len(items) == 2
    return SceneSpec(items, relation if related else None)


def relation_between(first: Sequence[float], second: Sequence[float], aspect: float = 1.0) -> str:
    """Where the box ``first`` lies seen from ``second``, along the axis of larger distance.

    Boxes are (x0, y0, x1, y1) in [0, 1]; ``aspect`` is image width / height.
    """
    dx = (first[0] + first[2] - second[0] - second[2]) * aspect
    dy = first[1] + first[3] - second[1] - second[3]
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def _parse_words(words: list[str], caption: str) -> SceneSpec:
    items = []
    relation = None
    while True:
        items.append(_parse_item(words[:3], caption))
        words = words[3:]
        if not words:
            return SceneSpec(tuple(items), relation)
        if words[0] in (",", "and"):
            words = words[1:]
        else:
            relation = " ".join(words[: 2 if words[0] in ("left", "right") else 1])
            words = words[len(relation.split()) :]
            if relation not in RELATIONS or len(words) != 3 or len(items) != 1:
                raise _malformed(caption)


def _parse_item(words: list[str], caption: str) -> Item:
    if len(words) != 3 or words[0] not in _COUNTS or words[1] not in COLOURS:
        raise _malformed(caption)
    count = _COUNTS[words[0]]
    shape = words[2] if count == 1 else _SINGULARS.get(words[2])
    if shape not in SHAPES:
        raise _malformed(caption)
    return Item(shape, words[1], count)


def _malformed(caption: str) -> DataError:
    return DataError(
        f"caption '{caption}' is not of the form 'a red circle', 'a red circle left of a blue "
        "square', 'two red circles and a green cross' or 'a red circle, a blue square and a green "
        "cross'"
    )
