"""Features on disk, under a key of everything that decides them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ldm.atomic_write import write_atomically
from ldm.evaluation.gathering import Gathered
from ldm.evaluation.statistics import FeatureStatistics

_FORMAT = 1
"""Of the files: another number makes all of them void."""


@dataclass(frozen=True)
class FeatureCache:
    """A folder of gathered features, a safetensors file each.

    Attributes:
        folder: where.
    """

    folder: Path

    @staticmethod
    def key(facts: dict[str, Any]) -> str:
        """Name for what these facts decide: hashes of source and network, resizer, numbers."""
        text = json.dumps({"format": _FORMAT, **facts}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def get(self, facts: dict[str, Any]) -> Gathered | None:
        """What was stored under these facts; None if nothing was, or the file is damaged."""
        file = self._file(facts)
        try:
            with safe_open(file, framework="pt") as content:
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
                metadata = content.metadata()
            count, captions = int(metadata["count"]), json.loads(metadata["captions"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        statistics = None
        if "mean" in tensors:
            statistics = FeatureStatistics.from_moments(tensors["mean"], tensors["cov"], count)
        indices, points = tensors["indices"], tensors["points"]
        labels = tensors.get("labels")
        return Gathered(count, count, statistics, indices, points, labels, captions)

    def put(self, facts: dict[str, Any], gathered: Gathered) -> None:
        """Store; a file is complete or not there."""
        tensors = {"indices": gathered.indices, "points": gathered.points.contiguous()}
        if gathered.statistics is not None:
            tensors |= {"mean": gathered.statistics.mean, "cov": gathered.statistics.cov}
        if gathered.labels is not None:
            tensors["labels"] = gathered.labels
        metadata = {
            "count": str(gathered.count),
            "captions": json.dumps(gathered.captions),
            "facts": json.dumps(facts),
        }
        content = save(tensors, metadata)
        write_atomically(self._file(facts), lambda file: file.write(content))

    def _file(self, facts: dict[str, Any]) -> Path:
        return self.folder / f"features-{self.key(facts)[:32]}.safetensors"
