"""The features of one side of a comparison: all images once, through all networks, in a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.evaluation import processes
from ldm.evaluation.image_source import Batch, CorruptImages, ImageSource
from ldm.evaluation.networks import Network, features_of
from ldm.evaluation.statistics import FeatureStatistics

Progress = Callable[..., Iterable[Batch]]
"""``progress(batches, total=, desc=)``, like tqdm."""


class Output(NamedTuple):
    """An output of a network: which network, and its name for the output."""

    network: str
    name: str


@dataclass(frozen=True)
class Need:
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
class Gathered:
    """What was gathered of an output.

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
def gather(
    source: ImageSource,
    networks: Mapping[str, Network],
    needs: Mapping[Output, Need],
    *,
    batch_size: int,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    desc: str = "",
) -> dict[Output, Gathered]:
    """Pass all images of a source through the networks.

    With several processes each takes its share of the images; all get the statistics of all, only
    the first one gets the kept features of all.

    Args:
        source: the images.
        networks: by name, in eval mode on ``device``.
        needs: what is wanted, by output.
        batch_size: images at once; changes no number beyond rounding.
        seed: of the choice of the features that are kept.
        device: where the networks are.
        progress: shows the batches to someone who watches.
        desc: what they are.

    Raises:
        CorruptImages: some images cannot be read, and the source is not to skip these.
    """
    rank, count = processes.rank_and_count()
    share = _Share(networks, needs, len(source), seed, device)
    batches: Iterable[Batch] = source.batches(batch_size, rank, count)
    if progress is not None and rank == 0:
        mine = -(-len(source) // count)
        batches = progress(batches, total=-(-mine // batch_size), desc=desc)
    error: CorruptImages | None = None
    try:
        for batch in batches:
            share.add(batch)
    except CorruptImages as found:  # the other processes must hear of it
        error = found
    processes.raise_together(error)
    parts = processes.to_all(source.corrupt)
    source.corrupt[:] = dict.fromkeys(name for part in parts for name in part)
    return share.exchanged()


class _Kept(NamedTuple):
    """Some of the features that are kept, as the fields of ``Gathered``."""

    indices: Tensor
    points: Tensor
    labels: Tensor | None
    captions: list[str] | None


class _Share:
    """What one process gathers."""

    def __init__(
        self,
        networks: Mapping[str, Network],
        needs: Mapping[Output, Need],
        total: int,
        seed: int,
        device: torch.device | str,
    ) -> None:
        self._device, self._total = device, total
        self._networks = {output.network: networks[output.network] for output in needs}
        self._widths = {o: self._networks[o.network].outputs[o.name] for o in needs}
        self._count = 0
        self._statistics = {
            output: FeatureStatistics(self._widths[output])
            for output, need in needs.items()
            if need.statistics
        }
        self._keep: dict[Output, Tensor] = {}
        for output, need in needs.items():
            inside = torch.zeros(total, dtype=torch.bool)
            inside[chosen(total, need.keep, seed)] = True
            self._keep[output] = inside
        self._kept: dict[Output, list[_Kept]] = {output: [] for output in needs}

    def add(self, batch: Batch) -> None:
        """Take the features of a batch."""
        self._count += len(batch.images)
        features = {
            name: features_of(network, batch.images, self._device)
            for name, network in self._networks.items()
        }
        for output in self._kept:
            points = features[output.network][output.name]
            if output in self._statistics:
                self._statistics[output].update(points)
            inside = self._keep[output][torch.tensor(batch.indices)]
            if inside.any():
                self._kept[output].append(_part(batch, points, inside))

    def exchanged(self) -> dict[Output, Gathered]:
        """The same of all processes."""
        count = sum(processes.to_all(self._count))
        found = {}
        for output, parts in self._kept.items():
            own = _joined(parts, self._widths[output])
            kept = _joined(processes.to_first(own), self._widths[output])
            order = kept.indices.argsort()
            captions = kept.captions
            found[output] = Gathered(
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
