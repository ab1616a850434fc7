"""The classes of torchmetrics: the numbers of the functions, in batches, processes and loops."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

from ldm.evaluation.metrics.fid import frechet_from_features
from ldm.evaluation.metrics.inception_score import InceptionScore
from ldm.evaluation.metrics.kid import kernel_distance
from ldm.evaluation.metrics.modules import (
    LPIPS,
    PSNR,
    SSIM,
    DensityCoverageMetric,
    FrechetDistance,
    InceptionScoreMetric,
    KernelDistance,
    PrecisionRecallMetric,
)
from ldm.evaluation.metrics.precision_recall import density_coverage, precision_recall
from ldm.evaluation.metrics.reconstruction import psnr, ssim
from ldm.evaluation.networks.base import features_of
from ldm.evaluation.networks.resizing import to_uint8
from tests.evaluation.small_evaluation import Sums, sums

ROOT = Path(__file__).parents[3]


def images(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 3, 12, 12, generator=generator) * 2 - 1) * (1 - 0.1 * seed)


REAL, FAKE = images(44, 1), images(36, 2)
PAIRS = FAKE, REAL[:36]
GATHERED = "kernel", "shares", "density", "score"  # of which all features are kept


def distances(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().mean((1, 2, 3))


def features(x: Tensor) -> dict[str, Tensor]:
    return features_of(sums(), list(to_uint8(x)))


def number(value: float) -> dict[str, float]:
    return {"value": value}


def want() -> dict[str, dict[str, float]]:
    """What the functions say of all images at once."""
    (real, fake), logits = (features(x)["features"] for x in (REAL, FAKE)), features(FAKE)["logits"]
    return {
        "frechet": number(frechet_from_features(real, fake)),
        "kernel": number(kernel_distance(real, fake, 7, 20).mean),
        "shares": precision_recall(real, fake)._asdict(),
        "density": density_coverage(real, fake)._asdict(),
        "score": number(InceptionScore(36, 4).update(logits).compute().mean),
        "psnr": number(float(psnr(*PAIRS[::-1]).double().mean())),
        "ssim": number(float(ssim(*PAIRS[::-1]).double().mean())),
        "lpips": number(float(distances(*PAIRS).double().mean())),
    }


def metrics() -> dict[str, Metric]:
    return {
        "frechet": FrechetDistance(sums()),
        "kernel": KernelDistance(sums(), subsets=7, size=20),
        "shares": PrecisionRecallMetric(sums()),
        "density": DensityCoverageMetric(sums()),
        "score": InceptionScoreMetric(sums(), splits=4),
        "psnr": PSNR(),
        "ssim": SSIM(),
        "lpips": LPIPS(distances),
    }


def feed(name: str, metric: Metric, batch: int = 7, share: int = 0, shares: int = 1) -> None:
    """One of several consecutive shares of all images, batch by batch."""

    def part(x: Tensor) -> list[Tensor]:
        return list(x.chunk(shares)[share].split(batch))

    if name in ("psnr", "ssim", "lpips"):
        for pred, target in zip(*map(part, PAIRS), strict=True):
            metric.update(pred, target)
    elif name == "score":
        for fake in part(FAKE):
            metric.update(fake)
    else:
        for side, real in ((REAL, True), (FAKE, False)):
            for x in part(side):
                metric.update(x, real=real)


def computed(metric: Metric) -> dict[str, float]:
    value: Any = metric.compute()
    return {k: float(v) for k, v in (value if isinstance(value, dict) else number(value)).items()}


@pytest.mark.parametrize("name", list(metrics()))
def test_batches_give_the_numbers_of_the_functions(name: str) -> None:
    metric, expected = metrics()[name], pytest.approx(want()[name], rel=1e-6)
    feed(name, metric)
    assert computed(metric) == expected
    assert not list(metric.parameters())
    assert not metric.state_dict()
    metric.reset()
    feed(name, metric, batch=50)
    assert computed(pickle.loads(pickle.dumps(metric))) == expected


@pytest.mark.parametrize("name", list(metrics()))
def test_states_of_two_metrics_merge(name: str) -> None:
    first, second = metrics()[name], metrics()[name]
    feed(name, first, share=1, shares=2)
    feed(name, second, share=0, shares=2)
    first.merge_state(second)  # what is handed in comes first
    assert computed(first) == pytest.approx(want()[name], rel=1e-6)


@pytest.mark.parametrize("name", list(metrics()))
def test_no_cast_of_a_model_touches_the_states(name: str) -> None:
    metric = metrics()[name]
    model = nn.ModuleList([metric])
    for share in range(2):
        model.to(torch.bfloat16).half()
        metric.set_dtype(torch.bfloat16)
        feed(name, metric, share=share, shares=2)
    model.to("cpu", torch.bfloat16)
    assert computed(metric) == pytest.approx(want()[name], rel=1e-6)
    model.to("meta", torch.bfloat16)
    assert metric.device.type == "meta"
    for state in metric.metric_state.values():
        for tensor in state if isinstance(state, list) else [state]:
            assert tensor.device.type == "meta"
            assert tensor.dtype != torch.bfloat16


PROCESS = """
import sys
import torch
import torch.distributed as dist
from tests.evaluation.metrics.test_modules import FAKE, GATHERED, REAL, computed, feed, metrics

rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/meet", rank=rank, world_size=2)
found = metrics()
for name, metric in found.items():
    feed(name, metric, share=rank, shares=2)
for name in GATHERED:  # one process has all real images, the other all generated ones
    metric = found[f"{name} apart"] = metrics()[name]
    if name != "score":
        metric.update((FAKE, REAL)[rank], real=bool(rank))
    elif not rank:
        metric.update(FAKE)
torch.save({name: computed(metric) for name, metric in found.items()}, f"{sys.argv[1]}/{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)], cwd=ROOT) for rank in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first == second
    expected = want()
    for name, value in first.items():
        assert value == pytest.approx(expected[name.removesuffix(" apart")], rel=1e-6), name
    assert len(first) == len(expected) + len(GATHERED)


class Loop(pl.LightningModule):
    """Logs metrics of what it validates on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.psnr, self.fid, self.shares = PSNR(), FrechetDistance(sums()), metrics()["shares"]

    def validation_step(self, batch: list[Tensor], _index: int) -> None:
        pred, target = batch
        self.psnr.update(pred, target)
        for images, real in ((pred, False), (target, True)):
            self.fid.update(images, real=real)
            self.shares.update(images, real=real)
        self.log("psnr", self.psnr)
        self.log("fid", self.fid)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.shares.compute())
        self.shares.reset()


def test_they_are_logged_from_a_loop_of_lightning(tmp_path: Path) -> None:
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    module, loader = Loop(), DataLoader(list(zip(*PAIRS, strict=True)), batch_size=8)
    for _ in range(2):  # the second time they begin anew
        (logged,) = trainer.validate(module, loader, verbose=False)
        fake, real = (features(x)["features"] for x in PAIRS)
        shares = precision_recall(real, fake)._asdict()
        expected = {"psnr": want()["psnr"]["value"], "fid": frechet_from_features(real, fake)}
        assert logged == pytest.approx(expected | shares, rel=1e-6)
    assert list(module.state_dict()) == ["weight"]


# -- beside torchmetrics' own ------------------------------------------------------------------


def test_frechet_distance_is_that_of_torchmetrics() -> None:
    theirs = pytest.importorskip("torchmetrics.image.fid")

    class Plain(nn.Module):
        num_features = 6

        def forward(self, x: Tensor) -> Tensor:
            return Sums().embed(x.float())["features"]

    other = theirs.FrechetInceptionDistance(Plain(), input_img_size=(3, 12, 12), normalize=True)
    ours = FrechetDistance(Plain(), dim=6)
    for metric in (ours, other):
        for x, real in ((REAL, True), (FAKE, False)):
            metric.update(x, real=real)
    assert float(ours.compute()) == pytest.approx(float(other.compute()), rel=1e-4)


def test_psnr_is_that_of_torchmetrics() -> None:
    """Its SSIM also counts windows across the border: see the tests of ``ssim``."""
    theirs = pytest.importorskip("torchmetrics.image")
    ours, other = PSNR(), theirs.PeakSignalNoiseRatio(2.0, dim=(1, 2, 3))
    for metric in (ours, other):
        metric.update(*PAIRS)
    assert float(ours.compute()) == pytest.approx(float(other.compute()), rel=1e-5)


def test_images_may_be_bytes() -> None:
    floats, bytes_ = FrechetDistance(sums()), FrechetDistance(sums())
    for x, real in ((REAL, True), (FAKE, False)):
        floats.update(x, real=real)
        bytes_.update(to_uint8(x), real=real)
    assert floats.compute() == bytes_.compute()


# -- wrong use -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FrechetDistance(distances), "needs their length: dim"),
        (lambda: FrechetDistance(sums(), "pool"), "'pool' is none of the outputs features, logits"),
    ],
)
def test_what_cannot_be_measured(make: Callable[[], Metric], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_side_without_images_is_named() -> None:
    metric = FrechetDistance(sums())
    metric.update(REAL, real=True)
    with pytest.raises(ValueError, match="two samples or more, not 0"):
        metric.compute()


def test_the_rest_of_evaluation_does_without_torchmetrics() -> None:
    heavy = (
        "torchmetrics",
        "matplotlib",
        "transformers",
        "pytorch_lightning",
        "open_clip",
        "faiss",
    )
    code = f"import ldm.evaluation, sys; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_pairs_may_have_8_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (
        torch.randint(0, 256, (2, 3, 16, 16), generator=generator, dtype=torch.uint8)
        for _ in range(2)
    )
    for metric in (PSNR(), SSIM()):
        metric.update(one, other)
        eight = float(metric.compute())
        metric.reset()
        metric.update(one / 127.5 - 1, other / 127.5 - 1)
        assert eight == float(metric.compute())
