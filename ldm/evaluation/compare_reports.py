"""Whether numbers of two reports may be compared, and if not, why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]
Facts = Sequence[tuple[Sequence[str], str]]
"""Paths of entries, and what to call them."""

LOSSLESS = frozenset({"PNG", "npz", "data set", "never written"})
"""Formats of sources by which pixels come out as they went in."""

_FACTS: Facts = (
    (("features",), "feature network"),
    (("features_sha256",), "weights of the feature network"),
    (("how", "metric"), "metric"),
    (("how", "params"), "parameters of the metric"),
    (("how", "resize"), "resizing"),
    (("num_real",), "number of real images"),
    (("num_fake",), "number of generated images"),
)
"""Entries of a measurement that must be equal."""

_SIDES: Facts = (
    (("real", "sha256"), "the real images (by their hash)"),
    (("real_images", "sha256"), "the real images of precision and recall (by their hash)"),
    (("fake", "about", "sizes"), "size of the generated images"),
    (("labels", "fake", "policy"), "label policy"),
    (("labels", "fake", "classes"), "number of classes"),
    (("run", "rounding"), "rounding"),
    (("run", "dtype"), "precision"),
)
"""Entries of a report that must be equal for comparisons with real images; those of the fake side
also for other metrics."""

_MENTIONED: Facts = (
    (("run", "versions"), "versions"),
    (("run", "seed"), "seed"),
    (("run", "device"), "device"),
    (("fake", "about", "settings", "sampler"), "sampler"),
    (("fake", "about", "settings", "guidance"), "guidance"),
    (("fake", "about", "settings", "checkpoint_sha256"), "weights of the model"),
)
"""Entries that may differ: they are what is compared, or move a number by rounding or chance."""


@dataclass(frozen=True)
class Verdict:
    """Whether one number may be compared.

    Attributes:
        name: of the number.
        values: in both reports.
        reasons: why not; empty if it may.
    """

    name: str
    values: tuple[Any, Any]
    reasons: Sequence[str]

    @property
    def comparable(self) -> bool:
        """Whether the difference of the values says something about the images."""
        return not self.reasons


def compare_reports(a: Report, b: Report) -> list[Verdict]:
    """A verdict on every number that both reports have.

    What a report does not say counts as different: it cannot be known to be equal.

    Args:
        a: a report as ``EvaluationReport.to_dict`` gives it, or read from its JSON.
        b: the other.
    """
    first, second = ({m["name"]: m for m in report["measurements"]} for report in (a, b))
    return [
        Verdict(
            name,
            (first[name]["value"], second[name]["value"]),
            list(_reasons(a, b, first[name], second[name])),
        )
        for name in first
        if name in second
    ]


def other_differences(a: Report, b: Report) -> list[str]:
    """Differences of two reports that do not forbid a comparison, a sentence each."""
    return [
        f"{what}: {_words(_at(a, path))} and {_words(_at(b, path))}"
        for path, what in _MENTIONED
        if _at(a, path) != _at(b, path)
    ]


def _reasons(a: Report, b: Report, x: Report, y: Report) -> Iterator[str]:
    by_features = x.get("features") is not None or y.get("features") is not None
    for path, what in _FACTS:
        needed = by_features or not path[0].startswith("features")
        yield from _difference(x, y, path, what, needed)
    against_real = any(m.get("num_real") or _at(m, ("how", "compares_with_real")) for m in (x, y))
    for path, what in _SIDES:
        if not path[0].startswith("real") or against_real:
            yield from _difference(a, b, path, what, path[0] == "real")
    one, other = _encoding(a), _encoding(b)
    if one != other:
        yield f"file format of the generated images: {one} and {other}"
    one, other = _bytes(a), _bytes(b)
    if one != other:
        yield f"how generated values became bytes: {one} and {other}"


def _difference(
    x: Report, y: Report, path: Sequence[str], what: str, needed: bool
) -> Iterator[str]:
    """A reason if an entry differs, or if it is needed and one of the reports lacks it."""
    one, other = _at(x, path), _at(y, path)
    if one is None and other is None:
        if needed:
            yield f"{what}: neither report says"
    elif one is None or other is None:
        yield f"{what}: only one report says ({_words(one if other is None else other)})"
    elif one != other:
        yield f"{what}: {_words(one)} and {_words(other)}"


def _encoding(report: Report) -> str:
    """How the generated images were written, as far as it changes pixels."""
    formats = _at(report, ("fake", "about", "formats"))
    if not formats:
        return "not said"
    names = formats if isinstance(formats, Mapping) else [_words(formats)]
    return ", ".join(sorted(set(names) - LOSSLESS)) or "without loss"


def _bytes(report: Report) -> str:
    """As --bytes of the sampling scripts; other makers of images do not say."""
    return str(_at(report, ("fake", "about", "settings", "bytes")) or "round")


def _at(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _words(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    if isinstance(value, str) and len(value) == 64 and not value.strip("0123456789abcdef"):
        return f"{value[:12]}..."
    return str(value)
