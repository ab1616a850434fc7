"""All numbers about a first stage, gathered batch by batch, as a report and as facts to judge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ldm.evaluation.latents import LatentStatistics
from ldm.evaluation.readiness import FirstStageFacts
from ldm.evaluation.reconstruction_statistics import Distance, ReconstructionStatistics
from ldm.evaluation.report import EvaluationReport
from ldm.layers.codebook import code_counts, codes_used, perplexity

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
            kl: their ``ldm.evaluation.latents.kl_map``.
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
        """What ``ldm.evaluation.readiness.assess`` judges by.

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
