"""--classifier: guidance by a classifier of noisy latents."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from ldm.checkpoint import file_sha256
from ldm.diffusion.classifier import NoisyLatentClassifier
from ldm.diffusion.latent import LatentDiffusion
from ldm.errors import UserError
from ldm.load import load_model, run_checkpoint


def add_classifier_options(parser: argparse.ArgumentParser) -> None:
    """The options that ``load_classifier`` reads."""
    parser.add_argument(
        "--classifier",
        metavar="RUN",
        help="guide towards the labels by a classifier of noisy latents (docs/classifier.md)",
    )
    parser.add_argument(
        "--classifier-scale", type=float, metavar="S", help="how much, 0 is off (default: 1)"
    )


def load_classifier(
    arguments: argparse.Namespace, diffusion: LatentDiffusion
) -> NoisyLatentClassifier | None:
    """The classifier of --classifier, None if there is to be none.

    Raises:
        UserError: it is no classifier, or was not trained on the latents of this model.
    """
    run = arguments.classifier
    if run is None:
        if arguments.classifier_scale is not None:
            raise UserError("--classifier-scale has no effect without --classifier RUN")
        return None
    if arguments.classifier_scale is None:
        arguments.classifier_scale = 1.0
    model = load_model(run, ema=not arguments.no_ema, device=arguments.device)
    if not isinstance(model, NoisyLatentClassifier):
        raise UserError(
            f"--classifier {run}: holds a {type(model).__name__}, not a classifier of noisy "
            "latents; train one with a config of configs/classifier"
        )
    _check_match(run, model, diffusion)
    return model.requires_grad_(False)


def classifier_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Which classifier guides, for the record."""
    if arguments.classifier is None:
        return {}
    file = run_checkpoint(arguments.classifier)
    return {
        "classifier_sha256": file_sha256(file),
        "classifier_scale": arguments.classifier_scale,
    }


def _check_match(run: str, model: NoisyLatentClassifier, diffusion: LatentDiffusion) -> None:
    parts = {
        "scale factor": (model.scale_factor, diffusion.scale_factor),
        "noise schedule": (model.schedule.alphas_cumprod, diffusion.schedule.alphas_cumprod),
    }
    for name, (ours, theirs) in parts.items():
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-4):
            raise UserError(
                f"--classifier {run}: its {name} is not that of the model; it must be trained on "
                "the latents of the same first stage (docs/classifier.md)"
            )
