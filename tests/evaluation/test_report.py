from __future__ import annotations

import json
import math

import pytest

from ldm.evaluation.networks.base import weights_sha256
from ldm.evaluation.networks.small import SceneFeatures
from ldm.evaluation.report import NOT_COMPARABLE, EvaluationReport


def report() -> EvaluationReport:
    result = EvaluationReport("Scenes at 32 pixels")
    network = SceneFeatures(width=8, dim=16)
    counts = {"num_real": 500, "num_fake": 400, "resolution": (32, 48)}
    result.add("fid", 12.34567, **counts, network=network)
    result.add("psnr", math.inf, **counts, note="clamped")
    result.add("recall", 0.5, **{**counts, "num_fake": 16}, network=network, note="k=3")
    return result


def test_json_says_on_what_each_number_was_measured() -> None:
    network = SceneFeatures(width=8, dim=16)
    result = EvaluationReport("A title")
    result.add(
        "fid",
        1.5,
        num_real=500,
        num_fake=400,
        resolution=[32, 48],
        std=0.25,
        per_channel=[1, 2.5],
        data="photos",
        preprocessing="center crop",
        network=network,
    )
    result.remarks.append("psnr was not computed")
    result.details["verdict"] = {"ready": True, "reasons": ("a", "b")}
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
                "std": 0.25,
                "per_channel": [1.0, 2.5],
                "data": "photos",
                "preprocessing": "center crop",
                "features": "SceneFeatures",
                "features_sha256": weights_sha256(network),
                "note": NOT_COMPARABLE,
            }
        ],
        "remarks": ["psnr was not computed"],
        "verdict": {"ready": True, "reasons": ["a", "b"]},
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
    result = EvaluationReport("x", details={"facts": {"psnr": [math.nan, 1.0]}})
    assert json.loads(result.to_json())["facts"]["psnr"] == ["nan", 1.0]


def test_table_is_readable() -> None:
    lines = report().table().splitlines()
    assert lines[0] == "Scenes at 32 pixels"
    assert lines[2].split() == ["metric", "value", "real", "fake", "size", "features", "note"]
    assert lines[4].startswith("fid     12.35  500   400   32x48  SceneFeatures ")
    assert lines[4].endswith("not comparable with published FIDs")
    assert len(lines) == 7


def test_table_says_once_what_all_numbers_share() -> None:
    result = EvaluationReport("A title", remarks=["lpips was not computed"])
    about = {"num_real": 5, "num_fake": 5, "resolution": (8, 8), "data": "photos"}
    result.add("psnr", 25.123, std=3.21, preprocessing="crop", note="dB", **about)
    result.add("kl", 2.0, per_channel=[1.0, 3.0], preprocessing="crop", note="nats", **about)
    result.add("std", 2.0, per_channel=range(16), preprocessing="crop", **about)
    lines = result.table().splitlines()
    assert lines[1:3] == ["data: photos", "preprocessing: crop"]
    assert "25.12 ± 3.2" in lines[6]
    assert lines[6].endswith("dB")
    assert lines[7].endswith("channels 1 3; nats")
    assert lines[8].endswith("channels 0 to 15")
    assert lines[-1] == "lpips was not computed"
    result.add("ssim", 0.5, preprocessing="resize", **about)
    lines = result.table().splitlines()
    assert "preprocessing" in lines[3]
    assert "resize" in next(line for line in lines if line.startswith("ssim"))


def test_the_fingerprint_is_taken_once_per_network(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    place = "ldm.evaluation.networks.base.weights_sha256"
    monkeypatch.setattr(place, lambda e: calls.append(e) or "f")
    result, networks = EvaluationReport("x"), [SceneFeatures(8, 4), SceneFeatures(8, 4)]
    for network in (*networks, *networks):
        result.add("fd", 1, num_real=9, num_fake=9, resolution=(8, 8), network=network)
    assert len(calls) == 2
