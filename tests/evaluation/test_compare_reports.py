from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from ldm.evaluation.compare_reports import compare_reports, other_differences
from tests.evaluation.small_evaluation import Pictures, pictures
from tests.evaluation.test_evaluator import EVERYTHING, FAKE, protocol, run

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    settings = {"sampler": {"name": "ddim", "steps": 50}, "guidance": 1.0}
    fake = Pictures(FAKE, labels=[k % 5 for k in range(50)], settings=settings)
    return run(protocol(*EVERYTHING[:3], small_samples=None), fake=fake).to_dict()


def _reasons(a: dict[str, Any], b: dict[str, Any]) -> dict[str, list[str]]:
    return {verdict.name: list(verdict.reasons) for verdict in compare_reports(a, b)}


def test_equal_protocols_compare(report: dict[str, Any]) -> None:
    other = run(
        protocol(*EVERYTHING[:3], small_samples=None),
        fake=Pictures(pictures(50, seed=9), labels=[k % 5 for k in range(50)]),
    ).to_dict()
    verdicts = compare_reports(report, other)
    assert [verdict.name for verdict in verdicts] == ["fd", "kid", "inception_score"]
    assert all(verdict.comparable for verdict in verdicts)
    assert verdicts[0].values[0] != verdicts[0].values[1]
    assert any("sampler" in sentence for sentence in other_differences(report, other))


def _set(*path: Any, value: Any) -> Change:
    def change(tree: dict[str, Any]) -> None:
        for key in path[:-1]:
            tree = tree[key]
        tree[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "names", "part"),
    [
        (_set("measurements", 0, "features_sha256", value="0" * 64), {"fd"}, "000000000000..."),
        (_set("measurements", 0, "how", "resize", value="clean"), {"fd"}, "resizing: not resized"),
        (_set("measurements", 0, "num_fake", value=10), {"fd"}, "number of generated images"),
        (_set("measurements", 1, "how", "params", "size", value=9), {"kid"}, "parameters"),
        (_set("real", "sha256", value="1" * 64), {"fd", "kid"}, "the real images"),
        (
            _set("fake", "about", "formats", value={"JPEG": 50}),
            {"fd", "kid", "inception_score"},
            "file format",
        ),
        (
            _set("labels", "fake", "policy", value="not uniform"),
            {"fd", "kid", "inception_score"},
            "label policy: uniform and not uniform",
        ),
        (
            _set("labels", "fake", "classes", value=1),
            {"fd", "kid", "inception_score"},
            "number of classes: 5 and 1",
        ),
        (_set("measurements", 0, "features_sha256", value=None), {"fd"}, "only one report says"),
    ],
)
def test_a_difference_forbids_and_is_named(
    report: dict[str, Any], change: Change, names: set[str], part: str
) -> None:
    other = copy.deepcopy(report)
    change(other)
    reasons = _reasons(report, other)
    assert {name for name, found in reasons.items() if found} == names
    for name in names:
        assert len(reasons[name]) == 1
        assert part in reasons[name][0]


def test_formats_without_loss_are_alike(report: dict[str, Any]) -> None:
    other = copy.deepcopy(report)
    other["fake"]["about"]["formats"] = {"never written": 50}
    assert not any(_reasons(report, other).values())
    other["fake"]["about"]["formats"] = {"PNG": 49, "JPEG": 1}
    assert "without loss and JPEG" in _reasons(report, other)["fd"][0]


def test_bytes_are_made_alike(report: dict[str, Any]) -> None:
    other = copy.deepcopy(report)
    other["fake"]["about"]["settings"]["bytes"] = "truncate"
    for pair in ((report, other), (other, report)):
        assert all("became bytes" in reasons[-1] for reasons in _reasons(*pair).values())
    assert not any(_reasons(other, other).values())


def test_what_nobody_says_is_not_taken_for_equal(report: dict[str, Any]) -> None:
    old = {"measurements": [{"name": "fd", "value": 1.0, "features": "sums", "num_real": 60}]}
    reasons = _reasons(old, old)["fd"]
    assert any("weights of the feature network: neither report says" in text for text in reasons)
    assert any("real images (by their hash): neither" in text for text in reasons)
    mixed = _reasons(old, report)["fd"]
    assert any(text.startswith("resizing: only one report says") for text in mixed)


def test_sampler_settings_may_differ(report: dict[str, Any]) -> None:
    other = copy.deepcopy(report)
    other["fake"]["about"]["settings"]["guidance"] = 3.0
    assert not any(_reasons(report, other).values())
    assert other_differences(report, other) == ["guidance: 1.0 and 3.0"]
