"""Time and peak memory of the metrics on features, beside torch-fidelity, clean-fid and prdc.

Every implementation runs in a process of its own, so that its peak memory is its own; the features
that it holds are counted, making them is not. They are random, with the spectrum of correlated
features, since no metric's cost depends on what they are.

Example:
  python benchmarks/evaluation.py             FID of 50,000 x 2048 features on both sides; precision
                                              and recall of 10,000 fake beside 50,000 real ones
  python benchmarks/evaluation.py --small     a tenth of the samples, 256 features; prdc too, which
                                              otherwise needs 40 GB
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

MB = 2**20
BATCH = 500


class Features:
    """Features (N, D) float32, batch by batch; counts the time that making them takes."""

    def __init__(self, count: int, dim: int, seed: int) -> None:
        self.count, self.dim, self.seed = count, dim, seed
        self.seconds = self.cpu_seconds = 0.0

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        spectrum = torch.logspace(0, -2, self.dim)
        for start in range(0, self.count, BATCH):
            begin, cpu = time.perf_counter(), time.process_time()
            size = min(BATCH, self.count - start)
            batch = torch.randn(size, self.dim, generator=generator) * spectrum + 0.01 * self.seed
            self.seconds += time.perf_counter() - begin
            self.cpu_seconds += time.process_time() - cpu
            yield batch

    def whole(self) -> Tensor:
        """All of them."""
        features = torch.empty(self.count, self.dim)
        for k, batch in enumerate(self):
            features[k * BATCH : k * BATCH + len(batch)] = batch
        return features


Measure = Callable[[Features, Features], "list[float]"]


def _fid_ours(real: Features, fake: Features) -> list[float]:
    from ldm.evaluation.metrics.fid import FeatureStatistics, frechet_distance

    sides = [FeatureStatistics(side.dim) for side in (real, fake)]
    for statistics, side in zip(sides, (real, fake), strict=True):
        for batch in side:
            statistics.update(batch)
    return [frechet_distance(*sides)]


def _fid_torch_fidelity(real: Features, fake: Features) -> list[float]:
    from torch_fidelity import metric_fid

    sides = [metric_fid.fid_features_to_statistics(side.whole()) for side in (fake, real)]
    return list(metric_fid.fid_statistics_to_metric(*sides, verbose=False).values())


def _fid_clean_fid(real: Features, fake: Features) -> list[float]:
    from cleanfid import fid

    return [float(fid.fid_from_feats(real.whole().numpy(), fake.whole().numpy()))]


def _prc_ours(real: Features, fake: Features) -> list[float]:
    from ldm.evaluation.metrics.precision_recall import precision_recall

    return list(precision_recall(real.whole(), fake.whole()))


def _prc_torch_fidelity(real: Features, fake: Features) -> list[float]:
    from torch_fidelity import metric_prc

    # In parts, to save memory; whole, its distances of 50,000 samples are 10 GB.
    found = metric_prc.prc_features_to_metric(
        fake.whole(), real.whole(), save_cpu_ram=True, verbose=False
    )
    return [found["precision"], found["recall"]]


def _prc_prdc(real: Features, fake: Features) -> list[float]:
    from prdc import compute_prdc

    found = compute_prdc(real.whole().numpy(), fake.whole().numpy(), nearest_k=3)
    return [found["precision"], found["recall"]]


METRICS: dict[str, dict[str, Measure]] = {
    "fid": {
        "ldm": _fid_ours,
        "torch-fidelity": _fid_torch_fidelity,
        "clean-fid": _fid_clean_fid,
    },
    "precision, recall": {
        "ldm": _prc_ours,
        "torch-fidelity": _prc_torch_fidelity,
        "prdc": _prc_prdc,
    },
}
FAKES = {"fid": 50_000, "precision, recall": 10_000}
REALS = 50_000
DIM, SMALL_DIM = 2048, 256


def main() -> None:
    """Measure all implementations, or one (what the processes started here do)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a quick look")
    parser.add_argument("--metric", choices=METRICS, help="only this one")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(_measure(arguments)))
        return
    for metric in [arguments.metric] if arguments.metric else METRICS:
        _compare(metric, arguments.small)


def _compare(metric: str, small: bool) -> None:
    """Start a process for each implementation, and print a table."""
    counts, dim = _sizes(metric, small)
    print(
        f"{metric}: {counts[0]} real, {counts[1]} fake, {dim} features, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"{'':<16}{'seconds':>10}{'CPU s':>10}{'x ldm (CPU)':>13}{'peak MB':>10}  values")
    ours = None
    for name in METRICS[metric]:
        if name == "prdc" and not small:
            continue
        command = [sys.executable, __file__, "--metric", metric, "--only", name]
        command += ["--small"] if small else []
        finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        row = json.loads(finished.stdout.splitlines()[-1])
        ours = ours or row["cpu_seconds"]
        values = " ".join(f"{value:.9g}" for value in row["values"])
        print(
            f"{name:<16}{row['seconds']:>10.1f}{row['cpu_seconds']:>10.1f}"
            f"{row['cpu_seconds'] / ours:>13.2f}{row['peak'] / MB:>10.0f}  {values}",
            flush=True,
        )


def _sizes(metric: str, small: bool) -> tuple[tuple[int, int], int]:
    share, dim = (10, SMALL_DIM) if small else (1, DIM)
    return (REALS // share, FAKES[metric] // share), dim


@torch.no_grad()
def _measure(arguments: argparse.Namespace) -> dict[str, object]:
    warnings.filterwarnings("ignore")
    measure = METRICS[arguments.metric][arguments.only]
    measure(Features(20, 8, 0), Features(20, 8, 1))  # loads modules and kernels
    counts, dim = _sizes(arguments.metric, arguments.small)
    sides = [Features(count, dim, seed) for seed, count in enumerate(counts)]
    before = _peak()
    begin, cpu = time.perf_counter(), time.process_time()
    values = measure(*sides)
    return {
        "seconds": time.perf_counter() - begin - sum(side.seconds for side in sides),
        "cpu_seconds": time.process_time() - cpu - sum(side.cpu_seconds for side in sides),
        "peak": _peak() - before,
        "values": values,
    }


def _peak() -> float:
    """Largest memory so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


if __name__ == "__main__":
    main()
