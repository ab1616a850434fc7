from __future__ import annotations

import json
import math

import pytest

from ldm.evaluation.features import weights_sha256
from ldm.evaluation.report import NOT_COMPARABLE, EvaluationReport
from ldm.evaluation.scene_features import SceneFeatures


def report() -> EvaluationReport:
    result = EvaluationReport("Scenes at 32 pixels")
    extractor = SceneFeatures(width=8, dim=16)
    counts = {"num_real": 500, "num_fake": 400, "resolution": (32, 48)}
    result.add("fid", 12.34567, **counts, extractor=extractor)
    result.add("psnr", math.inf, **counts, note="clamped")
    result.add("recall", 0.5, **{**counts, "num_fake": 16}, extractor=extractor, note="k=3")
    return result


def test_json_says_on_what_each_number_was_measured() -> None:
    extractor = SceneFeatures(width=8, dim=16)
    result = EvaluationReport("A title")
    result.add("fid", 1.5, num_real=500, num_fake=400, resolution=[32, 48], extractor=extractor)
    read = json.loads(result.to_json())
    assert read == result.to_dict()
    assert read == {
        "title": "A title",
        "measurements": [
            {
                "name": "fid",
                "value": 1.5,
                "num_real": 500,
                "num_fake": 400,
                "resolution": [32, 48],
                "features": "SceneFeatures",
                "features_sha256": weights_sha256(extractor),
                "note": NOT_COMPARABLE,
            }
        ],
    }


def test_only_numbers_of_features_are_marked() -> None:
    fid, psnr, recall = report().measurements
    assert fid.note == NOT_COMPARABLE
    assert psnr.note == "clamped"
    assert psnr.features is None
    assert recall.note == f"k=3; {NOT_COMPARABLE}; fewer samples than the 16 features"


def test_infinite_values_leave_valid_json() -> None:
    read = json.loads(report().to_json(), parse_constant=pytest.fail)
    assert read["measurements"][1]["value"] == "inf"


def test_table_is_readable() -> None:
    lines = report().table().splitlines()
    assert lines[0] == "Scenes at 32 pixels"
    assert lines[2].split() == ["metric", "value", "real", "fake", "size", "features", "note"]
    assert lines[4].startswith("fid     12.35  500   400   32x48  SceneFeatures ")
    assert lines[4].endswith("not comparable with published FIDs")
    assert len(lines) == 7
