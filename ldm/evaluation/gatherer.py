"""Features of a side: from the cache, from a pass over the images, or from what was stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ldm.evaluation import processes
from ldm.evaluation.feature_cache import FeatureCache
from ldm.evaluation.gathering import Gathered, Need, Output, Progress, gather
from ldm.evaluation.image_source import ImageSource, SourceInfo
from ldm.evaluation.networks import Network, uses_tf32


@dataclass
class Gatherer:
    """Gathers features.

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
        self, source: ImageSource, needs: Mapping[Output, Need], desc: str
    ) -> dict[Output, Gathered]:
        """What is needed of the images of a source, in one pass at most.

        Raises:
            CorruptImages: images cannot be read.
        """
        found = self._cached(source.info, needs) if self.cache is not None else {}
        self.reused += [f"{desc}, {output.network}.{output.name}" for output in found]
        absent = {output: need for output, need in needs.items() if output not in found}
        if not absent:
            return found
        new = gather(
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
            for output, gathered in new.items():
                if not absent[output].conditions:
                    self.cache.put(self._facts(source.info, output, absent[output]), gathered)
        return found | new

    def _cached(self, info: SourceInfo, needs: Mapping[Output, Need]) -> dict[Output, Gathered]:
        """What every process finds in the cache."""
        assert self.cache is not None
        found = {}
        for output, need in needs.items():
            if need.conditions:
                continue
            stored = self.cache.get(self._facts(info, output, need))
            if all(processes.to_all(stored is not None)) and stored is not None:
                found[output] = stored
        return found

    def _facts(self, info: SourceInfo, output: Output, need: Need) -> dict[str, Any]:
        """All that decides what is gathered."""
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
            "statistics": need.statistics,
            "keep": need.keep,
            "seed": self.seed if need.keep < info.count else None,
        }
