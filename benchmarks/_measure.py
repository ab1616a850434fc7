"""Timing of alternatives in turns, and what every table says about the machine."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

MB = 2**20
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Timing(NamedTuple):
    """Seconds of one call, one entry per round."""

    wall: list[float]
    processor: list[float]
    """Of all threads of this process: other programs lengthen it less than ``wall``."""


def parser(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """Options that all tables share."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--device", default="cpu")
    result.add_argument("--precision", choices=PRECISIONS, default="fp32")
    result.add_argument("--threads", type=int, help="default: OMP_NUM_THREADS, else all cores")
    result.add_argument("--repeats", type=int, default=repeats, help="rounds that are measured")
    result.add_argument("--quick", action="store_true", help="fewer sizes and rounds")
    result.add_argument("--compile", action="store_true", help="a row with torch.compile")
    return result


def begin(arguments: argparse.Namespace, title: str) -> None:
    """Set threads and seed, and print what the table is about and where it was made."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.quick:
        arguments.repeats = min(arguments.repeats, 3)
    torch.manual_seed(0)
    print(f"\n{title}, {arguments.precision}\n{machine(arguments.device)}\n")


def machine(device: str) -> str:
    """Processor or GPU, threads, versions, and how busy the machine was."""
    name, load = _processor(), Path("/proc/loadavg")
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    versions = [f"{part} {importlib.metadata.version(part)}" for part in ("torch", "diffusers")]
    busy = f", load {load.read_text().split()[0]}" if load.exists() else ""
    return f"{name}, {torch.get_num_threads()} threads, {', '.join(versions)}{busy}"


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    amx = " with AMX" if any("amx_bf16" in line for line in lines) else ""
    return (names or [platform.processor() or platform.machine()])[0] + amx


def alternate(
    calls: Mapping[str, Callable[[], object]], repeats: int, device: str
) -> dict[str, Timing]:
    """Time calls in turns, so that all meet the same load; a first round warms up."""
    times = {name: Timing([], []) for name in calls}
    for call in calls.values():
        call()
    for i in range(repeats):
        names = list(calls)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            _wait(device)
            wall, processor = time.perf_counter(), time.process_time()
            calls[name]()
            _wait(device)
            times[name].wall.append(time.perf_counter() - wall)
            times[name].processor.append(time.process_time() - processor)
    return times


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def heading(first: Sequence[str], last: Sequence[str] = ()) -> str:
    """Two lines of Markdown over the rows of ``rows``."""
    columns = [*first, "", "median s", "quartiles", "x ldm", "x ldm, CPU time", *last]
    return f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|"


def rows(first: Sequence[object], times: Mapping[str, Timing], ours: str, device: str) -> list[str]:
    """A line per alternative; ratios are medians of the rounds' ratios to ``ours``."""
    lines = []
    for name, timing in times.items():
        low, middle, high = _quartiles(timing.wall)
        wall = _ratio(timing.wall, times[ours].wall)
        processor = _ratio(timing.processor, times[ours].processor)
        cells = [*map(str, first), name, f"{middle:.4f}", f"{low:.4f} to {high:.4f}", f"{wall:.2f}"]
        cells.append("" if device.startswith("cuda") else f"{processor:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _ratio(values: Sequence[float], ours: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(values, ours, strict=True))


def peak_memory(device: str) -> float:
    """Largest memory of this process so far, bytes."""
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage tells begins with the memory of the parent process
        return float(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def precision(arguments: argparse.Namespace) -> torch.autocast:
    """The context in which both networks run."""
    dtype = PRECISIONS[arguments.precision]
    device = torch.device(arguments.device).type
    return torch.autocast(device, dtype=dtype, enabled=arguments.precision != "fp32")
