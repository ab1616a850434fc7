"""Seeded damage to files: what disks, copies and people do to them."""

from __future__ import annotations

import random
from collections.abc import Iterator

JSON = (b"null", b"[]", b"5", b'"text"', b"{}", b"[" * 100_000, b"NaN", b"[[1, 2], null]", b"")
"""JSON of another kind, in place of a file's."""


def damaged(content: bytes, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Damaged copies of the content of a file, each with what was done.

    Args:
        content: of the file.
        seed: decides about the places.
        count: copies of each kind of damage.
    """
    rng, size = random.Random(seed), len(content)
    for _ in range(count):
        place, bit = rng.randrange(size), rng.randrange(8)
        flipped = bytes([content[place] ^ (1 << bit)])
        yield f"bit {bit} of byte {place}", content[:place] + flipped + content[place + 1 :]
        place = min(place, 300) if rng.random() < 0.5 else rng.randrange(size)
        yield f"cut at {place}", content[:place]
        length = rng.randint(1, max(size // 4, 1))
        place = rng.randrange(size)
        zeros = content[:place] + bytes(length) + content[place + length :]
        yield f"{length} zeros from {place}", zeros[:size]
        one, other = sorted((rng.randrange(size), rng.randrange(size)))
        length = min(length, other - one, size - other)
        swapped = bytearray(content)
        swapped[one : one + length] = content[other : other + length]
        swapped[other : other + length] = content[one : one + length]
        yield f"{length} bytes at {one} and {other} swapped", bytes(swapped)
        more = rng.randbytes(rng.randint(1, 2000))
        yield f"{len(more)} bytes more", content + more
        yield f"{len(more)} bytes before", more + content
