"""Run a protocol: features of both sides, every number with what it was made of, the report.

The measures of a protocol together say which features of a side are wanted; each then gives its
numbers. A Fréchet distance of few images is shown together with its bias, its limit and its spread.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ldm import distributed as processes
from ldm.errors import UserError
from ldm.evaluation.extraction import (
    Extractor,
    FeatureCache,
    Features,
    Output,
    Progress,
    Request,
    chosen,
)
from ldm.evaluation.metrics.fid import FeatureStatistics, as_gaussian
from ldm.evaluation.metrics.fid_bias import (
    FEWEST,
    bootstrap_interval,
    frechet_by_size,
    frechet_infinity,
)
from ldm.evaluation.metrics.registry import NOTHING, POINTS, STATISTICS, Number, Side
from ldm.evaluation.networks.base import Network
from ldm.evaluation.protocol import NETWORK_RESIZE, EvaluationProtocol, Measure, SmallSamples
from ldm.evaluation.report import (
    INCEPTION,
    EvaluationReport,
    Measurement,
    describe_source,
    resolution,
    run_facts,
    side_facts,
)
from ldm.evaluation.sources.base import ImageSource, SourceInfo
from ldm.evaluation.sources.statistics import ADM_NETWORK, StoredStatistics

Source = ImageSource | StoredStatistics
EmbedTexts = Callable[[Sequence[str]], Tensor]

REAL, FAKE = "real", "fake"
FEWEST_IMAGES = 4
"""Images of a side: precision and recall look at the third neighbour, a covariance needs two."""


def output_of(measure: Measure, networks: Mapping[str, Network]) -> Output:
    """What a measure looks at."""
    return Output(measure.network, measure.output_of(networks[measure.network].outputs))


def shows_bias(protocol: EvaluationProtocol, count: int) -> bool:
    """Whether the bias of a Fréchet distance of ``count`` fake images is to be shown."""
    small = protocol.small_samples
    return small is not None and count < small.below


def requests_of(
    protocol: EvaluationProtocol, networks: Mapping[str, Network], side: str, count: int
) -> dict[Output, Request]:
    """What is needed of a side of ``count`` images, ``real`` or ``fake``, by output."""
    requests: dict[Output, Request] = {}
    for measure in protocol.measures:
        kind = getattr(measure.definition, side)
        if kind == NOTHING:
            continue
        output = output_of(measure, networks)
        before = requests.get(output, Request())
        if kind == STATISTICS:
            keep = count if side == FAKE and shows_bias(protocol, count) else 0
            requests[output] = replace(before, statistics=True, keep=max(before.keep, keep))
        else:
            most = measure.all_params[f"most_{side}"]
            keep = count if most is None else min(most, count)
            conditions = before.conditions or measure.definition.conditions
            requests[output] = replace(before, keep=max(before.keep, keep), conditions=conditions)
    return requests


def with_bias(
    found: Measurement,
    real: FeatureStatistics,
    fake: Tensor,
    small: SmallSamples,
    seed: int,
) -> tuple[list[Measurement], dict[str, Any]]:
    """The distance with an interval, its limit, and what both were made from.

    Args:
        found: the distance.
        real: statistics of the real images.
        fake: features (N, D) of all fake ones.
        small: how much of it to show.
        seed: of the subsets.

    Returns:
        The measurements: the distance, and with enough images its limit; and an entry of the
        report: distances by subset size, the limit, the interval.
    """
    generator = torch.Generator().manual_seed(seed)
    target = as_gaussian(real)
    sizes = sorted({max(2, round(share * len(fake))) for share in small.sizes} | {len(fake)})
    by_size = frechet_by_size(target, fake, sizes, small.repeats, generator)
    interval = bootstrap_interval(target, fake, small.bootstrap, generator)
    words = ", ".join(f"{d.mean:.4g} of {d.size}" for d in by_size[:-1])
    notes = [found.note, f"of fewer images: {words}" if words else ""]
    distance = replace(
        found,
        interval=(interval.low, interval.high),
        note="; ".join(filter(None, notes)),
    )
    entry: dict[str, Any] = {"by_size": [asdict(d) for d in by_size], "bootstrap": asdict(interval)}
    if len(fake) < FEWEST:
        return [distance], entry
    limit = frechet_infinity(target, fake, generator, small.points)
    words = (
        f"extrapolated to infinitely many images from {small.points} subsets, ± its standard error"
    )
    if limit.value < 0:
        words += "; below 0: too few images for that, or no images of its own"
    how = found.how or {}
    extrapolated = replace(
        found,
        name=f"{found.name}_infinity",
        value=limit.value,
        std=limit.standard_error,
        note="; ".join(filter(None, [found.note, words])),
        how={**how, "params": {**how.get("params", {}), "points": small.points}},
    )
    return [distance, extrapolated], {**entry, "limit": asdict(limit)}


def evaluate(
    real: Source | None,
    fake: Source,
    protocol: EvaluationProtocol,
    networks: Mapping[str, Network],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
    cache: FeatureCache | None = None,
    embed_texts: Mapping[str, EmbedTexts] | None = None,
) -> EvaluationReport | None:
    """Measure generated images by a protocol.

    With several processes (``torch.distributed``) each reads its share of the images.

    Args:
        real: real images, or what was stored of them; None if no metric looks at them.
        fake: generated images.
        protocol: what to measure.
        networks: those of the protocol by name, in eval mode on ``device``.
        device: where they are.
        batch_size: images at once, in each process; changes no number beyond rounding.
        seed: of all random choices but those that a metric's parameters fix.
        progress: shows batches to someone who watches, like tqdm.
        cache: features of earlier calls.
        embed_texts: the text halves of networks, by their names, for CLIP scores.

    Returns:
        The report, None in all processes but the first.

    Raises:
        UserError: a side cannot give what a metric needs.
        CorruptImages: images cannot be read.
    """
    started = time.monotonic()
    if not protocol.needs_real:
        real = None
    elif real is None:
        raise UserError(f"protocol {protocol.name} compares with real images: name them")
    extractor = Extractor(networks, device, batch_size, seed, progress, cache)
    sides = {
        name: {} if source is None else _features(extractor, protocol, name, source)
        for name, source in ((REAL, real), (FAKE, fake))
    }
    if processes.rank_and_count()[0] != 0:
        return None
    infos = None if real is None else real.info, fake.info
    report = EvaluationReport(f"{fake.info.where} by protocol {protocol.name}")
    seen = [_seen(source, sides[name]) for name, source in ((REAL, real), (FAKE, fake))]
    report.details.update(side_facts(protocol, *infos, *seen))
    if isinstance(real, StoredStatistics) and real.images is not None:
        report.details["real_images"] = dataclasses.asdict(real.images.info)
    measuring = _Measuring(protocol, networks, sides, infos, seed, embed_texts or {}, report)
    for measure in protocol.measures:
        measuring.add(measure)
    report.remarks += [f"not as the protocol says: {t}" for t in report.details["departures"]]
    report.remarks += [protocol.remark] if protocol.remark else []
    seconds = round(time.monotonic() - started, 2)
    facts = {"seconds": seconds, "from_cache": extractor.reused}
    report.details["run"] = run_facts(device, batch_size, seed) | facts
    return report


# -- features of a side ----------------------------------------------------------------------


def _features(
    extractor: Extractor, protocol: EvaluationProtocol, side: str, source: Source
) -> dict[Output, Features]:
    if isinstance(source, StoredStatistics):
        return _stored(extractor, protocol, side, source)
    if len(source) < FEWEST_IMAGES:
        raise UserError(f"{len(source)} {side} images: at least {FEWEST_IMAGES} are needed")
    requests = requests_of(protocol, extractor.networks, side, len(source))
    return extractor.images(source, requests, f"{side} images")


def _stored(
    extractor: Extractor, protocol: EvaluationProtocol, side: str, source: StoredStatistics
) -> dict[Output, Features]:
    """What was stored; the features that a metric needs one by one come from its images."""
    count = 0 if source.images is None else len(source.images)
    requests = requests_of(protocol, extractor.networks, side, count)
    found: dict[Output, Features] = {}
    for output, request in requests.items():
        network = extractor.networks[output.network]
        width, name, weights = network.outputs[output.name], network.name, network.weights_sha256
        statistics = None
        if request.statistics:
            statistics = source.of(output.name, width, name, weights)
            _check_resize(source, network)
        found[output] = Features(source.info.count, statistics=statistics)
    by_points = {
        output_of(measure, extractor.networks)
        for measure in protocol.measures
        if getattr(measure.definition, side) == POINTS
    }
    points = {o: replace(request, statistics=False) for o, request in requests.items()}
    points = {output: request for output, request in points.items() if output in by_points}
    if points and source.images is None:
        raise UserError(
            f"'{source.info.where}' holds statistics only, which give a Fréchet distance and no "
            "other metric: name the images, or leave the other metrics out"
        )
    if points and source.images is not None:
        for output, got in extractor.images(source.images, points, f"{side} images").items():
            before = found[output]
            if before.statistics is not None:
                got = dataclasses.replace(got, count=before.count, statistics=before.statistics)
            found[output] = got
    return found


def _check_resize(source: StoredStatistics, network: Network) -> None:
    stored, own = source.info.about.get("resize"), network.resize.describe()
    if stored is None and source.network == ADM_NETWORK:
        stored = dataclasses.replace(network.resize, name=NETWORK_RESIZE).describe()
    if stored is not None and stored != own:
        raise UserError(
            f"'{source.info.where}' holds statistics of images that were resized in another way "
            f"({stored}; here: {own}): they cannot be compared"
        )


def _seen(source: Source | None, features: Mapping[Output, Features]) -> int:
    """Images that numbers are made from: the readable ones; 0 where nobody knows."""
    if source is None or isinstance(source, StoredStatistics):
        return 0 if source is None else source.info.count
    return max((found.count for found in features.values()), default=len(source))


# -- numbers -----------------------------------------------------------------------------------


def numbers_of(
    measure: Measure,
    real: Features | None,
    fake: Features | None,
    seed: int,
    embed_texts: EmbedTexts | None = None,
) -> tuple[list[Number], Side, Side]:
    """The numbers of a measure, and what of both sides they are made from.

    Args:
        measure: the metric and its parameters.
        real: features of the output that it looks at; None if it looks at no real images.
        fake: the same of the generated images.
        seed: of the choice of features, where it takes a part of them.
        embed_texts: the text half of the network.
    """
    of_real = _side(measure, REAL, real, seed, embed_texts)
    of_fake = _side(measure, FAKE, fake, seed, embed_texts)
    return measure.definition.compute(of_real, of_fake, measure.all_params), of_real, of_fake


def _side(
    measure: Measure,
    name: str,
    features: Features | None,
    seed: int,
    embed_texts: EmbedTexts | None,
) -> Side:
    """What a measure looks at of one side."""
    kind = getattr(measure.definition, name)
    if kind == NOTHING or features is None:
        return Side()
    if kind == STATISTICS:
        return Side(features.count, statistics=features.statistics)
    indices = chosen(features.total, measure.all_params[f"most_{name}"], seed)
    inside = torch.isin(features.indices, indices)
    labels = None if features.labels is None else features.labels[inside].tolist()
    captions = None
    if features.captions is not None:
        captions = [features.captions[k] for k in inside.nonzero().flatten().tolist()]
    return Side(int(inside.sum()), None, features.points[inside], labels, captions, embed_texts)


@dataclass(frozen=True)
class _Measuring:
    """Adds the numbers of one measure after another to a report."""

    protocol: EvaluationProtocol
    networks: Mapping[str, Network]
    sides: Mapping[str, Mapping[Output, Features]]
    infos: tuple[SourceInfo | None, SourceInfo]
    seed: int
    embed_texts: Mapping[str, EmbedTexts]
    report: EvaluationReport

    def add(self, measure: Measure) -> None:
        """Compute its numbers."""
        output = output_of(measure, self.networks)
        embed = self.embed_texts.get(output.network)
        of_real, of_fake = (self.sides[name].get(output) for name in (REAL, FAKE))
        numbers, real, fake = numbers_of(measure, of_real, of_fake, self.seed, embed)
        for number in numbers:
            found = self._measurement(measure, output, number, real, fake)
            points, small = self.sides[FAKE][output].points, self.protocol.small_samples
            shown = small is not None and fake.count and shows_bias(self.protocol, fake.count)
            if measure.metric != "frechet" or len(points) != fake.count or not shown:
                self.report.measurements.append(found)
                continue
            assert small is not None
            assert real.statistics is not None
            several, entry = with_bias(found, real.statistics, points, small, self.seed)
            self.report.measurements += several
            self.report.details.setdefault("small_samples", {})[found.name] = entry

    def _measurement(
        self, measure: Measure, output: Output, number: Number, real: Side, fake: Side
    ) -> Measurement:
        network, params = self.networks[output.network], measure.all_params
        counts = [side.count for side in (real, fake) if side.count]
        width = network.outputs[output.name]
        few = measure.metric == "frechet" and min(counts, default=width + 1) <= width
        notes = [
            number.note,
            measure.note,
            f"fewer samples than the {width} features" if few else "",
            *_unsaid(REAL, self.infos[0], real),
            *_unsaid(FAKE, self.infos[1], fake),
            network.remark,
        ]
        name = "fid" if number.name == "fd" and network.name == INCEPTION else number.name
        against = "" if self.infos[0] is None else f"; real: {describe_source(self.infos[0])}"
        return Measurement(
            name=f"{measure.prefix}{name}",
            value=number.value,
            std=number.std,
            num_real=real.count,
            num_fake=fake.count,
            resolution=resolution(self.infos[1]),
            data=f"{describe_source(self.infos[1])}{against}",
            preprocessing=network.resize.describe(),
            features=f"{network.name}.{output.name}",
            features_sha256=self.report.fingerprint(network),
            note="; ".join(filter(None, notes)),
            how={
                "metric": measure.metric,
                "compares_with_real": measure.definition.real != NOTHING,
                "params": params,
                "resize": network.resize.describe(),
                "weights_file": network.weights_file,
            },
        )


def _unsaid(name: str, info: SourceInfo | None, side: Side) -> Iterator[str]:
    """What stored statistics of a side do not say."""
    if side.statistics is None or info is None or info.kind != "statistics":
        return
    if not side.count:
        images = "real" if name == REAL else "generated"
        yield f"the statistics do not say of how many {images} images"
    if info.about.get("resize") is None and info.about.get("network") != ADM_NETWORK:
        yield "statistics do not say how images were resized"
