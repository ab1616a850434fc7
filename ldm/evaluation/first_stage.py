"""Is a first stage ready for a diffusion model on its latents? From images to numbers to reasons.

``FirstStageStatistics`` gathers all numbers batch by batch, as a report and as facts; ``assess``
judges the facts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ldm.evaluation.latent_statistics import LatentStatistics
from ldm.evaluation.metrics.reconstruction import Distance, ReconstructionStatistics
from ldm.evaluation.report import EvaluationReport
from ldm.layers.codebook import code_counts, codes_used, perplexity

FEW_IMAGES = 32
"""Below it single images move every number."""
UNIT_STD = (0.5, 2.0)
"""Noise schedules are tuned for data of standard deviation 1. A factor 2 shifts their whole
logarithmic signal-to-noise ratio by 1.4, as much as going from 64 to 128 pixels asks for."""
DEAD_STD = 0.02
"""Of the median channel's: less than the noise of the very first published step, 0.03 to 0.04, so
that no denoiser ever sees such a channel."""
COLLAPSED_NATS = 0.05
"""KL per latent dimension: a Gaussian channel with less carries no more than 0.07 bit a value;
published first stages, with their KL weight of 1e-6, have several nats."""
DOMINANT_STD = 8.0
"""Times the median channel's: one scale factor cannot bring both near 1 (see ``UNIT_STD``)."""
OFFSET = 2.0
"""Standard deviations: beyond it the mean says far more than the image does, and sampling, which
starts from a mean of 0, has to travel there first. Channels of the published kl-f8 reach 1.4."""
OUTLIER = 30.0
"""Standard deviations: Gaussians reach 6 in a million values; one such value rules a loss."""
USED_CODES = 0.5
"""Share: with fewer, a codebook of half the size would do the same."""
TOKENS_PER_CODE = 10
"""Latents seen per code: with 10, a code of a tenth of the average frequency shows in 63 %."""
FEW_CODES = 4.0
"""Perplexity: so few effective codes cannot describe images."""
SATURATED = (0.05, 0.25)
"""Share of values at the ends of the range in excess of the originals' own: with care, not ready.
Such pixels have lost their detail, and no latent changes them."""
CLIPPED = 0.5
"""Share of the originals' values at the ends of the range: photographs have a few percent, line
drawings more; beyond half, contents have likely been cut off."""
WORSE_BY = 3.0
"""dB below resampling that is twice the error: no trade of accuracy for sharpness explains it."""

READY, CARE, NOT_READY = "ready for stage 2", "usable with care", "not ready"


@dataclass(frozen=True)
class FirstStageFacts:
    """What was measured on a first stage; lists have a number per latent channel.

    Attributes:
        images: number of images.
        nonfinite: how many of them had latents or reconstructions with NaN or infinity.
        mean: of the latents; for a KL first stage of samples. Empty if none was finite.
        std: standard deviation, about ``mean``.
        minimum: smallest latent.
        maximum: largest latent.
        overall_std: standard deviation over all elements.
        kl: nats per latent dimension; None if the posterior is no Gaussian.
        scale_factor: by which stage 2 will multiply the latents; None if that is not known.
        codes: size of the codebook; None without one.
        codes_used: codes that were chosen at least once.
        perplexity: of the chosen codes.
        tokens: how many codes were chosen in all.
        psnr: median over the images, in dB.
        resampled_psnr: the same of the images shrunk by f and enlarged again; None for f = 1.
        saturated: share of the reconstructions' values at the ends of the range.
        saturated_originals: the same of the originals.
    """

    images: int
    nonfinite: int
    mean: Sequence[float]
    std: Sequence[float]
    minimum: Sequence[float]
    maximum: Sequence[float]
    overall_std: float
    psnr: float
    resampled_psnr: float | None
    saturated: float
    saturated_originals: float
    kl: Sequence[float] | None = None
    scale_factor: float | None = None
    codes: int | None = None
    codes_used: int = 0
    perplexity: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class Readiness:
    """A verdict, one of ``READY``, ``CARE``, ``NOT_READY``, and why; the gravest reason first."""

    verdict: str
    reasons: tuple[str, ...]


Finding = tuple[str, str]
"""The verdict that a reason asks for, and the reason."""


def assess(facts: FirstStageFacts) -> Readiness:
    """Judge a first stage by its numbers; the thresholds are the constants of this file."""
    checks: list[Callable[[FirstStageFacts], Iterator[Finding]]] = [_finite, _output, _codebook]
    if facts.std:
        checks += [_information, _channels, _scale]
    findings = [finding for check in checks for finding in check(facts)]
    if facts.images < FEW_IMAGES:
        text = f"only {facts.images} images were measured: measure {FEW_IMAGES} or more"
        findings.append((CARE, text))
    grave = [text for verdict, text in findings if verdict == NOT_READY]
    light = [text for verdict, text in findings if verdict == CARE]
    verdict = NOT_READY if grave else CARE if light else READY
    return Readiness(verdict, (*grave, *light))


def _finite(facts: FirstStageFacts) -> Iterator[Finding]:
    if facts.nonfinite:
        yield (
            NOT_READY,
            f"{facts.nonfinite} of {facts.images} images have NaN or infinite latents or "
            "reconstructions: go back to an earlier checkpoint, and train in float32 or bfloat16",
        )


def _output(facts: FirstStageFacts) -> Iterator[Finding]:
    excess = facts.saturated - facts.saturated_originals
    if excess > SATURATED[0]:
        yield (
            NOT_READY if excess > SATURATED[1] else CARE,
            f"{facts.saturated:.1%} of the output values are saturated at -1 or 1, of the "
            f"originals' {facts.saturated_originals:.1%}: check that training images lie in "
            "[-1, 1]; lower the learning rate or disc_weight and train on",
        )
    if facts.saturated_originals > CLIPPED:
        yield (
            CARE,
            f"{facts.saturated_originals:.1%} of the values of the images themselves are -1 or 1: "
            "check how the data are scaled (value_range of arrays)",
        )
    if facts.resampled_psnr is not None and facts.psnr < facts.resampled_psnr:
        grave = facts.psnr < facts.resampled_psnr - WORSE_BY
        yield (
            NOT_READY if grave else CARE,
            f"the median PSNR of {facts.psnr:.1f} dB is below the {facts.resampled_psnr:.1f} dB of "
            "the images shrunk by f and enlarged again: train on; if it fell after disc_start, "
            "lower disc_weight",
        )


def _codebook(facts: FirstStageFacts) -> Iterator[Finding]:
    if facts.codes is None:
        return
    advice = "restart dead codes (restart_after of the quantizer) or take fewer codes"
    if facts.perplexity < min(FEW_CODES, facts.codes / 2):
        yield (
            NOT_READY,
            f"the perplexity of the codes is {facts.perplexity:.1f} of {facts.codes}, the codebook "
            f"has collapsed: {advice}, and train again",
        )
    elif facts.tokens < TOKENS_PER_CODE * facts.codes:
        if facts.codes_used < USED_CODES * min(facts.codes, facts.tokens):
            yield (
                CARE,
                f"{facts.codes_used} of {facts.codes} codes were used, but {facts.tokens} latents "
                "are too few to tell whether the others are dead: measure more images",
            )
    elif facts.codes_used < USED_CODES * facts.codes:
        yield (
            CARE,
            f"{facts.codes - facts.codes_used} of {facts.codes} codes are dead, "
            f"{facts.codes_used / facts.codes:.1%} are used: {advice}",
        )


def _information(facts: FirstStageFacts) -> Iterator[Finding]:
    """Channels that carry nothing: they do not vary, or their KL is 0."""
    still = DEAD_STD * statistics.median(facts.std)
    dead = {i: f"a standard deviation of {v:.2g}" for i, v in enumerate(facts.std) if v <= still}
    advice = "nothing can be learned there: train longer, or take a smaller embed_dim"
    for i, nats in enumerate(facts.kl or ()):
        if nats < COLLAPSED_NATS:
            dead[i] = f"a KL per dimension of {nats:.2g}"
            advice = "posterior collapse: lower kl_weight (1e-6 as published) and train again"
    if dead:
        yield (
            NOT_READY if len(dead) == len(facts.std) else CARE,
            f"{_listed(sorted(dead))} of {len(facts.std)} dead, with "
            f"{' and '.join(sorted(set(dead.values()))[:3])}: {advice}",
        )


def _channels(facts: FirstStageFacts) -> Iterator[Finding]:
    median = statistics.median(facts.std)
    for i, std in enumerate(facts.std):
        if std > DOMINANT_STD * median:
            yield (
                CARE,
                f"channel {i} dominates: its standard deviation is {std:.3g}, the median of all "
                f"{median:.3g}, and one scale factor serves both: {_regularise(facts)}",
            )
        if std > 0 and abs(facts.mean[i]) > OFFSET * std:
            yield (
                CARE,
                f"channel {i} is off centre: its mean is {facts.mean[i]:.3g} at a standard "
                f"deviation of {std:.3g}: "
                f"{_regularise(facts)}, or watch samples for a cast of colour",
            )
        reach = max(facts.maximum[i] - facts.mean[i], facts.mean[i] - facts.minimum[i])
        if std > 0 and reach > OUTLIER * std:
            yield (
                CARE,
                f"channel {i} has outliers: its range is {facts.minimum[i]:.3g} to "
                f"{facts.maximum[i]:.3g} at a standard deviation of {std:.3g}: look for broken "
                f"images in the data; {_regularise(facts)}",
            )


def _scale(facts: FirstStageFacts) -> Iterator[Finding]:
    factor = 1.0 if facts.scale_factor is None else facts.scale_factor
    if facts.overall_std == 0:
        yield NOT_READY, "the latents do not vary at all: train again with another learning rate"
    elif not UNIT_STD[0] <= facts.overall_std * factor <= UNIT_STD[1]:
        where = "unscaled" if facts.scale_factor is None else f"scaled by {factor:.4g}"
        yield (
            CARE,
            f"the latents' standard deviation is {facts.overall_std:.4g}, {where}, and far from 1: "
            f"write model.params.scale_factor: {1 / facts.overall_std:.4g} into the YAML of stage "
            "2, or null to measure it there",
        )


def _regularise(facts: FirstStageFacts) -> str:
    return "train on" if facts.kl is None else "raise kl_weight and train on"


def _listed(channels: Sequence[int]) -> str:
    if len(channels) == 1:
        return f"channel {channels[0]}"
    shown = ", ".join(map(str, channels[:8])) + (", ..." if len(channels) > 8 else "")
    return f"{len(channels)} channels ({shown})"


_OVER = "mean ± std over images"


class FirstStageStatistics:
    """What ``scripts/evaluate_autoencoder.py`` measures, but for feature networks.

    Args:
        factor: downsampling factor f.
        latent_channels: c.
        num_codes: size of the codebook; None without one.
        lpips: distance of images (B, C, H, W), one number per image.
        lpips_note: what must be said of that distance.

    Attributes:
        reconstruction: what the images say.
        latents: what the latents say.
        codes: how often each code was chosen; None without a codebook.
    """

    def __init__(
        self,
        factor: int,
        latent_channels: int,
        num_codes: int | None = None,
        lpips: Distance | None = None,
        lpips_note: str = "",
    ) -> None:
        self.reconstruction = ReconstructionStatistics(factor, lpips)
        self.latents = LatentStatistics(latent_channels)
        self.codes = None if num_codes is None else torch.zeros(num_codes, dtype=torch.int64)
        self._lpips_note = lpips_note
        self._latent_size: tuple[int, ...] = ()

    @property
    def images(self) -> int:
        """Images seen."""
        return self.reconstruction.images

    def update(
        self,
        x: Tensor,
        decoded: Tensor,
        z: Tensor,
        kl: Tensor | None = None,
        indices: Tensor | None = None,
    ) -> Tensor:
        """Add a batch.

        Args:
            x: images (B, C, H, W) in [-1, 1].
            decoded: what the decoder made of their most probable latents.
            z: latents (B, c, h, w), of Gaussian posteriors a sample.
            kl: their ``ldm.evaluation.latent_statistics.kl_map``.
            indices: the chosen codes (B, h, w).

        Returns:
            The reconstructions as they are measured.
        """
        self.latents.update(z, kl)
        self._latent_size = tuple(z.shape[1:])
        if self.codes is not None and indices is not None:
            self.codes += code_counts(indices.cpu(), len(self.codes))
        return self.reconstruction.update(x, decoded)

    def add_to(self, report: EvaluationReport, about: dict[str, Any]) -> None:
        """Append all numbers.

        Args:
            report: to be added to.
            about: the arguments of ``report.add`` that the numbers share.
        """
        self._add_reconstruction(report, about)
        if self.codes is not None:
            self._add_codes(report, self.codes, about)
        if self.latents.nonfinite:
            note = "images; left out of what follows"
            report.add("nonfinite_latents", self.latents.nonfinite, note=note, **about)
        if self.latents.images:
            self._add_latents(report, about)

    def _add_reconstruction(self, report: EvaluationReport, about: dict[str, Any]) -> None:
        seen = self.reconstruction
        for name, values, note in (
            ("psnr", seen.psnr, f"dB, {_OVER}; floats clamped to [-1, 1], not rounded to 8 bits"),
            ("resampled_psnr", seen.resampled_psnr, "the same of images shrunk by f and enlarged"),
            ("ssim", seen.ssim, f"{_OVER}; 11x11 windows that fit into the image"),
            ("lpips", seen.lpips, f"{_OVER}; VGG16, v0.1 (the paper's PSIM){self._lpips_note}"),
        ):
            if values is not None:
                report.add(name, values.mean, std=values.std, note=note, **about)
        note = f"share of values at -1 or 1; of the originals' {seen.saturated_originals.mean:.2%}"
        report.add("saturated", seen.saturated.mean, note=note, **about)
        if seen.nonfinite:
            report.add("nonfinite_images", seen.nonfinite, note="NaN counts as grey", **about)

    def _add_codes(self, report: EvaluationReport, codes: Tensor, about: dict[str, Any]) -> None:
        used = int(codes_used(codes))
        note = f"of {len(codes)} ({used / len(codes):.1%}), by {int(codes.sum())} latents"
        report.add("codes_used", used, note=note, **about)
        note = f"of the codes over all images; at most {len(codes)}"
        report.add("perplexity", float(perplexity(codes)), note=note, **about)

    def _add_latents(self, report: EvaluationReport, about: dict[str, Any]) -> None:
        latents = self.latents
        note = f"latents {'x'.join(map(str, self._latent_size))}"
        if latents.kl is not None:
            note += ", samples of the posterior"
        elif self.codes is not None:
            note += ", before quantisation"
        for name, value, channels in (
            ("latent_mean", latents.overall_mean, latents.mean),
            ("latent_std", latents.overall_std, latents.std),
            ("latent_min", float(latents.minimum.min()), latents.minimum),
            ("latent_max", float(latents.maximum.max()), latents.maximum),
        ):
            report.add(name, value, per_channel=channels.tolist(), note=note, **about)
        if latents.kl is not None:
            kl, note = latents.kl, "in nats"
            value = float(kl.mean())
            report.add("kl_per_dimension", value, per_channel=kl.tolist(), note=note, **about)
        if latents.overall_std > 0:
            factor = 1 / latents.overall_std
            note = "1 / latent_std, for model.params.scale_factor of stage 2 (null measures it)"
            report.add("scale_factor", factor, note=note, **about)

    def facts(self, scale_factor: float | None = None) -> FirstStageFacts:
        """What ``ldm.evaluation.assess`` judges by.

        Args:
            scale_factor: by which stage 2 will multiply the latents, if that is known.
        """
        seen, latents, codes = self.reconstruction, self.latents, self.codes
        finite = latents.images > 0
        resampled = seen.resampled_psnr
        return FirstStageFacts(
            images=seen.images,
            nonfinite=max(seen.nonfinite, latents.nonfinite),
            mean=latents.mean.tolist() if finite else [],
            std=latents.std.tolist() if finite else [],
            minimum=latents.minimum.tolist() if finite else [],
            maximum=latents.maximum.tolist() if finite else [],
            overall_std=latents.overall_std if finite else 0.0,
            kl=latents.kl.tolist() if finite and latents.kl is not None else None,
            scale_factor=scale_factor,
            codes=None if codes is None else len(codes),
            codes_used=0 if codes is None else int(codes_used(codes)),
            perplexity=0.0 if codes is None else float(perplexity(codes)),
            tokens=0 if codes is None else int(codes.sum()),
            psnr=seen.psnr.median,
            resampled_psnr=None if resampled is None else resampled.median,
            saturated=seen.saturated.mean,
            saturated_originals=seen.saturated_originals.mean,
        )
