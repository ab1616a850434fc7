"""Image, captions and class of the files of a sample, or why it is left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ldm.data.captions import captions_in, captions_of
from ldm.data.image_io import AS_IT_IS, Reading, decode_image, reading_as
from ldm.data.shards.samples import ENDINGS, describe_endings, endings_of
from ldm.data.shards.tar import Unread
from ldm.errors import DataError
from ldm.files import shown, text_of

NO_IMAGE, UNREADABLE = "no image", "unreadable image"
TOO_SMALL, TOO_LONG = "too small", "too elongated"
NO_CAPTION, NO_CLASS = "no caption", "no class"
REASONS = (NO_IMAGE, UNREADABLE, TOO_SMALL, TOO_LONG, NO_CAPTION, NO_CLASS)
_SHOWN = 8
"""Endings that a message names."""
_DIGITS = 9
"""That a class id may have."""


class UnusableError(Exception):
    """A sample that is left out.

    Args:
        reason: one of ``REASONS``.
        message: which sample, and what is wrong with it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class Complaint:
    """What to say where not one sample can be used: what their files are, and what was wrong."""

    first: str = ""
    endings: Counter[str] = field(default_factory=Counter)

    def add(self, sample: Mapping[str, Any], text: str) -> None:
        """One more sample that cannot be used, and why."""
        self.first = self.first or text
        self.endings.update(endings_of(sample))

    def __str__(self) -> str:
        found = self.endings.most_common(_SHOWN)
        there = ", ".join(f"{shown(ending)} ({count})" for ending, count in found)
        return f"their files end in {there or 'nothing'}; the first: {self.first or 'is not there'}"


@dataclass(frozen=True)
class SampleReader:
    """Makes image and entries of the files of a sample.

    Attributes:
        caption: where the caption is: an ending (txt), or an ending and a key (json.caption); None
            if there is none.
        classes: number of classes, ids in files of the ending cls; None: no classes.
        min_size: least shorter side of an image, in pixels as stored.
        max_aspect: largest ratio of longer to shorter side; None accepts any.
        needed: shorter side to which an image may be reduced while it is decoded.
        images: endings of images, in small letters; the first that a sample has is taken.
        reading: how images are read.
    """

    caption: str | None
    classes: int | None
    min_size: int
    max_aspect: float | None
    needed: int | None
    images: Sequence[str] = ENDINGS
    reading: Reading = AS_IT_IS

    def __call__(self, sample: Mapping[str, Any]) -> tuple[Image.Image, dict[str, Any]]:
        """The image, and ``captions`` (one or more) and ``class_label`` as asked for.

        Args:
            sample: bytes by ending, with ``__key__`` and ``__url__``.

        Raises:
            UnusableError: something is missing or wrong.
        """
        name = sample_name(sample)
        entries: dict[str, Any] = {}
        if self.caption is not None:
            entries["captions"] = read_captions(sample, self.caption)
            if not entries["captions"]:
                there = describe_endings(sample)
                raise UnusableError(NO_CAPTION, f"{name} has no {self.caption} with text; {there}")
        if self.classes is not None:
            label = read_label(sample)
            if label is None or label >= self.classes:
                found = sample.get("cls", b"")
                raise UnusableError(NO_CLASS, f"{name} has the class id {begin_of(found)}")
            entries["class_label"] = label
        return self._image(sample, name), entries

    def _image(self, sample: Mapping[str, Any], name: str) -> Image.Image:
        ending = image_ending(sample, self.images)
        if ending is None:
            raise UnusableError(NO_IMAGE, f"{name} has no {missing_image(sample, self.images)}")
        data = sample[ending]
        if isinstance(data, Unread):
            raise UnusableError(UNREADABLE, f"{name}: its {ending} {data.why}")
        try:
            with reading_as(self.reading):
                image, size = decode_image(data, name, self.needed)
        except DataError as error:
            raise UnusableError(UNREADABLE, str(error)) from error
        pixels = f"{name} of {size[0]} x {size[1]} pixels"
        if min(size) < self.min_size:
            raise UnusableError(TOO_SMALL, pixels)
        if self.max_aspect is not None and max(size) > self.max_aspect * min(size):
            raise UnusableError(TOO_LONG, pixels)
        return image


def sample_name(sample: Mapping[str, Any]) -> str:
    """What messages call a sample."""
    return f"sample '{shown(sample['__key__'])}' of '{shown(sample['__url__'])}'"


def image_ending(sample: Mapping[str, Any], images: Sequence[str] = ENDINGS) -> str | None:
    """The ending of its image; None: it has none."""
    return next((ending for ending in images if ending in sample), None)


def missing_image(sample: Mapping[str, Any], images: Sequence[str] = ENDINGS) -> str:
    """Which endings of images a sample lacks, what it has instead, and what can be done."""
    like = [end for end in endings_of(sample) if end.rpartition(".")[2] in ENDINGS]
    remedy = f"; name the ending, image={like[0]}" if like else ""
    if len(like) > 1:
        remedy += ", or, if keys have dots, dot=last"
    return f"{', '.join(images)}: {describe_endings(sample)}{remedy}"


def read_label(sample: Mapping[str, Any]) -> int | None:
    """The class id of a sample; None: its file ``cls`` is absent or holds no whole number."""
    text = _text(sample.get("cls")).strip()
    digits = text.isascii() and text.isdigit() and len(text) <= _DIGITS
    return int(text) if digits else None


def read_captions(sample: Mapping[str, Any], place: str) -> tuple[str, ...]:
    """The captions of a sample, of which an epoch draws one: the lines of a text, a list in JSON.

    Args:
        sample: bytes by ending.
        place: an ending (txt) or an ending and a key (json.caption).
    """
    if place.lower() in sample:
        return captions_of(_text(sample[place.lower()]))
    ending, _, key = place.partition(".")
    if not key:
        return ()
    try:
        found = captions_in(json.loads(_text(sample.get(ending.lower())))[key])
    except (KeyError, ValueError, TypeError, IndexError, RecursionError):
        return ()
    return tuple(text for text in found or () if text)


def _text(data: Any) -> str:
    """The text in a file; "" if there is none."""
    try:
        return text_of(data) if isinstance(data, bytes) else ""
    except UnicodeDecodeError:
        return ""


def begin_of(data: Any) -> str:
    """The first bytes of a file, for messages."""
    return repr(data[:20]) if isinstance(data, bytes) else f"that {data.why}"
