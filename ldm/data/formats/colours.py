"""What the colours of a file mean: conversion to sRGB by its ICC profile."""

from __future__ import annotations

import functools
import io
import zlib

from PIL import Image

from ldm.data.formats.encoded import Encoded

STORED, SRGB = "stored", "srgb"
COLORS = (STORED, SRGB)
"""Values of the option ``color``."""
_MOST_PROFILE = 1 << 24
_PLAIN = {"LA": "L", "La": "L", "RGBA": "RGB", "RGBa": "RGB", "P": "RGB", "PA": "RGB", "1": "L"}
_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK", "LAB": "Lab "}


class ProfileError(Exception):
    """A profile that cannot be used."""


def stored_profile(encoded: Encoded) -> bytes:
    """The ICC profile of a file, unpacked; empty if there is none.

    Raises:
        ProfileError: it is damaged or longer than a profile may be.
    """
    if not encoded.compressed or not encoded.profile:
        return encoded.profile
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(encoded.profile, _MOST_PROFILE)
    except zlib.error as error:
        raise ProfileError(str(error)) from error
    if not unpacker.eof:
        raise ProfileError("it is too long or cut off")
    return profile


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """An image of 8 bits in sRGB: RGB, or RGBA where it has transparency.

    Args:
        image: of any mode but those with more than 8 bits.
        profile: of its colours.

    Raises:
        ProfileError: the profile is damaged, for other colours, or Pillow lacks LittleCMS.
    """
    mode = _PLAIN.get(image.mode, image.mode)
    change = _transform(profile, mode)
    if change is None:
        return image
    clear = image.has_transparency_data
    alpha = image.convert("RGBA").getchannel("A") if clear else None
    plain = image.convert("RGBA").convert(mode) if clear else image.convert(mode)
    try:
        converted = change.apply(plain)
    except Exception as error:
        raise ProfileError(str(error)) from error
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str):  # type: ignore[no-untyped-def]
    """From a profile to sRGB; None: it is sRGB."""
    try:
        from PIL import ImageCms

        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space
        if space != _SPACES.get(mode):
            raise ProfileError(f"it is for colours '{space.strip()}', the image has mode {mode}")
        if "sRGB" in ImageCms.getProfileDescription(source) and mode == "RGB":
            return None
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(source, srgb, mode, "RGB")
    except ProfileError:
        raise
    except Exception as error:
        raise ProfileError(str(error) or type(error).__name__) from error
