"""What a report says beside the numbers: both sides, label policy, departures, versions."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

import ldm
from ldm.evaluation import processes
from ldm.evaluation.image_source import SourceInfo
from ldm.evaluation.networks import uses_tf32
from ldm.evaluation.protocol import EvaluationProtocol

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
