from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.evaluation.evaluator import evaluate
from ldm.evaluation.extraction import FeatureCache, chosen
from ldm.evaluation.metrics.alignment import class_accuracy
from ldm.evaluation.metrics.fid import FeatureStatistics, frechet_from_features, save_statistics
from ldm.evaluation.metrics.inception_score import InceptionScore
from ldm.evaluation.metrics.kid import kernel_distance
from ldm.evaluation.metrics.precision_recall import density_coverage, precision_recall
from ldm.evaluation.networks.base import features_of
from ldm.evaluation.networks.resizing import Resizer
from ldm.evaluation.protocol import EvaluationProtocol, Measure, SmallSamples
from ldm.evaluation.report import EvaluationReport, departures
from ldm.evaluation.sources.statistics import ADM_NETWORK, StoredStatistics, read_statistics
from tests.evaluation.small_evaluation import Pictures, Sums, pictures, sums

REAL, FAKE = pictures(60, seed=1), pictures(50, seed=2, shift=20)
NEIGHBOURS = {"most_real": 40, "most_fake": 30}
EVERYTHING = [
    Measure("frechet", "sums"),
    Measure("kernel", "sums", params={"subsets": 5, "size": 20}),
    Measure("inception_score", "sums", params={"splits": 5}),
    Measure("precision_recall", "sums", params=NEIGHBOURS),
    Measure("density_coverage", "sums", params={"k": 4}),
    Measure("class_accuracy", "sums"),
]


def protocol(*measures: Measure, **options: Any) -> EvaluationProtocol:
    return EvaluationProtocol("mine", measures or EVERYTHING, **options)


def run(
    chosen_protocol: EvaluationProtocol,
    real: Pictures | StoredStatistics | None = None,
    fake: Pictures | StoredStatistics | None = None,
    **options: Any,
) -> EvaluationReport:
    real = real or Pictures(REAL, where="real")
    fake = fake or Pictures(FAKE, labels=[k % 5 for k in range(50)], where="fake")
    report = evaluate(real, fake, chosen_protocol, {"sums": sums()}, **options)
    assert report is not None
    return report


def numbers(report: EvaluationReport) -> dict[str, float]:
    return {m.name: m.value for m in report.measurements}


def test_the_numbers_are_those_of_the_metrics() -> None:
    found = numbers(run(protocol(small_samples=None), seed=7))
    x, y = (features_of(sums(), images) for images in (REAL, FAKE))
    real, fake, logits = x["features"], y["features"], y["logits"]
    shares = precision_recall(real[chosen(60, 40, 7)], fake[chosen(50, 30, 7)])
    density, coverage = density_coverage(real, fake, 4)
    top1, top5 = class_accuracy(logits, [k % 5 for k in range(50)])
    assert found == pytest.approx(
        {
            "fd": frechet_from_features(real, fake),
            "kid": kernel_distance(real, fake, 5, 20).mean,
            "inception_score": InceptionScore(50, 5).update(logits).compute().mean,
            "precision": shares.precision,
            "recall": shares.recall,
            "density": density,
            "coverage": coverage,
            "top1_accuracy": top1,
            "top5_accuracy": top5,
        },
        rel=1e-6,
    )


def test_a_set_has_no_distance_from_itself() -> None:
    report = run(protocol(EVERYTHING[0]), fake=Pictures(REAL))
    assert numbers(report)["fd"] < 1e-6


def test_batches_change_no_number() -> None:
    one, many = (numbers(run(protocol(), batch_size=size)) for size in (1, 64))
    assert one == pytest.approx(many, rel=1e-6)


def test_the_report_says_what_numbers_were_made_of() -> None:
    fake = Pictures(
        FAKE,
        labels=[k % 4 for k in range(50)],
        where="fake",
        settings={"sampler": {"name": "ddim", "steps": 50}, "guidance": 1.5},
    )
    report = run(protocol(num_fake=50, num_real=60, labels="uniform"), fake=fake, seed=3)
    read = json.loads(report.to_json())
    distance = read["measurements"][0]
    network = sums()
    assert distance["features"] == "sums.features"
    assert distance["features_sha256"] == network.weights_sha256
    assert distance["how"]["resize"] == "not resized"
    assert (distance["num_real"], distance["num_fake"]) == (60, 50)
    assert read["real"]["sha256"] == Pictures(REAL).info.sha256
    assert read["fake"]["about"]["formats"] == {"PNG": 50}
    assert read["fake"]["about"]["settings"]["sampler"]["steps"] == 50
    assert read["labels"]["fake"] == {"policy": "uniform", "classes": 4, "fewest": 12, "most": 13}
    assert read["protocol"]["name"] == "mine"
    assert read["departures"] == []
    assert read["run"]["seed"] == 3
    assert {"torch", "torchvision", "torch-fidelity", "ldm"} <= read["run"]["versions"].keys()
    assert read["run"]["seconds"] >= 0
    assert "8 bits" in read["run"]["rounding"]
    shares = {m["name"]: m for m in read["measurements"]}
    assert shares["precision"]["how"]["params"] == {"k": 3, **NEIGHBOURS}
    assert (shares["precision"]["num_real"], shares["precision"]["num_fake"]) == (40, 30)
    assert shares["inception_score"]["num_real"] == 0


def test_departures_from_the_protocol_are_said() -> None:
    fake = Pictures(pictures(50, seed=2, size=12), labels=[0] * 40 + [1] * 10, formats={"JPEG": 50})
    asked = protocol(num_fake=50_000, num_real=100, labels="uniform")
    report = run(asked, fake=fake)
    text = "\n".join(report.details["departures"])
    for part in (
        "50 generated images instead of 50000",
        "60 real images instead of 100",
        "JPEG",
        "labels are not uniform: 10 to 40",
        "real images are 8x8, generated ones 12x12",
    ):
        assert part in text
        assert part in report.table()


@pytest.mark.parametrize(
    ("options", "about", "words"),
    [
        ({}, {"selection": "the first 60 of 90, in order"}, "real images are the first 60 of 90"),
        ({}, {"selection": "all 60"}, None),
        ({"num_real": 60}, {"selection": "the first 60 of 90, in order"}, None),
        ({"reference": "train"}, {"where": "run#validation"}, "the validation data, not the train"),
        ({"reference": "validation"}, {"where": "run#train"}, "the train data, not the validation"),
        ({"reference": "train"}, {"where": "run#train"}, None),
        ({"labels": "uniform"}, {"labels": {"classes": 9}}, "5 classes, real ones of 9"),
        ({"labels": "data"}, {"labels": {"classes": 5}}, None),
        ({"labels": "any"}, {"labels": {"classes": 9}}, None),
    ],
)
def test_other_real_images_than_asked_for_are_said(
    options: dict[str, Any], about: dict[str, Any], words: str | None
) -> None:
    info = Pictures(REAL, where=about.pop("where", "real")).info
    if "labels" in about:
        about["labels"] |= {"fewest": 6, "most": 7}
    real = dataclasses.replace(info, about=info.about | about)
    fake = Pictures(FAKE, labels=[k % 5 for k in range(50)]).info
    found = departures(protocol(**options), real, fake, 60, 50)
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


def test_images_that_are_left_out_do_not_count() -> None:
    labels = [k % 5 for k in range(50)]
    fake = Pictures(FAKE, labels=labels, broken=(3, 4), skip_corrupt=True)
    report = run(protocol(EVERYTHING[0], num_fake=50, num_real=60), fake=fake)
    assert report.details["departures"] == ["48 generated images instead of 50"]


def test_other_labels_of_cached_features(tmp_path: Path) -> None:
    """The hash of the images does not know of labels, which are part of the number."""
    asked, cache = protocol(EVERYTHING[5], EVERYTHING[2]), FeatureCache(tmp_path)
    right = [k % 5 for k in range(50)]
    found = []
    for labels in (right, [(label + 1) % 5 for label in right]):
        fake = Pictures(FAKE, labels=labels)
        found.append(numbers(run(asked, fake=fake, cache=cache)))
        assert found[-1] == numbers(run(asked, fake=fake))
    assert found[0]["top1_accuracy"] != found[1]["top1_accuracy"]


def test_a_distance_of_inception_is_called_fid() -> None:
    network = sums()
    network.name = "inception"
    asked = protocol(
        Measure("frechet", "inception"), Measure("frechet", "inception", "logits", prefix="s")
    )
    report = evaluate(Pictures(REAL), Pictures(FAKE), asked, {"inception": network})
    assert report is not None
    assert [m.name for m in report.measurements if "infinity" not in m.name] == ["fid", "sfid"]


# -- few images --------------------------------------------------------------------------------


def test_a_distance_of_few_images_is_shown_with_its_bias() -> None:
    small = SmallSamples(below=51, sizes=(0.4,), repeats=2, points=5, bootstrap=8)
    report = run(protocol(EVERYTHING[0], small_samples=small), fake=Pictures(pictures(50, 5)))
    distance, limit = report.measurements
    assert distance.interval is not None
    low, high = distance.interval
    assert low < distance.value < high
    assert limit.name == "fd_infinity"
    assert limit.std is not None
    entry = report.details["small_samples"]["fd"]
    assert [point["size"] for point in entry["by_size"]] == [20, 50]
    assert entry["by_size"][0]["mean"] > entry["by_size"][1]["mean"]
    assert entry["by_size"][1]["mean"] == pytest.approx(distance.value, rel=1e-9)
    assert limit.value < distance.value
    assert "of 20" in distance.note
    assert "not comparable with published figures" in limit.note
    assert distance.how is not None
    assert limit.how is not None
    assert distance.how["params"] == {}
    assert limit.how == {**distance.how, "params": {"points": 5}}


def test_a_distance_of_enough_images_is_shown_alone() -> None:
    report = run(protocol(EVERYTHING[0], small_samples=SmallSamples(below=50)))
    assert [m.name for m in report.measurements] == ["fd"]
    assert report.measurements[0].interval is None
    assert "small_samples" not in report.details


def test_too_few_images() -> None:
    with pytest.raises(UserError, match="3 fake images: at least 4"):
        run(protocol(), fake=Pictures(FAKE[:3], labels=[0, 1, 2]))
    with pytest.raises(UserError, match="10 parts needs 10 images"):
        run(protocol(Measure("inception_score", "sums")), fake=Pictures(FAKE[:9]))


# -- what sides must have ------------------------------------------------------------------------


def test_metrics_that_look_at_one_side_need_no_other() -> None:
    asked = protocol(EVERYTHING[2])
    report = evaluate(None, Pictures(FAKE), asked, {"sums": sums()})
    assert report is not None
    assert report.details["real"] is None
    with pytest.raises(UserError, match="compares with real images"):
        evaluate(None, Pictures(FAKE), protocol(), {"sums": sums()})


def test_captions_and_classes_must_be_there() -> None:
    asked = protocol(Measure("clip_score", "sums", "features"))
    texts = [f"picture {k}" for k in range(50)]
    with pytest.raises(UserError, match="needs the captions"):
        run(asked)
    with pytest.raises(UserError, match="text half"):
        run(asked, fake=Pictures(FAKE, captions=texts))
    with pytest.raises(UserError, match="needs the classes"):
        run(protocol(EVERYTHING[5]), fake=Pictures(FAKE))

    features = features_of(sums(), FAKE)["features"]

    def embed(captions: Sequence[str]) -> Tensor:
        return torch.stack([features[int(caption.split()[1])] for caption in captions])

    exact = run(asked, fake=Pictures(FAKE, captions=texts), embed_texts={"sums": embed})
    assert numbers(exact)["clip_score"] == pytest.approx(100)
    turned = run(asked, fake=Pictures(FAKE, captions=texts[::-1]), embed_texts={"sums": embed})
    assert numbers(turned)["clip_score"] < 99.9


# -- stored statistics ---------------------------------------------------------------------------


def stored(folder: Path, **changes: str) -> StoredStatistics:
    network = sums()
    statistics = FeatureStatistics(6).update(features_of(network, REAL)["features"])
    about = {
        "network": "sums",
        "weights_sha256": network.weights_sha256,
        "resize": "not resized",
        **changes,
    }
    file = folder / "statistics.npz"
    save_statistics(file, {"pool": statistics}, about)
    found = read_statistics(str(file))
    return dataclasses.replace(found, statistics={"features": found.statistics["pool"]})


def test_stored_statistics_stand_for_images(tmp_path: Path) -> None:
    asked = protocol(EVERYTHING[0])
    report = run(asked, real=stored(tmp_path))
    assert numbers(report) == pytest.approx(numbers(run(asked)), rel=1e-6)
    assert report.measurements[0].num_real == 60
    assert report.details["real"]["kind"] == "statistics"


def test_statistics_that_do_not_say_of_how_many(tmp_path: Path) -> None:
    known = stored(tmp_path)
    info = dataclasses.replace(known.info, count=0)
    report = run(protocol(EVERYTHING[0]), real=dataclasses.replace(known, info=info))
    distance = report.measurements[0]
    assert distance.num_real == 0
    assert "do not say of how many" in distance.note
    assert distance.value == pytest.approx(numbers(run(protocol(EVERYTHING[0])))["fd"], rel=1e-6)
    asked = protocol(EVERYTHING[0], num_fake=20, num_real=20)
    unknown = dataclasses.replace(known, info=info)
    report = run(asked, real=unknown, fake=unknown)
    assert numbers(report)["fd"] < 1e-6
    assert report.details["departures"] == []
    assert "of how many generated images" in report.measurements[0].note


def test_statistics_that_do_not_say_how_images_were_resized(tmp_path: Path) -> None:
    """Those of ADM were made by the network's own way, of others nobody knows."""
    own, other = (Sums().use(size=4, resize=name) for name in ("network", "clean"))
    own.resize = Resizer("network", 4)
    found = stored(tmp_path)
    about = {**found.info.about, "resize": None}
    unsaid = dataclasses.replace(found, info=dataclasses.replace(found.info, about=about))
    about = {**about, "network": ADM_NETWORK}
    info = dataclasses.replace(found.info, about=about)
    adm = dataclasses.replace(found, info=info, network=ADM_NETWORK, weights_sha256=None)
    asked = protocol(Measure("frechet", "inception"))
    notes = []
    for real, network in ((unsaid, other), (adm, own)):
        network.name = "sums" if real is unsaid else "inception"
        report = evaluate(real, Pictures(FAKE), asked, {"inception": network})
        assert report is not None
        notes.append("do not say how images were resized" in report.measurements[0].note)
    assert notes == [True, False]
    other.name = "inception"
    with pytest.raises(UserError, match="resized in another way"):
        evaluate(adm, Pictures(FAKE), asked, {"inception": other})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "inception"}, "of inception.*cannot be compared"),
        ({"weights_sha256": "0" * 64}, "other weights"),
        ({"resize": "299x299, bicubic"}, "resized in another way"),
    ],
)
def test_statistics_of_something_else_are_refused(
    tmp_path: Path, change: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(protocol(EVERYTHING[0]), real=stored(tmp_path, **change))


def test_statistics_give_no_precision(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds statistics only"):
        run(protocol(EVERYTHING[0], EVERYTHING[3]), real=stored(tmp_path))
    images = Pictures(REAL[:40], where="ten thousand")
    both = dataclasses.replace(stored(tmp_path), images=images)
    found = numbers(run(protocol(EVERYTHING[0], EVERYTHING[3], small_samples=None), real=both))
    alone = numbers(run(protocol(EVERYTHING[0], small_samples=None)))
    assert found["fd"] == pytest.approx(alone["fd"], rel=1e-6)  # of all 60
    x, y = (features_of(sums(), part)["features"] for part in (REAL[:40], FAKE))
    shares = precision_recall(x, y[chosen(50, 30, 0)])
    assert (found["precision"], found["recall"]) == pytest.approx(tuple(shares))


def test_subsets_that_are_all_the_same_have_no_spread() -> None:
    measure = Measure("kernel", "sums", params={"subsets": 5, "size": 1000})
    (some,) = run(protocol(measure)).measurements  # 60 real and 50 fake: the real ones differ
    assert some.std is not None
    (all_of_them,) = run(protocol(measure), real=Pictures(REAL[:50])).measurements
    assert all_of_them.std is None
    assert "of all 50" in all_of_them.note
    real, fake = (features_of(sums(), images)["features"] for images in (REAL[:50], FAKE))
    assert all_of_them.value == pytest.approx(kernel_distance(real, fake, 1, 50).mean)


def test_a_limit_below_zero_says_so() -> None:
    report = run(protocol(EVERYTHING[0]), fake=Pictures(REAL))
    limit = next(m for m in report.measurements if m.name == "fd_infinity")
    assert (limit.value < 0) == ("below 0" in limit.note)
    assert limit.value < 0
