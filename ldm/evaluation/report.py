"""The report of an evaluation: every number together with what it was measured on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ldm.evaluation.features import FeatureExtractor, weights_sha256
from ldm.evaluation.inception import InceptionFeatures

NOT_COMPARABLE = "not comparable with published FIDs"


@dataclass(frozen=True)
class Measurement:
    """One number of a report.

    Attributes:
        name: such as ``fid`` or ``psnr``.
        value: the number; infinity and NaN are written as text in JSON.
        num_real: number of real images.
        num_fake: number of generated or reconstructed images, 0 where there are none.
        resolution: (height, width) of the images.
        features: name of the feature network, None where there is none.
        features_sha256: fingerprint of its weights.
        note: what a reader must know.
    """

    name: str
    value: float
    num_real: int
    num_fake: int
    resolution: tuple[int, int]
    features: str | None = None
    features_sha256: str | None = None
    note: str = ""


@dataclass
class EvaluationReport:
    """Measurements under a title; ``to_json`` for programs, ``table`` for people."""

    title: str
    measurements: list[Measurement] = field(default_factory=list)

    def add(
        self,
        name: str,
        value: float,
        *,
        num_real: int,
        num_fake: int,
        resolution: Sequence[int],
        extractor: FeatureExtractor | None = None,
        note: str = "",
    ) -> Measurement:
        """Append a measurement.

        With an ``extractor`` its name and fingerprint are recorded, and a number that does not
        come from Inception features is marked as not comparable with published FIDs; one from
        fewer samples than features is marked as such.
        """
        notes = [note] if note else []
        if extractor is not None:
            if not isinstance(extractor, InceptionFeatures):
                notes.append(NOT_COMPARABLE)
            if min(num_real, num_fake) <= extractor.dim:
                notes.append(f"fewer samples than the {extractor.dim} features")
        height, width = resolution
        measurement = Measurement(
            name=name,
            value=float(value),
            num_real=num_real,
            num_fake=num_fake,
            resolution=(height, width),
            features=extractor.name if extractor is not None else None,
            features_sha256=weights_sha256(extractor) if extractor is not None else None,
            note="; ".join(notes),
        )
        self.measurements.append(measurement)
        return measurement

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, texts and numbers."""
        rows = [asdict(measurement) for measurement in self.measurements]
        for row in rows:
            row["resolution"] = list(row["resolution"])
            if not math.isfinite(row["value"]):
                row["value"] = str(row["value"])
        return {"title": self.title, "measurements": rows}

    def to_json(self) -> str:
        """``to_dict`` as indented, strictly valid JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def table(self) -> str:
        """A text table, one line per measurement."""
        rows = [("metric", "value", "real", "fake", "size", "features", "note")]
        for m in self.measurements:
            features = f"{m.features} {(m.features_sha256 or '')[:8]}" if m.features else "-"
            size = f"{m.resolution[0]}x{m.resolution[1]}"
            value = f"{m.value:.4g}"
            rows.append((m.name, value, str(m.num_real), str(m.num_fake), size, features, m.note))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        rule = "  ".join("-" * width for width in widths)
        return "\n".join([self.title, "", lines[0], rule, *lines[1:]])
