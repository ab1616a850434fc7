"""What the measures of a protocol together need of a side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ldm.evaluation.gathering import Need, Output
from ldm.evaluation.metrics import NOTHING, STATISTICS
from ldm.evaluation.networks import Network
from ldm.evaluation.protocol import EvaluationProtocol, Measure

REAL, FAKE = "real", "fake"
FEWEST = 4
"""Images of a side: precision and recall look at the third neighbour, a covariance needs two."""


def output_of(measure: Measure, networks: Mapping[str, Network]) -> Output:
    """What a measure looks at."""
    return Output(measure.network, measure.output_of(networks[measure.network].outputs))


def shows_bias(protocol: EvaluationProtocol, count: int) -> bool:
    """Whether the bias of a Fréchet distance of ``count`` fake images is to be shown."""
    small = protocol.small_samples
    return small is not None and count < small.below


def needs_of(
    protocol: EvaluationProtocol, networks: Mapping[str, Network], side: str, count: int
) -> dict[Output, Need]:
    """What is needed of a side of ``count`` images, ``real`` or ``fake``, by output."""
    needs: dict[Output, Need] = {}
    for measure in protocol.measures:
        kind = getattr(measure.definition, side)
        if kind == NOTHING:
            continue
        output = output_of(measure, networks)
        before = needs.get(output, Need())
        if kind == STATISTICS:
            keep = count if side == FAKE and shows_bias(protocol, count) else 0
            needs[output] = replace(before, statistics=True, keep=max(before.keep, keep))
        else:
            most = measure.all_params[f"most_{side}"]
            keep = count if most is None else min(most, count)
            conditions = before.conditions or measure.definition.conditions
            needs[output] = replace(before, keep=max(before.keep, keep), conditions=conditions)
    return needs
