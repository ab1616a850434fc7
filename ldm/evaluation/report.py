"""The report of an evaluation: every number together with what it was measured on.

``EvaluationReport`` holds the numbers; the functions below it say what stands beside them: both
sides, the policy of labels, departures from a protocol, versions.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

import ldm
from ldm import distributed as processes
from ldm.evaluation.networks.base import Network, uses_tf32
from ldm.evaluation.protocol import EvaluationProtocol
from ldm.evaluation.sources.base import SourceInfo

INCEPTION = "inception"
"""Name of the network whose Fréchet distance is called FID."""
NOT_COMPARABLE = "not comparable with published FIDs"
MOST_SHOWN = 8
"""Channels that a table lists one by one."""
_OPTIONAL = ("interval", "how")
"""Entries that are left out of the JSON where there is nothing to say."""


@dataclass(frozen=True)
class Measurement:
    """One number of a report.

    Attributes:
        name: such as ``fid`` or ``psnr``.
        value: the number; infinity and NaN are written as text in JSON.
        num_real: number of real images.
        num_fake: number of generated or reconstructed images, 0 where there are none.
        resolution: (height, width) of the images.
        std: standard deviation that goes with a mean; ``note`` says over what.
        per_channel: the same number for each channel of the latent.
        data: which images.
        preprocessing: how they were resized and cropped.
        features: name of the feature network, None where there is none.
        features_sha256: fingerprint of its weights.
        note: what a reader must know.
        interval: bounds that hold the number in 95 of 100 repetitions with other fake images.
        how: what else decided the number: metric and parameters, output of the network, resizer.
    """

    name: str
    value: float
    num_real: int
    num_fake: int
    resolution: tuple[int, int]
    std: float | None = None
    per_channel: tuple[float, ...] | None = None
    data: str = ""
    preprocessing: str = ""
    features: str | None = None
    features_sha256: str | None = None
    note: str = ""
    interval: tuple[float, float] | None = None
    how: Mapping[str, Any] | None = None

    def text(self) -> str:
        """The number for people."""
        text = f"{self.value:.4g}" + (f" ± {self.std:.2g}" if self.std is not None else "")
        if self.interval is not None:
            text += f" ({self.interval[0]:.4g} to {self.interval[1]:.4g})"
        return text


@dataclass
class EvaluationReport:
    """Measurements under a title; ``to_json`` for programs, ``table`` for people.

    Attributes:
        title: what was measured.
        measurements: the numbers.
        remarks: sentences about all of them, such as what was not measured and why.
        details: further entries of the JSON, by name.
    """

    title: str
    measurements: list[Measurement] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    _fingerprints: dict[int, str] = field(default_factory=dict, repr=False)

    def add(
        self,
        name: str,
        value: float,
        *,
        num_real: int,
        num_fake: int,
        resolution: Sequence[int],
        std: float | None = None,
        per_channel: Sequence[float] | None = None,
        data: str = "",
        preprocessing: str = "",
        network: Network | None = None,
        note: str = "",
    ) -> Measurement:
        """Append a measurement.

        With a ``network`` its name and fingerprint are recorded, and a number that does not come
        from Inception features is marked as not comparable with published FIDs; one from fewer
        samples than features (of the network's first kind) is marked as such.
        """
        notes = [note] if note else []
        if network is not None:
            remark = network.remark if network.name == INCEPTION else NOT_COMPARABLE
            notes += [remark] if remark else []
            width = next(iter(network.outputs.values()))
            if min(num_real, num_fake) <= width:
                notes.append(f"fewer samples than the {width} features")
        height, width = resolution
        measurement = Measurement(
            name=name,
            value=float(value),
            num_real=num_real,
            num_fake=num_fake,
            resolution=(height, width),
            std=None if std is None else float(std),
            per_channel=None if per_channel is None else tuple(map(float, per_channel)),
            data=data,
            preprocessing=preprocessing,
            features=None if network is None else network.name,
            features_sha256=None if network is None else self.fingerprint(network),
            note="; ".join(notes),
        )
        self.measurements.append(measurement)
        return measurement

    def fingerprint(self, network: Network) -> str:
        """Digest of the weights of a network, found once a report."""
        if id(network) not in self._fingerprints:
            self._fingerprints[id(network)] = network.weights_sha256
        return self._fingerprints[id(network)]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, texts and numbers."""
        rows = [
            {
                key: value
                for key, value in asdict(measurement).items()
                if key not in _OPTIONAL or value is not None
            }
            for measurement in self.measurements
        ]
        content = {"title": self.title, "measurements": rows, "remarks": self.remarks}
        plain: dict[str, Any] = _plain(content | self.details)
        return plain

    def to_json(self) -> str:
        """``to_dict`` as indented, strictly valid JSON."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        # names of files that are no UTF-8: as JSON writes them, or the file would be no text
        return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)

    def table(self) -> str:
        """A text table, one line per measurement; what they have in common is said above it."""
        columns = ["metric", "value", "real", "fake", "size", "features", "note"]
        shared = []
        for name in ("data", "preprocessing"):
            values = {getattr(measurement, name) for measurement in self.measurements} - {""}
            if len(values) > 1:
                columns.insert(-1, name)
            else:
                shared += [f"{name}: {value}" for value in values]
        rows = [columns, *([_cells(m)[name] for name in columns] for m in self.measurements)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        rule = "  ".join("-" * width for width in widths)
        remarks = ["", *self.remarks] if self.remarks else []
        return "\n".join([self.title, *shared, "", lines[0], rule, *lines[1:], *remarks])


def _cells(m: Measurement) -> dict[str, str]:
    notes = [m.note] if m.note else []
    if m.per_channel is not None and len(m.per_channel) > 1:
        numbers = [f"{value:.3g}" for value in m.per_channel]
        if len(numbers) > MOST_SHOWN:
            numbers = [f"{min(m.per_channel):.3g} to {max(m.per_channel):.3g}"]
        notes.insert(0, f"channels {' '.join(numbers)}")
    return {
        "metric": m.name,
        "value": m.text(),
        "real": str(m.num_real),
        "fake": str(m.num_fake),
        "size": f"{m.resolution[0]}x{m.resolution[1]}",
        "features": f"{m.features} {(m.features_sha256 or '')[:8]}" if m.features else "-",
        "data": m.data,
        "preprocessing": m.preprocessing,
        "note": "; ".join(notes),
    }


def _plain(value: Any) -> Any:
    """The same with lists for tuples, and texts for infinity and NaN."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


PACKAGES = ("torch", "torchvision", "torch-fidelity", "pillow", "numpy")
FILES = ("PNG", "JPEG", "WEBP")


def label_policy(info: SourceInfo) -> dict[str, Any] | None:
    """Which classes the images of a source have; None if it has no classes.

    Returns:
        ``policy`` (``uniform``: every class equally often, up to one image) and the counts.
    """
    labels = info.about.get("labels")
    if not labels:
        return {"policy": "captions"} if info.about.get("captions") else None
    even = labels["most"] - labels["fewest"] <= 1
    return {"policy": "uniform" if even else "not uniform", **labels}


def departures(
    protocol: EvaluationProtocol,
    real: SourceInfo | None,
    fake: SourceInfo,
    num_real: int,
    num_fake: int,
) -> list[str]:
    """How the images differ from what the protocol asks for, a sentence each.

    Args:
        protocol: what is asked for.
        real: what is known of the real images, None if no metric looks at them.
        fake: what is known of the generated ones.
        num_real: real images that were measured, without those that cannot be read; 0: not known.
        num_fake: generated ones.
    """
    found = []
    if num_fake and protocol.num_fake not in (None, num_fake):
        found.append(f"{num_fake} generated images instead of {protocol.num_fake}")
    if real is not None:
        found += _other_real_images(protocol, real, num_real)
    lossy = sorted(set(fake.about.get("formats", {})) & {"JPEG", "WEBP"})
    if lossy:
        found.append(f"generated images are {' and '.join(lossy)}: lossy files move every distance")
    policy = label_policy(fake)
    if protocol.labels == "uniform" and policy and policy["policy"] == "not uniform":
        found.append(
            f"labels are not uniform: {policy['fewest']} to {policy['most']} images of each of "
            f"{policy['classes']} classes"
        )
    if real is not None and protocol.labels != "any":
        own, others = (info.about.get("labels") for info in (fake, real))
        if own and others and own["classes"] != others["classes"]:
            found.append(
                f"generated images are of {own['classes']} classes, real ones of "
                f"{others['classes']}"
            )
    if real is not None and _sizes(real) and _sizes(fake) and _sizes(real) != _sizes(fake):
        found.append(f"real images are {_size_words(real)}, generated ones {_size_words(fake)}")
    return found


def _other_real_images(protocol: EvaluationProtocol, real: SourceInfo, count: int) -> list[str]:
    """How the choice of real images differs from what the protocol asks for."""
    found = []
    selection = real.about.get("selection", "")
    if count and protocol.num_real not in (None, count):
        found.append(f"{count} real images instead of {protocol.num_real}")
    elif protocol.num_real is None and selection.startswith("the first"):
        found.append(f"real images are {selection}, instead of all")
    for asked, other in (("train", "validation"), ("validation", "train")):
        if protocol.reference == asked and real.where.endswith(f"#{other}"):
            found.append(f"real images are the {other} data, not the {asked} data")
    return found


def describe_source(info: SourceInfo) -> str:
    """One line for the table."""
    formats = "".join(f" {name}" for name in info.about.get("formats", {}) if name in FILES)
    size = f" {_size_words(info)}" if _sizes(info) else ""
    selection = info.about.get("selection", "")
    chosen = f", {selection}" if selection.startswith("the first") else ""
    return f"{info.where} ({info.kind}: {info.count}{formats}{size}{chosen}, {info.sha256[:8]})"


def resolution(info: SourceInfo) -> tuple[int, int]:
    """(height, width) of the images, the greatest where they differ; (0, 0) if it is not known."""
    sizes = info.about.get("sizes") or {}
    if not sizes:
        return 0, 0
    return sizes["height"][1], sizes["width"][1]


def side_facts(
    protocol: EvaluationProtocol,
    real: SourceInfo | None,
    fake: SourceInfo,
    num_real: int,
    num_fake: int,
) -> dict[str, Any]:
    """The entries of the report about what was compared; for arguments see ``departures``."""
    return {
        "protocol": protocol.to_dict(),
        "departures": departures(protocol, real, fake, num_real, num_fake),
        "real": None if real is None else asdict(real),
        "fake": asdict(fake),
        "labels": {
            "asked": protocol.labels,
            "fake": label_policy(fake),
            "real": None if real is None else label_policy(real),
        },
    }


def run_facts(device: torch.device | str, batch_size: int, seed: int) -> dict[str, Any]:
    """The entries of the report about how it was computed."""
    kind = torch.device(device)
    return {
        "device": torch.cuda.get_device_name(kind) if kind.type == "cuda" else str(kind),
        "dtype": "networks float32, statistics and distances float64",
        "tf32": uses_tf32(kind),
        "rounding": "images are 8 bits per channel before a network sees them",
        "seed": seed,
        "batch_size": batch_size,
        "processes": processes.rank_and_count()[1],
        "versions": {"ldm": ldm.__version__, "python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def _sizes(info: SourceInfo) -> Mapping[str, Any]:
    return info.about.get("sizes") or {}


def _size_words(info: SourceInfo) -> str:
    (top, bottom), (left, right) = (_sizes(info)[side] for side in ("height", "width"))
    least, most = f"{top}x{left}", f"{bottom}x{right}"
    return least if least == most else f"{least} to {most}"
