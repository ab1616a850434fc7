"""One sample of a shard: its image, caption and class, or why it cannot be used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ldm.data.image_bytes import decode_image
from ldm.errors import DataError

ENDINGS = ("jpg", "jpeg", "png", "webp")
NO_IMAGE, UNREADABLE = "no image", "unreadable image"
TOO_SMALL, TOO_LONG = "too small", "too elongated"
NO_CAPTION, NO_CLASS = "no caption", "no class"
REASONS = (NO_IMAGE, UNREADABLE, TOO_SMALL, TOO_LONG, NO_CAPTION, NO_CLASS)


class UnusableError(Exception):
    """A sample that is left out.

    Args:
        reason: one of ``REASONS``.
        message: which sample, and what is wrong with it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


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
    """

    caption: str | None
    classes: int | None
    min_size: int
    max_aspect: float | None
    needed: int | None

    def __call__(self, sample: Mapping[str, Any]) -> tuple[Image.Image, dict[str, Any]]:
        """The image, and ``caption`` and ``class_label`` as asked for.

        Args:
            sample: bytes by ending, with ``__key__`` and ``__url__``.

        Raises:
            UnusableError: something is missing or wrong.
        """
        name = f"sample '{sample['__key__']}' of '{sample['__url__']}'"
        entries: dict[str, Any] = {}
        if self.caption is not None:
            entries["caption"] = read_caption(sample, self.caption)
            if not entries["caption"]:
                raise UnusableError(NO_CAPTION, f"{name} has no {self.caption}")
        if self.classes is not None:
            label = sample.get("cls", b"").strip()
            if not label.isdigit() or int(label) >= self.classes:
                raise UnusableError(NO_CLASS, f"{name} has the class id {label!r}")
            entries["class_label"] = int(label)
        return self._image(sample, name), entries

    def _image(self, sample: Mapping[str, Any], name: str) -> Image.Image:
        ending = next((ending for ending in ENDINGS if ending in sample), None)
        if ending is None:
            raise UnusableError(NO_IMAGE, f"{name} has no {', '.join(ENDINGS)}")
        try:
            image, size = decode_image(sample[ending], name, self.needed)
        except DataError as error:
            raise UnusableError(UNREADABLE, str(error)) from error
        pixels = f"{name} of {size[0]} x {size[1]} pixels"
        if min(size) < self.min_size:
            raise UnusableError(TOO_SMALL, pixels)
        if self.max_aspect is not None and max(size) > self.max_aspect * min(size):
            raise UnusableError(TOO_LONG, pixels)
        return image


def read_caption(sample: Mapping[str, Any], place: str) -> str:
    """The caption of a sample as one line, "" if there is none.

    Args:
        sample: bytes by ending.
        place: an ending (txt) or an ending and a key (json.caption).
    """
    ending, _, key = place.partition(".")
    try:
        value: Any = sample[ending].decode("utf-8")
        value = json.loads(value)[key] if key else value
    except (KeyError, ValueError, TypeError):
        return ""
    return " ".join(value.split()) if isinstance(value, str) else ""
