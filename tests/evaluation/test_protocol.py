from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from ldm.errors import ConfigError
from ldm.evaluation.metrics.registry import METRICS
from ldm.evaluation.protocol import GIVEN, EvaluationProtocol, Measure, protocol_from

PRESETS = Path(__file__).parents[2] / "configs" / "evaluation"
NAMES = ("adm", "clean", "coco30k", "laptop", "ldm-paper", "quick")


def _preset(name: str) -> EvaluationProtocol:
    file = PRESETS / f"{name}.yaml"
    tree: Any = OmegaConf.to_container(OmegaConf.load(file))
    return protocol_from(tree, str(file))


@pytest.mark.parametrize("name", NAMES)
def test_presets_are_protocols(name: str) -> None:
    protocol = _preset(name)
    assert protocol.name == name
    assert protocol.about
    assert protocol.needs_real


def test_presets_say_what_was_published() -> None:
    paper, adm, quick = _preset("ldm-paper"), _preset("adm"), _preset("quick")
    assert (paper.num_fake, paper.reference, paper.labels) == (50_000, "train", "uniform")
    assert quick.num_fake == 5_000
    assert (adm.num_fake, adm.reference) == (50_000, "file")
    spatial = adm.measures[1]
    assert (spatial.metric, spatial.output, spatial.prefix) == ("frechet", "spatial", "s")
    neighbours = adm.measures[3].all_params
    assert neighbours == {"k": 3, "most_real": 10_000, "most_fake": 50_000}
    assert adm.measures[2].all_params["seed"] is None  # in order, as ADM's script
    assert paper.measures[1].all_params["seed"] == 2020  # torch-fidelity's shuffle
    assert _preset("clean").resize == "clean"
    coco = _preset("coco30k")
    assert (coco.num_fake, coco.num_real, coco.labels) == (30_000, 30_000, "data")
    assert _preset("laptop").networks == [GIVEN]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_fakes": 5}, "num_fakes: unknown key.*did you mean num_fake"),
        ({"measures": []}, "measures: expected a list"),
        ({"measures": [{"metric": "fid"}]}, r"measures\[0\]: metric 'fid' is none of frechet"),
        ({"measures": [{"metrik": "frechet"}]}, r"measures\[0\].metrik: unknown key"),
        ({"measures": [{"network": "inception"}]}, r"measures\[0\].metric: missing"),
        (
            {"measures": [{"metric": "precision_recall", "params": {"K": 3}}]},
            r"measures\[0\]: metric precision_recall: parameter 'K' is none of k",
        ),
        ({"labels": "balanced"}, "labels 'balanced' is none of uniform"),
        ({"reference": "test"}, "reference 'test'"),
        ({"num_fake": 0}, "num_fake 0"),
        ({"small_samples": {"bootstraps": 5}}, "small_samples.bootstraps: unknown key"),
        ({"small_samples": {"sizes": [2]}}, "small_samples: sizes"),
    ],
)
def test_what_a_file_may_not_say(change: dict[str, Any], message: str) -> None:
    tree = {"name": "mine", "measures": [{"metric": "frechet"}], **change}
    with pytest.raises(ConfigError, match=f"^mine.yaml: {message}"):
        protocol_from(tree, "mine.yaml")


def test_a_measure_finds_its_output() -> None:
    outputs = ("pool", "spatial", "logits")
    assert Measure("frechet").output_of(outputs) == "pool"
    assert Measure("inception_score").output_of(outputs) == "logits"
    assert Measure("frechet", output="spatial").output_of(outputs) == "spatial"
    with pytest.raises(ConfigError, match="needs 'logits' of the network given, which gives fc2"):
        Measure("inception_score").output_of(("fc2",))


def test_another_network_takes_the_place_of_the_published_one() -> None:
    protocol, left_out = _preset("adm").with_network("runs/mine", ("features",))
    assert protocol.name == "adm, features runs/mine"
    assert [(m.metric, m.network, m.output) for m in protocol.measures] == [
        ("frechet", "runs/mine", None),
        ("precision_recall", "runs/mine", None),
    ]
    assert left_out == ["sfrechet", "inception_score"]
    laptop, left_out = _preset("laptop").with_network("runs/mine", ("features",))
    assert laptop.name == "laptop"
    assert left_out == []
    assert laptop.networks == ["runs/mine"]
    only = EvaluationProtocol("x", [Measure("inception_score")])
    with pytest.raises(ConfigError, match="runs/mine gives features: too little for x"):
        only.with_network("runs/mine", ("features",))


def test_metrics_that_need_no_real_images() -> None:
    protocol = EvaluationProtocol("x", [Measure("inception_score"), Measure("class_accuracy")])
    assert not protocol.needs_real
    assert {name for name, metric in METRICS.items() if metric.real == "nothing"} == {
        "inception_score",
        "clip_score",
        "class_accuracy",
    }
