"""The metrics as ``torchmetrics.Metric``, to be logged from anyone's loop.

``update`` with a batch in every step, ``compute`` over all of them and all processes, ``reset``.
The numbers are those of the functions of ``ldm.evaluation``, whose docstrings say what they mean.
TorchMetrics loads matplotlib and transformers, so ``ldm.evaluation`` does not import this module.

Images for a network are uint8 (B, 3, H, W), or float in [-1, 1], which is rounded to 8 bits. It is
one of ``ldm.evaluation.network``, a ``FeatureNetwork``, or any function of the images, as they are,
to features (B, D) with the length D beside it. It is no part of the metric's state: it follows the
images to their device, and no checkpoint holds it. Sums are float64, which MPS lacks, and stay so
where a model that holds the metric is cast. A process may have no images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ldm.evaluation.metrics.fid import FeatureStatistics, frechet_distance
from ldm.evaluation.metrics.inception_score import InceptionScore
from ldm.evaluation.metrics.kid import kernel_distance
from ldm.evaluation.metrics.precision_recall import density_coverage, precision_recall
from ldm.evaluation.metrics.reconstruction import Distance, psnr, ssim
from ldm.evaluation.networks.base import Network, features_of
from ldm.evaluation.networks.resizing import to_uint8

__all__ = [
    "LPIPS",
    "PSNR",
    "SSIM",
    "DensityCoverageMetric",
    "FrechetDistance",
    "InceptionScoreMetric",
    "KernelDistance",
    "PrecisionRecallMetric",
]

FeatureFunction = Callable[[Tensor], Tensor]


class _Features:
    """One output of a network as a function of images; no module, so that no metric owns it."""

    def __init__(
        self, network: Network | FeatureFunction, output: str | None, dim: int | None
    ) -> None:
        outputs: dict[str, int] | None = getattr(network, "outputs", None)
        self.network: Any = network
        self.output: str | None = None
        if outputs is not None:
            self.output = output or next(iter(outputs))
            if self.output not in outputs:
                raise ValueError(f"{output!r} is none of the outputs {', '.join(outputs)}")
            dim = outputs[self.output]
        if dim is None:
            raise ValueError("a function that gives features needs their length: dim")
        self.dim = dim

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, D) of images (B, 3, H, W)."""
        network = self.network
        if isinstance(network, nn.Module):
            network = network.to(images.device)
        if self.output is not None:
            pixels = images if images.dtype == torch.uint8 else to_uint8(images)
            return features_of(network, list(pixels), images.device)[self.output]
        features: Tensor = network(images)
        return features


class _Exact(Metric):
    """Keeps the precision of its states, and can be gathered where a process has no images."""

    _features: _Features

    def _apply(
        self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ""
    ) -> nn.Module:
        def moved(value: Tensor) -> Tensor:
            result = fn(value)
            return result if result.dtype == value.dtype else value.to(result.device)

        return super()._apply(moved, exclude_state)

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        for name in self._defaults:
            if isinstance(rows := getattr(self, name), list) and not rows:
                # gathered are tensors of as many dimensions; torchmetrics would fill in shape (0,)
                setattr(self, name, [_joined([], self._features.dim).to(self.device)])
        super()._sync_dist(*args, **kwargs)


class FrechetDistance(_Exact):
    """Fréchet distance of real and generated images, called FID with Inception's ``pool``.

    Of either side the count, the sum and the sum of products (D, D) of the features are kept.

    Args:
        network: makes the features.
        output: of the network; None = its first.
        dim: D, of a function.
        options: of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def __init__(
        self,
        network: Network | FeatureFunction,
        output: str | None = None,
        dim: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._features = _Features(network, output, dim)
        for side in ("real", "fake"):
            zeros = torch.zeros(self._features.dim, dtype=torch.float64)
            self.add_state(f"{side}_count", torch.tensor(0), dist_reduce_fx="sum")
            self.add_state(f"{side}_sum", zeros, dist_reduce_fx="sum")
            self.add_state(f"{side}_products", zeros.outer(zeros), dist_reduce_fx="sum")

    def update(self, images: Tensor, real: bool) -> None:
        """Add images (B, 3, H, W) of one side."""
        side = "real" if real else "fake"
        features = self._features(images).to(self.device, torch.float64)
        values = (len(features), features.sum(0), features.T @ features)
        for name, value in zip(("count", "sum", "products"), values, strict=True):
            setattr(self, f"{side}_{name}", getattr(self, f"{side}_{name}") + value)

    def compute(self) -> Tensor:
        """The distance, ().

        Raises:
            ValueError: a side has fewer than two images, or a feature is not finite.
        """
        distance = frechet_distance(self._statistics("real"), self._statistics("fake"))
        return torch.tensor(distance, dtype=torch.float64, device=self.device)

    def _statistics(self, side: str) -> FeatureStatistics:
        count = int(getattr(self, f"{side}_count"))
        mean = getattr(self, f"{side}_sum") / max(count, 1)
        scatter = getattr(self, f"{side}_products") - count * mean.outer(mean)
        return FeatureStatistics.from_moments(mean, scatter / max(count - 1, 1), count)


class _FeatureSets(_Exact):
    """Keeps all features of real and generated images, 4 D bytes an image.

    Args:
        network: makes the features.
        output: of the network; None = its first.
        dim: D, of a function.
        options: of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    full_state_update = False
    real: list[Tensor]
    fake: list[Tensor]

    def __init__(
        self,
        network: Network | FeatureFunction,
        output: str | None = None,
        dim: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._features = _Features(network, output, dim)
        for side in ("real", "fake"):
            self.add_state(side, [], dist_reduce_fx="cat")

    def update(self, images: Tensor, real: bool) -> None:
        """Add images (B, 3, H, W) of one side."""
        (self.real if real else self.fake).append(self._features(images).float().to(self.device))

    def _sets(self) -> tuple[Tensor, Tensor]:
        """All features (N, D) and (M, D)."""
        real, fake = (_joined(side, self._features.dim) for side in (self.real, self.fake))
        return real, fake

    def _named(self, numbers: dict[str, float]) -> dict[str, Tensor]:
        return {name: torch.tensor(value, device=self.device) for name, value in numbers.items()}


class KernelDistance(_FeatureSets):
    """Kernel distance (KID): the mean over random pairs of subsets.

    Which images a subset has depends on their order, which is not that of a single process where
    several share them.

    Args:
        network: see ``FrechetDistance``; likewise ``output``, ``dim`` and ``options``.
        subsets: pairs of subsets.
        size: images of a subset; at least as many are needed of either side.
        seed: of the subsets.
    """

    higher_is_better = False

    def __init__(
        self,
        network: Network | FeatureFunction,
        output: str | None = None,
        dim: int | None = None,
        *,
        subsets: int = 100,
        size: int = 1000,
        seed: int = 2020,
        **options: Any,
    ) -> None:
        super().__init__(network, output, dim, **options)
        self.subsets, self.size, self.seed = subsets, size, seed

    def compute(self) -> Tensor:
        """The distance, (); ``ValueError`` as of ``kernel_distance``."""
        found = kernel_distance(*self._sets(), self.subsets, self.size, self.seed)
        return torch.tensor(found.mean, dtype=torch.float64, device=self.device)


class PrecisionRecallMetric(_FeatureSets):
    """Precision and recall, for ``log_dict(metric.compute())``.

    Args:
        network: see ``FrechetDistance``; likewise ``output``, ``dim`` and ``options``.
        k: which neighbour gives the radius.
    """

    def __init__(
        self,
        network: Network | FeatureFunction,
        output: str | None = None,
        dim: int | None = None,
        *,
        k: int = 3,
        **options: Any,
    ) -> None:
        super().__init__(network, output, dim, **options)
        self.k = k

    def compute(self) -> dict[str, Tensor]:
        """``precision`` and ``recall``, () each; ``ValueError`` as of ``precision_recall``."""
        return self._named(precision_recall(*self._sets(), self.k)._asdict())


class DensityCoverageMetric(_FeatureSets):
    """Density and coverage, for ``log_dict(metric.compute())``.

    Args:
        network: see ``FrechetDistance``; likewise ``output``, ``dim`` and ``options``.
        k: which neighbour gives the radius.
    """

    def __init__(
        self,
        network: Network | FeatureFunction,
        output: str | None = None,
        dim: int | None = None,
        *,
        k: int = 5,
        **options: Any,
    ) -> None:
        super().__init__(network, output, dim, **options)
        self.k = k

    def compute(self) -> dict[str, Tensor]:
        """``density`` and ``coverage``, () each; ``ValueError`` as of ``density_coverage``."""
        return self._named(density_coverage(*self._sets(), self.k)._asdict())


class InceptionScoreMetric(_Exact):
    """Inception score of generated images: the mean over its parts. All logits are kept.

    Which images a part has depends on their order, as for ``KernelDistance``.

    Args:
        network: see ``FrechetDistance``; likewise ``dim`` and ``options``.
        output: the logits of the network.
        splits: number of parts; at least as many images are needed.
        seed: of the shuffle; None = consecutive images.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    logits: list[Tensor]

    def __init__(
        self,
        network: Network | FeatureFunction,
        output: str = "logits",
        dim: int | None = None,
        *,
        splits: int = 10,
        seed: int | None = 2020,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._features = _Features(network, output, dim)
        self.splits, self.seed = splits, seed
        self.add_state("logits", [], dist_reduce_fx="cat")

    def update(self, images: Tensor) -> None:
        """Add generated images (B, 3, H, W)."""
        self.logits.append(self._features(images).float().to(self.device))

    def compute(self) -> Tensor:
        """The score, (); ``ValueError`` as of ``InceptionScore``."""
        logits = _joined(self.logits, self._features.dim)
        score = InceptionScore(len(logits), self.splits, self.seed).update(logits).compute()
        return torch.tensor(score.mean, dtype=torch.float64, device=self.device)


def _in_unit_range(images: Tensor) -> Tensor:
    return images / 127.5 - 1 if images.dtype == torch.uint8 else images


class _PairMean(_Exact):
    """The mean over all images of a distance to their originals.

    Args:
        distance: of images (B, C, H, W), one number an image.
        options: of ``torchmetrics.Metric``.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, distance: Distance, **options: Any) -> None:
        super().__init__(**options)
        self._distance = (distance,)  # in a tuple, so that a network is no part of the metric
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add images (B, C, H, W) and their originals, uint8 or in [-1, 1]."""
        (distance,) = self._distance
        pred, target = _in_unit_range(pred), _in_unit_range(target)
        if isinstance(distance, nn.Module):
            distance = distance.to(pred.device)
        values = distance(target, pred).flatten()
        self.total = self.total + values.to(self.device, torch.float64).sum()
        self.count = self.count + len(values)

    def compute(self) -> Tensor:
        """The mean, (); NaN of no images."""
        return self.total / self.count


class PSNR(_PairMean):
    """Peak signal-to-noise ratio in dB, the mean over images; infinite with an exact copy.

    Args:
        options: of ``torchmetrics.Metric``.
    """

    is_differentiable = True
    higher_is_better = True

    def __init__(self, **options: Any) -> None:
        super().__init__(psnr, **options)


class SSIM(_PairMean):
    """Structural similarity, the mean over images of 11 pixels or more on a side.

    Args:
        options: of ``torchmetrics.Metric``.
    """

    is_differentiable = True
    higher_is_better = True

    def __init__(self, **options: Any) -> None:
        super().__init__(ssim, **options)


class LPIPS(_PairMean):
    """LPIPS, the mean over images.

    Args:
        network: the distance, such as ``ldm.losses.lpips`` makes it.
        options: of ``torchmetrics.Metric``.
    """

    is_differentiable = True
    higher_is_better = False

    def __init__(self, network: Distance, **options: Any) -> None:
        super().__init__(network, **options)


def _joined(parts: Tensor | list[Tensor], dim: int) -> Tensor:
    """All rows (N, D) of a "cat" state: a list, or one tensor where processes have met."""
    if isinstance(parts, Tensor):
        return parts
    return torch.cat(parts) if parts else torch.empty(0, dim, dtype=torch.float32)
