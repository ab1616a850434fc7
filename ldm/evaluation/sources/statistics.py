"""Mean and covariance of features that were computed before, from an npz file."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.evaluation.metrics.fid import FeatureStatistics
from ldm.evaluation.sources.base import ContentCache, ImageSource, SourceInfo
from ldm.evaluation.sources.npz import (
    IMAGES,
    NpzSource,
    array_names,
    array_shape,
    read_array,
)
from ldm.files import shown

ADM_NETWORK = "inception-adm"
"""The network of ADM's reference batches, whose files do not name it."""
FEATURE_NAMES = {"": "pool", "_s": "spatial"}
"""Features by the endings of mu and sigma; others are ``mu_NAME``, ``sigma_NAME``."""
FEATURES = "features_"
"""Before the name of a feature: an array of features themselves."""
NAMED = ("network", "weights_sha256", "resize", "source_sha256")
"""Texts that our own files carry."""

_UNKNOWN_COUNT = 2
_ASYMMETRY = 1e-4
_LARGEST = 1e60
"""Squares of what is larger are not finite."""
_MOST_IMAGES = 1 << 48
_MOST_TEXT = 1 << 16


@dataclass(frozen=True)
class StoredStatistics:
    """What is known of images without looking at them again.

    Attributes:
        info: kind "statistics"; ``count`` is 0 where the file does not say of how many images they
            are, as in ADM's reference batches. The hash is of the arrays.
        statistics: by name of the feature, such as "pool" and "spatial". Where the count is not
            known, theirs is the least that has a covariance, 2.
        features: features (N, D) themselves, by name, where the file has them.
        network: what computed them; None: not recorded.
        weights_sha256: of that network; None: not recorded.
        images: images in the same file (ADM: 10,000, for precision and recall), not necessarily all
            of those behind the statistics.
    """

    info: SourceInfo
    statistics: dict[str, FeatureStatistics]
    features: dict[str, Tensor] = field(default_factory=dict)
    network: str | None = None
    weights_sha256: str | None = None
    images: ImageSource | None = None

    def of(
        self, feature: str, dim: int, network: str, weights_sha256: str | None = None
    ) -> FeatureStatistics:
        """The statistics of a feature, to be compared with features of a network.

        Args:
            feature: its name.
            dim: its length.
            network: name of the network whose features they will be compared with.
            weights_sha256: of that network.

        Raises:
            UserError: they are of another network or other weights, or there are none.
        """
        where = f"'{shown(self.info.where)}'"
        if feature not in self.statistics:
            names = ", ".join(self.statistics)
            raise UserError(f"{where} holds statistics of {names}, not of the feature '{feature}'")
        found = self.statistics[feature]
        same = self.network in (None, network)
        if self.network == ADM_NETWORK:
            same = "inception" in network.lower()
        if not same or found.dim != dim:
            raise UserError(
                f"{where} holds statistics of {found.dim} features '{feature}' of "
                f"{self.network or 'a network that it does not name'}, not of the {dim} of "
                f"{network}: they cannot be compared; name the images instead"
            )
        if None not in (self.weights_sha256, weights_sha256) and (
            self.weights_sha256 != weights_sha256
        ):
            raise UserError(
                f"{where} holds statistics of {network} with other weights "
                f"({str(self.weights_sha256)[:12]}..., not {str(weights_sha256)[:12]}...)"
            )
        return found


def holds_statistics(path: Path) -> bool:
    """Whether an npz file has mean and covariance of features.

    Raises:
        UserError: it is absent or no npz file.
    """
    return bool(_endings(array_names(path)))


def read_statistics(
    where: str, num: int | None = None, cache: ContentCache | None = None
) -> StoredStatistics:
    """Read what ``ldm.evaluation.metrics.fid.save_statistics``, ADM or clean-fid wrote.

    That is mu and sigma, perhaps mu_s and sigma_s (spatial), count, network, weights_sha256, resize
    and source_sha256, and images (arr_0).

    Args:
        where: the file.
        num: use the first so many images; the statistics are what they are.
        cache: remembers the hash of the images.

    Raises:
        UserError: the file is damaged, or what it holds does not fit together.
    """
    path = Path(where).expanduser()
    names = array_names(path)
    if num is not None and IMAGES not in names:
        raise UserError(
            f"{num} images of '{shown(where)}': it holds statistics, which cannot be cut down to "
            "some of the images"
        )
    moments = {
        FEATURE_NAMES.get(ending, ending[1:]): _moments(path, ending) for ending in _endings(names)
    }
    count = _count(path) if "count" in names else 0
    said = {name: _text(path, name) for name in NAMED if name in names}
    network = said.get("network", ADM_NETWORK if "mu_s" in names else None)
    images = NpzSource(where, num, cache) if IMAGES in names else None
    about: dict[str, Any] = {
        "statistics": {feature: len(mean) for feature, (mean, _) in moments.items()},
        "network": network or "not recorded",
        **{name: said.get(name) for name in NAMED[1:]},
        "images": 0 if images is None else len(images),
    }
    return StoredStatistics(
        info=SourceInfo("statistics", where, count, _digest(moments), about),
        statistics={
            feature: FeatureStatistics.from_moments(mean, cov, count or _UNKNOWN_COUNT)
            for feature, (mean, cov) in moments.items()
        },
        features={
            name.removeprefix(FEATURES): _features(path, name)
            for name in names
            if name.startswith(FEATURES)
        },
        network=network,
        weights_sha256=said.get("weights_sha256"),
        images=images,
    )


def _endings(names: Sequence[str]) -> list[str]:
    """What stands behind mu and sigma."""
    found = [name.removeprefix("mu") for name in names if re.match(r"mu(_|$)", name)]
    return [ending for ending in found if f"sigma{ending}" in names]


def _moments(path: Path, ending: str) -> tuple[Tensor, Tensor]:
    mu, sigma = f"mu{ending}", f"sigma{ending}"
    (shape, kind), (other, other_kind) = (array_shape(path, name) for name in (mu, sigma))
    for name, dtype in ((mu, kind), (sigma, other_kind)):
        if dtype.hasobject:
            read_array(path, name)  # which says why it is refused
    kinds = kind.kind + other_kind.kind
    if len(shape) != 1 or 0 in shape or other != shape * 2 or kinds != "ff":
        raise UserError(
            f"'{shown(path)}': {mu} {shape} and {sigma} {other} are no mean (D,) and covariance "
            "(D, D)"
        )
    mean, cov = (read_array(path, name).astype(np.float64) for name in (mu, sigma))
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise UserError(f"'{shown(path)}': {mu} or {sigma} holds NaN or infinite values")
    if max(np.abs(mean).max(), np.abs(cov).max()) > _LARGEST:
        raise UserError(f"'{shown(path)}': {mu} or {sigma} holds values beyond {_LARGEST:g}")
    if np.abs(cov - cov.T).max() > _ASYMMETRY * np.abs(cov).max() or (np.diag(cov) < 0).any():
        raise UserError(
            f"'{shown(path)}': {sigma} is no covariance: it is not symmetric, or has a "
            "negative variance"
        )
    return torch.from_numpy(mean), torch.from_numpy((cov + cov.T) / 2)


def _count(path: Path) -> int:
    shape, dtype = array_shape(path, "count")
    count = read_array(path, "count") if math.prod(shape) == 1 else None
    if count is None or dtype.kind not in "iu" or not 2 <= int(count.reshape(())) < _MOST_IMAGES:
        said = f"{dtype} {shape}" if count is None else str(count.reshape(()))
        raise UserError(f"'{shown(path)}': count is {said}, not the number of images, 2 or more")
    return int(count.reshape(()))


def _features(path: Path, name: str) -> Tensor:
    shape, dtype = array_shape(path, name)
    if len(shape) != 2 or dtype.kind != "f":
        raise UserError(f"'{shown(path)}': {name} is {dtype} {shape}, no features (N, D)")
    values = read_array(path, name)
    return torch.from_numpy(values.astype(np.float32 if dtype.itemsize < 8 else np.float64))


def _text(path: Path, name: str) -> str:
    shape, dtype = array_shape(path, name)
    values = read_array(path, name, _MOST_TEXT)
    try:
        if math.prod(shape) != 1 or dtype.kind not in "US":
            raise ValueError
        return " ".join(str(values).split())
    except (ValueError, SystemError):  # also of numbers that are no characters
        raise UserError(f"'{shown(path)}': {name} is no text") from None


def _digest(moments: Mapping[str, tuple[Tensor, Tensor]]) -> str:
    digest = hashlib.sha256()
    for feature, arrays in moments.items():
        digest.update(feature.encode())
        for array in arrays:
            digest.update(array.numpy().tobytes())
    return digest.hexdigest()
