"""An exact judge for synthetic scenes: does an image show what its caption says?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

from torch import Tensor

from ldm.data.scene_captions import SceneSpec, parse_caption, relation_between
from ldm.errors import DataError
from ldm.evaluation.scene_objects import UNKNOWN, FoundObject, judge

__all__ = [
    "ASPECTS",
    "UNKNOWN",
    "FoundObject",
    "Verdict",
    "check",
    "judge",
    "summarise",
    "validate_judge",
]


ASPECTS = {
    "shape_and_colour": "share that shows all that is named",
    "count": "exactly what is named",
    "relation": "left of, above, ..., where the caption says so",
    "correct": "all of these",
}
"""What ``summarise`` counts, in the words of a report."""


@dataclass(frozen=True)
class Verdict:
    """What of a caption an image shows.

    Attributes:
        shape_and_colour: every coloured shape of the caption is in the image.
        count: the image holds exactly the objects of the caption and no others.
        relation: the two objects stand as the caption says; None if it does not say.
    """

    shape_and_colour: bool
    count: bool
    relation: bool | None

    @property
    def correct(self) -> bool:
        """The image shows all that the caption says and nothing else."""
        return self.shape_and_colour and self.count and self.relation is not False


class CaptionedImages(Protocol):
    """A data set whose items hold ``image`` and ``caption``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def check(image: Tensor, caption: str) -> Verdict:
    """Judge an image (3, H, W) in [-1, 1] by its caption.

    Raises:
        DataError: the caption is not one of the synthetic scenes' language.
    """
    spec = parse_caption(caption)
    found = judge(image)
    wanted = spec.counts()
    shown = Counter((item.shape, item.colour) for item in found)
    present = all(shown[key] > 0 for key in wanted)
    relation = None
    if spec.relation is not None:
        relation = present and _holds(spec, found, image.shape[2] / image.shape[1])
    return Verdict(present, shown == wanted, relation)


def summarise(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Shares of verdicts that are right, by aspect.

    Returns:
        ``shape_and_colour``, ``count``, ``correct`` and, among the captions that say one,
        ``relation`` (absent if none does).
    """
    if not verdicts:
        raise ValueError("there are no verdicts to summarise")
    n = len(verdicts)
    shares = {
        "shape_and_colour": sum(v.shape_and_colour for v in verdicts) / n,
        "count": sum(v.count for v in verdicts) / n,
        "correct": sum(v.correct for v in verdicts) / n,
    }
    related = [v.relation for v in verdicts if v.relation is not None]
    if related:
        shares["relation"] = sum(related) / len(related)
    return shares


def validate_judge(dataset: CaptionedImages, n: int = 500) -> float:
    """Share of the first ``n`` real scenes on which the judge is right in everything.

    To be called before the judge may judge samples.

    Raises:
        DataError: it is right on fewer than 99 %.
    """
    n = min(n, len(dataset))
    items = (dataset[i] for i in range(n))
    accuracy = sum(check(item["image"], item["caption"]).correct for item in items) / n
    if accuracy < 0.99:
        raise DataError(
            f"the judge is right on only {accuracy:.1%} of {n} real scenes, 99 % are needed: use "
            "unaltered scenes of ldm.data.scenes, at 32 pixels or more"
        )
    return accuracy


def _holds(spec: SceneSpec, found: Sequence[FoundObject], aspect: float) -> bool:
    """Whether any objects of the two classes of ``spec`` stand in its relation."""
    first, second = (
        [f for f in found if (f.shape, f.colour) == (item.shape, item.colour)]
        for item in spec.items
    )
    return any(
        relation_between(a.box, b.box, aspect) == spec.relation
        for a, b in product(first, second)
        if a is not b
    )
