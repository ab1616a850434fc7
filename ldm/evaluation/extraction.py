"""Features of the images of one side, real or fake: all images once through all networks.

``Extraction`` takes batches as they come, ``extract_features`` those of a source, ``Extractor``
looks into a ``FeatureCache`` first: files under a key of everything that decides what features are.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ldm import distributed as processes
from ldm.containers.tensors import Content, read_tensors, write_tensors
from ldm.evaluation.metrics.fid import FeatureStatistics
from ldm.evaluation.networks.base import Network, features_of, pixels_for, uses_tf32
from ldm.evaluation.sources.base import Batch, CorruptImages, ImageSource, SourceInfo
from ldm.files import reason, shown

_FORMAT = 1
"""Of the files of a cache: another number makes all of them void."""

_log = logging.getLogger(__name__)

Progress = Callable[..., Iterable[Batch]]
"""``progress(batches, total=, desc=)``, like tqdm."""


class Output(NamedTuple):
    """An output of a network: which network, and its name for the output."""

    network: str
    name: str


@dataclass(frozen=True)
class Request:
    """What is wanted of an output.

    Attributes:
        statistics: mean and covariance of all images.
        keep: of how many images the features are kept; 0 = of none.
        conditions: whether labels or captions of these matter too, of which the hash of a source
            does not know.
    """

    statistics: bool = False
    keep: int = 0
    conditions: bool = False


@dataclass
class Features:
    """What is known of an output.

    Attributes:
        count: images that were seen.
        total: images of the source, the unreadable ones included.
        statistics: of all of them, None if not wanted.
        indices: of the images whose features were kept, ascending (K,).
        points: their features (K, D) float32.
        labels: their classes (K,), None where the source has none.
        captions: their captions, None where the source has none.
    """

    count: int = 0
    total: int = 0
    statistics: FeatureStatistics | None = None
    indices: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    points: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    labels: Tensor | None = None
    captions: list[str] | None = None


def chosen(total: int, most: int | None, seed: int) -> Tensor:
    """Ascending indices of the images whose features are kept: all, or ``most`` at random.

    Those of a smaller ``most`` are among those of a larger one. Neither the first images nor every
    n-th one would do: folders are sorted by class, samples have their classes in turn.
    """
    if most is None or most >= total:
        return torch.arange(total)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(total, generator=generator)[:most].sort().values


@torch.no_grad()
def extract_features(
    source: ImageSource,
    networks: Mapping[str, Network],
    requests: Mapping[Output, Request],
    *,
    batch_size: int,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    desc: str = "",
) -> dict[Output, Features]:
    """Pass all images of a source through the networks.

    With several processes each takes its share of the images; all get the statistics of all, only
    the first one gets the kept features of all.

    Args:
        source: the images.
        networks: by name, in eval mode on ``device``.
        requests: what is wanted, by output.
        batch_size: images at once; changes no number beyond rounding.
        seed: of the choice of the features that are kept.
        device: where the networks are.
        progress: shows the batches to someone who watches.
        desc: what they are.

    Raises:
        CorruptImages: some images cannot be read, and the source is not to skip these.
    """
    rank, count = processes.rank_and_count()
    extraction = Extraction(networks, requests, len(source), seed, device)
    batches: Iterable[Batch] = source.batches(batch_size, rank, count)
    if progress is not None and rank == 0:
        mine = -(-len(source) // count)
        batches = progress(batches, total=-(-mine // batch_size), desc=desc)
    error: CorruptImages | None = None
    try:
        for batch in batches:
            extraction.add(batch)
    except CorruptImages as found:  # the other processes must hear of it
        error = found
    processes.raise_together(error)
    parts = processes.to_all(source.corrupt)
    source.corrupt[:] = dict.fromkeys(name for part in parts for name in part)
    return extraction.result()


class _Kept(NamedTuple):
    """Some of the features that are kept, as the fields of ``Features``."""

    indices: Tensor
    points: Tensor
    labels: Tensor | None
    captions: list[str] | None


class Extraction:
    """The features of images that come batch by batch, from a source or from a loop of one's own.

    Args:
        networks: by name, in eval mode on ``device``.
        requests: what is wanted, by output.
        total: images that there are, in all processes.
        seed: of the choice of the features that are kept.
        device: where the networks are.
    """

    def __init__(
        self,
        networks: Mapping[str, Network],
        requests: Mapping[Output, Request],
        total: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._device, self._total = device, total
        self._networks = {output.network: networks[output.network] for output in requests}
        self._widths = {o: self._networks[o.network].outputs[o.name] for o in requests}
        self._count = 0
        self._statistics = {
            output: FeatureStatistics(self._widths[output])
            for output, request in requests.items()
            if request.statistics
        }
        self._keep: dict[Output, Tensor] = {}
        for output, request in requests.items():
            inside = torch.zeros(total, dtype=torch.bool)
            inside[chosen(total, request.keep, seed)] = True
            self._keep[output] = inside
        self._kept: dict[Output, list[_Kept]] = {output: [] for output in requests}

    def add_images(self, images: Tensor) -> None:
        """Take the next images (B, 3, H, W) in [-1, 1]; for a process that is alone."""
        indices = list(range(self._count, self._count + len(images)))
        self._take(
            Batch(indices, list(images), None, None), lambda network: pixels_for(network, images)
        )

    def add(self, batch: Batch) -> None:
        """Take the features of a batch."""
        self._take(batch, lambda _: batch.images)

    def _take(self, batch: Batch, pixels: Callable[[Network], Sequence[Tensor]]) -> None:
        self._count += len(batch.images)
        features = {
            name: features_of(network, pixels(network), self._device)
            for name, network in self._networks.items()
        }
        for output in self._kept:
            points = features[output.network][output.name]
            if output in self._statistics:
                self._statistics[output].update(points)
            inside = self._keep[output][torch.tensor(batch.indices)]
            if inside.any():
                self._kept[output].append(_part(batch, points, inside))

    def result(self) -> dict[Output, Features]:
        """The features of what all processes took; those that are kept only in the first one."""
        count = sum(processes.to_all(self._count))
        found = {}
        for output, parts in self._kept.items():
            own = _joined(parts, self._widths[output])
            kept = _joined(processes.to_first(own), self._widths[output])
            order = kept.indices.argsort()
            captions = kept.captions
            found[output] = Features(
                count,
                self._total,
                self._statistics[output].all_reduce() if output in self._statistics else None,
                kept.indices[order],
                kept.points[order],
                None if kept.labels is None else kept.labels[order],
                None if captions is None else [captions[k] for k in order.tolist()],
            )
        return found


def _part(batch: Batch, points: Tensor, inside: Tensor) -> _Kept:
    members = inside.nonzero().flatten().tolist()
    return _Kept(
        torch.tensor(batch.indices)[inside],
        points[inside],
        None if batch.labels is None else torch.tensor(batch.labels)[inside],
        None if batch.captions is None else [batch.captions[k] for k in members],
    )


def _joined(parts: Sequence[_Kept], width: int) -> _Kept:
    parts = [part for part in parts if len(part.indices)]
    if not parts:
        return _Kept(torch.empty(0, dtype=torch.int64), torch.empty(0, width), None, None)
    labels = [part.labels for part in parts if part.labels is not None]
    captions = [part.captions for part in parts if part.captions is not None]
    return _Kept(
        torch.cat([part.indices for part in parts]),
        torch.cat([part.points for part in parts]),
        torch.cat(labels) if len(labels) == len(parts) else None,
        [text for texts in captions for text in texts] if len(captions) == len(parts) else None,
    )


@dataclass(frozen=True)
class FeatureCache:
    """A folder of features, a safetensors file each.

    Attributes:
        folder: where.
    """

    folder: Path

    @staticmethod
    def key(facts: dict[str, Any]) -> str:
        """Name for what these facts decide: hashes of source and network, resizer, numbers."""
        text = json.dumps({"format": _FORMAT, **facts}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def get(self, facts: dict[str, Any]) -> Features | None:
        """What was stored under these facts; None if nothing was, or the file is damaged.

        A warning says that it is damaged; what is stored next takes its place.
        """
        file = self._file(facts)
        try:
            return _features(read_tensors(file))
        except FileNotFoundError:
            return None
        except (OSError, LookupError, TypeError, ValueError, RecursionError) as error:
            why = reason(error.__cause__ or error)
            _log.warning("%s is damaged and is made anew (%s)", shown(file), why)
            return None

    def put(self, facts: dict[str, Any], features: Features) -> None:
        """Store; a file is complete or not there, of which a warning says why."""
        tensors = {"indices": features.indices, "points": features.points}
        if features.statistics is not None:
            tensors |= {"mean": features.statistics.mean, "cov": features.statistics.cov}
        if features.labels is not None:
            tensors["labels"] = features.labels
        metadata = {
            "count": str(features.count),
            "captions": json.dumps(features.captions),
            "facts": json.dumps(facts),
        }
        try:
            write_tensors(self._file(facts), tensors, metadata)
        except OSError as error:
            _log.warning("features are not kept for the next time: %s", reason(error))

    def _file(self, facts: dict[str, Any]) -> Path:
        return self.folder / f"features-{self.key(facts)[:32]}.safetensors"


def _features(content: Content) -> Features:
    """What ``FeatureCache.put`` stored."""
    tensors, metadata = content
    count, captions = int(metadata["count"]), json.loads(metadata["captions"])
    statistics = None
    if "mean" in tensors:
        statistics = FeatureStatistics.from_moments(tensors["mean"], tensors["cov"], count)
    indices, points = tensors["indices"], tensors["points"]
    return Features(count, count, statistics, indices, points, tensors.get("labels"), captions)


@dataclass
class Extractor:
    """Features of sources, in one pass over each at most.

    Attributes:
        networks: by name, in eval mode on ``device``.
        device: where they are.
        batch_size: images at once.
        seed: of the choice of the features that are kept.
        progress: shows batches to someone who watches.
        cache: features of earlier calls.
        reused: what came from the cache.
    """

    networks: Mapping[str, Network]
    device: torch.device | str = "cpu"
    batch_size: int = 64
    seed: int = 0
    progress: Progress | None = None
    cache: FeatureCache | None = None
    reused: list[str] = field(default_factory=list)

    def images(
        self, source: ImageSource, requests: Mapping[Output, Request], desc: str
    ) -> dict[Output, Features]:
        """What is needed of the images of a source, in one pass at most.

        Raises:
            CorruptImages: images cannot be read.
        """
        found = self._cached(source.info, requests) if self.cache is not None else {}
        self.reused += [f"{desc}, {output.network}.{output.name}" for output in found]
        absent = {output: request for output, request in requests.items() if output not in found}
        if not absent:
            return found
        new = extract_features(
            source,
            self.networks,
            absent,
            batch_size=self.batch_size,
            seed=self.seed,
            device=self.device,
            progress=self.progress,
            desc=f"features of {desc}",
        )
        # What could not be read is lacking, or others stand in its place.
        whole = not source.corrupt and all(found.count == len(source) for found in new.values())
        if self.cache is not None and whole and processes.rank_and_count()[0] == 0:
            for output, features in new.items():
                if not absent[output].conditions:
                    self.cache.put(self._facts(source.info, output, absent[output]), features)
        return found | new

    def _cached(
        self, info: SourceInfo, requests: Mapping[Output, Request]
    ) -> dict[Output, Features]:
        """What every process finds in the cache."""
        assert self.cache is not None
        found = {}
        for output, request in requests.items():
            if request.conditions:
                continue
            stored = self.cache.get(self._facts(info, output, request))
            if all(processes.to_all(stored is not None)) and stored is not None:
                found[output] = stored
        return found

    def _facts(self, info: SourceInfo, output: Output, request: Request) -> dict[str, Any]:
        """All that decides what the features are."""
        network = self.networks[output.network]
        return {
            "source": info.sha256,
            "count": info.count,
            "network": network.name,
            "weights": network.weights_sha256,
            "resize": network.resize.describe(),
            "output": output.name,
            "device": torch.device(self.device).type,
            "tf32": uses_tf32(self.device),
            "statistics": request.statistics,
            "keep": request.keep,
            "seed": self.seed if request.keep < info.count else None,
        }
