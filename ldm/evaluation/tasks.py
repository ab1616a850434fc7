"""What a model of each task is measured by: does it do what it was conditioned on?

An ``Evaluation`` holds samples beside what they should be; ``TASKS`` says, by the conditions of a
model, which measures add their numbers, and with them targets, to its report.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.data.inpainting.blending import paste_seamlessly
from ldm.data.scenes.captions import parse_caption
from ldm.errors import UserError
from ldm.evaluation.evaluator import FEWEST_IMAGES
from ldm.evaluation.extraction import chosen
from ldm.evaluation.metrics.alignment import paired_similarity
from ldm.evaluation.metrics.fid import frechet_from_features
from ldm.evaluation.metrics.inpainting import gradient_jump, hole_error, mean_fill
from ldm.evaluation.metrics.memorization import copies, nearest
from ldm.evaluation.metrics.precision_recall import PrecisionRecall, precision_recall
from ldm.evaluation.metrics.reconstruction import Distance, PairStatistics, PerImage, split_by_mask
from ldm.evaluation.metrics.registry import NEIGHBOURS
from ldm.evaluation.networks.base import Network, features_of, pixels_for
from ldm.evaluation.report import EvaluationReport
from ldm.evaluation.scenes.judge import ASPECTS, check, judge, summarise, validate_judge
from ldm.evaluation.scenes.label_maps import map_agreement, recover_map
from ldm.evaluation.scenes.layouts import Box4, layout_agreement
from ldm.visualization.figure import Cell

Item = dict[str, Any]
BATCH = 64
"""Images that a network sees at once."""


@dataclass(frozen=True)
class Target:
    """What a number must reach: ``value``, or ``factor`` times another number of the report."""

    reached: Callable[[float, float], bool]
    text: str
    value: float

    def verdict(self, number: float) -> str:
        """For the note of the number."""
        return f"target {self.text}: {'met' if self.reached(number, self.value) else 'missed'}"


def at_least(value: float, text: str = "") -> Target:
    """The number must be that high."""
    return Target(operator.ge, text or f">= {value:.4g}", value)


def below(value: float, text: str = "") -> Target:
    """The number must not be that high."""
    return Target(operator.lt, text or f"< {value:.4g}", value)


@dataclass
class Evaluation:
    """Samples, what they were asked to be, and the report on them.

    Attributes:
        items: held-out items whose conditions were asked for, images included.
        samples: one for each (N, C, H, W) in [-1, 1].
        validation: the data set of the items.
        train: at most so many images (M, C, H, W) of the data that was trained on, evenly from all.
        reconstruct: images (B, C, H, W) once through the first stage of the model.
        network: makes features, None if there is none.
        device: where the networks are.
        lpips: distance of two sets of images, one number a pair; None if there is none.
        embed: makes embeddings of images, with the network of a retrieval model's neighbours.
        baseline: samples of another method on the same conditions, by its name.
        report: to be added to.
        about: what the measurements share.
        extra_cells: further pictures for the sheet, per item.
    """

    items: Sequence[Item]
    samples: Tensor
    validation: Any
    train: Callable[[int], Tensor]
    reconstruct: Callable[[Tensor], Tensor]
    network: Network | None
    device: torch.device | str
    lpips: Distance | None
    embed: Callable[[Tensor], Tensor] | None
    baseline: dict[str, Tensor]
    report: EvaluationReport
    about: dict[str, Any]
    extra_cells: dict[str, Sequence[Cell]] = field(default_factory=dict)

    @functools.cached_property
    def real(self) -> Tensor:
        """The images of the items (N, C, H, W)."""
        return torch.stack([item["image"] for item in self.items])

    @functools.cached_property
    def reconstructions(self) -> Tensor:
        """They, once through the first stage: the best that the model could do."""
        with torch.no_grad():
            parts = [self.reconstruct(images.to(self.device)) for images in self.real.split(BATCH)]
        return torch.cat(parts).clamp(-1, 1).float().cpu()

    def add(
        self, name: str, value: float, note: str = "", target: Target | None = None, **about: Any
    ) -> None:
        """A measurement of the report."""
        notes = [note] if note else []
        notes += [target.verdict(value)] if target else []
        counts = {"num_real": 0, "num_fake": len(self.samples)}
        self.report.add(name, value, note="; ".join(notes), **{**counts, **self.about, **about})

    def add_distance(
        self, name: str, fake: Tensor, note: str = "", target: Target | None = None
    ) -> None:
        """The Fréchet distance of a set of images from the real ones."""
        about = {"num_real": len(self.real), "network": self.network}
        self.add(name, self.distance(self.real, fake), note, target, **about)

    def distance(self, real: Tensor, fake: Tensor) -> float:
        """Fréchet distance of the features of two sets of images."""
        _check_counts(real, fake)
        return frechet_from_features(self.features(real), self.features(fake))

    def features(self, images: Tensor) -> Tensor:
        """Features (N, D) of images in [-1, 1]: the network's first kind."""
        if self.network is None:
            raise UserError("this needs --features")
        name = next(iter(self.network.outputs))
        parts = [
            features_of(self.network, pixels_for(self.network, part), self.device)[name]
            for part in images.split(BATCH)
        ]
        return torch.cat(parts)

    def pairs(self, fake: Tensor) -> dict[str, PerImage]:
        """PSNR, SSIM and LPIPS of images and the real ones, as far as they can be had."""
        statistics = PairStatistics(None if self.lpips is None else self._distances)
        for real, images in zip(self.real.split(BATCH), fake.split(BATCH), strict=True):
            statistics.update(real, images)
        return statistics.values

    def _distances(self, real: Tensor, fake: Tensor) -> Tensor:
        assert self.lpips is not None
        return self.lpips(real.to(self.device), fake.to(self.device)).cpu()


def captions(evaluation: Evaluation) -> None:
    """Class and text: does the exact judge find what was asked for?"""
    validate_judge(evaluation.validation)
    asked = [item["caption"] for item in evaluation.items]
    verdicts, real = (
        [check(image, text) for image, text in zip(images, asked, strict=True)]
        for images in (evaluation.samples, evaluation.reconstructions)
    )
    shares, best = summarise(verdicts), summarise(real)
    for name, note in ASPECTS.items():
        if name in shares:
            target = at_least(0.9) if name == "shape_and_colour" else None
            evaluation.add(name, shares[name], f"{note}; real: {best[name]:.3f}", target)
    kinds = [len(parse_caption(text).items) for text in asked]
    for count in sorted(set(kinds)) if len(set(kinds)) > 1 else ():
        some = [verdict for verdict, k in zip(verdicts, kinds, strict=True) if k == count]
        note = f"of {len(some)} captions that name {count} {'kind' if count == 1 else 'kinds'}"
        evaluation.add(f"shape_and_colour_{count}", summarise(some)["shape_and_colour"], note)


def layouts(evaluation: Evaluation) -> None:
    """Layout: are the objects in their boxes?"""
    validate_judge(evaluation.validation)
    found, best = (
        [layout_agreement(_asked(item), judge(image)) for item, image in pairs]
        for pairs in (
            list(zip(evaluation.items, images, strict=True))
            for images in (evaluation.samples, evaluation.reconstructions)
        )
    )
    iou, most = _mean(f.iou for f in found), _mean(f.iou for f in best)
    note = f"mean over objects, 0 for one that is not found with its class; real: {most:.3f}"
    evaluation.add("box_iou", iou, note, at_least(0.6))
    most = _mean(f.found for f in best)
    note = f"share of objects whose class is found; real: {most:.3f}"
    evaluation.add("class_found", _mean(f.found for f in found), note)
    if evaluation.network is not None:
        floor = evaluation.distance(evaluation.real, evaluation.reconstructions)
        evaluation.add_distance("fd", evaluation.samples, f"of the first stage {floor:.4g}")


def maps(evaluation: Evaluation) -> None:
    """Semantic map: does the sample show the map it was given?"""
    validate_judge(evaluation.validation)
    found, best = (
        [
            map_agreement(item["segmentation"], recover_map(image))
            for item, image in zip(evaluation.items, images, strict=True)
        ]
        for images in (evaluation.samples, evaluation.reconstructions)
    )
    empty = _mean(float((item["segmentation"] == 0).float().mean()) for item in evaluation.items)
    notes = {
        "pixels": f"share of pixels whose class is found; of an empty map {empty:.3f}",
        "objects": "the same among pixels of objects",
        "mean_iou": "over the classes of the map",
    }
    for name, note in notes.items():
        value, most = (_mean(getattr(agreement, name) for agreement in x) for x in (found, best))
        target = at_least(0.85) if name == "pixels" else None
        evaluation.add(f"map_{name}", value, f"{note}; real: {most:.3f}", target)


def super_resolution(evaluation: Evaluation) -> None:
    """Super-resolution: closeness and likeness, against bicubic interpolation."""
    real, size = evaluation.real, evaluation.real.shape[-2:]
    small = torch.stack([item["lr_image"] for item in evaluation.items])
    bicubic = F.interpolate(small, size, mode="bicubic", align_corners=False).clamp(-1, 1)
    evaluation.extra_cells["bicubic"] = [Cell(image) for image in bicubic]
    base, most, found = (
        evaluation.pairs(images)
        for images in (bicubic, evaluation.reconstructions, evaluation.samples)
    )
    unit = {"psnr": "dB; ", "ssim": "", "lpips": ""}
    for name, values in found.items():
        evaluation.add(f"bicubic_{name}", base[name].mean, num_real=len(real), std=base[name].std)
        note = f"{unit[name]}of the first stage {most[name].mean:.4g}"
        target = None
        if name == "psnr":
            target = at_least(base[name].mean - 1, "not 1 dB below bicubic")
        evaluation.add(name, values.mean, note, target, num_real=len(real), std=values.std)
    if evaluation.network is not None:
        worst = evaluation.distance(real, bicubic)
        evaluation.add_distance("bicubic_fd", bicubic)
        floor = evaluation.distance(real, evaluation.reconstructions)
        note = f"of the first stage {floor:.4g}"
        target = below(worst / 2, "half of bicubic's")
        evaluation.add_distance("fd", evaluation.samples, note, target)


def holes(evaluation: Evaluation) -> None:
    """Inpainting: error in the hole, and the seam around it, of fillings pasted seamlessly."""
    real = evaluation.real
    mask = torch.stack([item["mask"] for item in evaluation.items])
    others = {name: _pasted(images, real, mask) for name, images in evaluation.baseline.items()} | {
        "plain_paste": torch.where(mask == 1, evaluation.samples, real)
    }
    samples = _pasted(evaluation.samples, real, mask)
    evaluation.extra_cells["mean fill"] = [Cell(image) for image in mean_fill(real, mask)]
    evaluation.extra_cells.update({name: [Cell(x) for x in others[name]] for name in others})
    evaluation.extra_cells["seamless"] = [Cell(image) for image in samples]

    def error(images: Tensor) -> float:
        return float(hole_error(real, images, mask).mean())

    rivals = {"mean_fill": error(mean_fill(real, mask))}
    rivals |= {name: error(others[name]) for name in evaluation.baseline}
    target = below(min(rivals.values()), f"< {' and '.join(rivals)}")
    note = "RMSE within the hole, of values in [0, 1]"
    evaluation.add("hole_error", error(samples), note, target, num_real=len(real))
    for name, value in (rivals | {"plain_paste": error(others["plain_paste"])}).items():
        evaluation.add(f"hole_error_{name}", value, num_real=len(real))
    note = "difference of neighbours across the border, over that within the hole"
    target = below(1.2, "<= 1.2")
    evaluation.add("border_jump", gradient_jump(samples, mask).ratio, note, target)
    first_stage = _pasted(evaluation.reconstructions, real, mask)
    for name, images in {**others, "first_stage": first_stage, "real": real}.items():
        evaluation.add(f"border_jump_{name}", gradient_jump(images, mask).ratio)
    _add_parts(evaluation, samples, mask, {"mean_fill": mean_fill(real, mask), **others})


def _add_parts(
    evaluation: Evaluation, pasted: Tensor, mask: Tensor, others: dict[str, Tensor]
) -> None:
    """LPIPS and Fréchet distance of the filling, and of what the model makes of known pixels."""
    around = split_by_mask(evaluation.real, evaluation.samples, mask).outside
    notes = {
        "inside": "of the filling, pasted into the image",
        "outside": "of known pixels as the model makes them, around real ones",
    }
    for (part, note), images in zip(notes.items(), (pasted, around), strict=True):
        if evaluation.lpips is not None:
            values = evaluation.pairs(images)["lpips"]
            count = len(evaluation.real)
            evaluation.add(f"lpips_{part}", values.mean, note, num_real=count, std=values.std)
        if evaluation.network is not None:
            evaluation.add_distance(f"fd_{part}", images, note)
    if evaluation.network is not None:
        for name, images in others.items():
            evaluation.add_distance(f"fd_inside_{name}", images)


def _pasted(fillings: Tensor, images: Tensor, masks: Tensor) -> Tensor:
    parts = zip(fillings, images, masks, strict=True)
    return torch.stack([paste_seamlessly(*part) for part in parts])


def unconditional(evaluation: Evaluation) -> None:
    """No condition: likeness to the data, and no copies of it."""
    count = len(evaluation.samples)
    train = evaluation.train(4 * count)
    step = max(1, len(train) // count)
    _check_counts(train[::step][:count], evaluation.samples)
    features, own, held_out = map(evaluation.features, (train, evaluation.samples, evaluation.real))
    real = features[::step][:count]
    counts: dict[str, Any] = {"num_real": len(real), "network": evaluation.network}
    floor = frechet_from_features(real, held_out)
    distance = frechet_from_features(real, own)
    evaluation.add("fd", distance, f"of held-out images {floor:.4g}", **counts)
    shares, best = _shares(real, own), _shares(real, held_out)
    for name in ("precision", "recall"):
        value, most = getattr(shares, name), getattr(best, name)
        evaluation.add(name, value, f"k=3; of held-out images {most:.3f}", **counts)
    found = copies(own, held_out, features)
    note = (
        f"share as near to one of {len(train)} training images as the nearest 1 % of held-out "
        f"ones; median distance {found.samples:.3g}, of held-out images {found.held_out:.3g}"
    )
    evaluation.add("copies", found.share, note, below(0.05), **counts)
    near = nearest(own, features).indices
    evaluation.extra_cells["nearest"] = [Cell(train[k], "nearest") for k in near.tolist()]


def retrieval(evaluation: Evaluation) -> None:
    """Retrieval: do samples resemble their own neighbours?"""
    assert evaluation.embed is not None
    given = torch.stack([item["neighbours"] for item in evaluation.items])
    own, best = (
        torch.cat([evaluation.embed(part) for part in images.split(64)])
        for images in (evaluation.samples, evaluation.real)
    )
    if own.shape[1] != given.shape[2]:
        raise UserError(
            f"--clip makes embeddings of {own.shape[1]} numbers, those of the neighbours have "
            f"{given.shape[2]}: name the network that made them"
        )
    found = paired_similarity(own, given, torch.Generator().manual_seed(0))
    most = paired_similarity(best, given, torch.Generator().manual_seed(0))
    note = f"mean cosine of a sample and its neighbours; of real images {most.own:.3f}"
    evaluation.add("similarity", found.own, note)
    note = f"the same with neighbours of others; of real images {most.shuffled:.3f}"
    evaluation.add("similarity_shuffled", found.shuffled, note)
    note = f"permutation test, z = {found.z:.1f}"
    evaluation.add("p_value", found.p_value, note, below(0.01))


def _shares(real: Tensor, fake: Tensor) -> PrecisionRecall:
    """Precision and recall; of many features those of a random choice of the images."""
    most = NEIGHBOURS["most_real"]
    some, others = (x[chosen(len(x), most, seed=0)] for x in (real, fake))
    return precision_recall(some, others)


def _check_counts(real: Tensor, fake: Tensor) -> None:
    if min(len(real), len(fake)) < FEWEST_IMAGES:
        raise UserError(
            f"features of {len(real)} real and {len(fake)} other images: at least {FEWEST_IMAGES} "
            "of each are needed"
        )


def _asked(item: Item) -> list[tuple[int, Box4]]:
    """Classes and boxes of an item."""
    pairs = zip(item["box_labels"].tolist(), item["boxes"].tolist(), strict=True)
    return [(label, tuple(box)) for label, box in pairs if label >= 0]


def _mean(values: Iterable[float]) -> float:
    return float(torch.tensor(list(values), dtype=torch.float64).mean())


@dataclass(frozen=True)
class Task:
    """How models of a kind are measured.

    Attributes:
        measure: adds numbers to the report.
        scenes: entries of synthetic scenes that it needs; empty: any images will do.
        by_features: whether it measures nothing without a feature network.
    """

    measure: Callable[[Evaluation], None]
    scenes: frozenset[str] = frozenset()
    by_features: bool = False

    def check(self, item: Item, source: str, features: str | None) -> None:
        """Refuse what cannot be measured, before anything is sampled."""
        if self.by_features and features is None:
            raise UserError("a model without conditions is measured by features: give --features")
        if not self.scenes <= item.keys():
            raise UserError(
                "what this condition does is measured on synthetic scenes (ldm.data.SceneDataset), "
                f"the validation data of {source} are others: scripts/evaluate.py measures any "
                "samples by features"
            )


TASKS = {
    frozenset(): Task(unconditional, by_features=True),
    frozenset({"class_label"}): Task(captions, frozenset({"caption", "boxes"})),
    frozenset({"tokens"}): Task(captions, frozenset({"caption", "boxes"})),
    frozenset({"box_tokens"}): Task(layouts, frozenset({"caption", "boxes"})),
    frozenset({"segmentation"}): Task(maps, frozenset({"caption", "boxes"})),
    frozenset({"lr_image"}): Task(super_resolution),
    frozenset({"masked_image", "mask"}): Task(holes),
    frozenset({"neighbours"}): Task(retrieval),
}
"""By the batch entries that a model is conditioned on."""
