"""Which model a program works on: where it lies, how it is loaded, and what is recorded of it."""

from __future__ import annotations

import argparse
import os
from typing import Any

import torch
from omegaconf import DictConfig

from ldm.cli.app import say
from ldm.cli.options.configs import split_config
from ldm.cli.options.model import check_source
from ldm.config import load_config
from ldm.config.trust import mark_if_beside
from ldm.diffusion.classifier import NoisyLatentClassifier
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.distributed import own_device
from ldm.errors import UserError
from ldm.experiment import with_images
from ldm.files import file_sha256
from ldm.layers.compile import compile_networks
from ldm.load.model import Source, locate


def locate_model(options: argparse.Namespace) -> Source:
    """Where the model of the first argument lies, with --config or --checkpoint.

    Raises:
        UserError: there is none, or the options do not go with it.
    """
    check_source(options)
    if not options.config:
        return locate(options.source, options.checkpoint, options.trust)
    config = load_yaml("--config", options.config, complete=False)  # its data may be absent
    mark_if_beside(config, options.config, options.trust, options.source)
    return locate(config, options.source, options.trust)


def load_source(source: Source, options: argparse.Namespace) -> tuple[Any, DictConfig]:
    """The model, in eval mode on the device, and its config with the images that it trained on."""
    options.device = own_device(options.device)
    model = source.model(not options.no_ema, options.device)
    say_weights(source)
    if options.compile:
        compile_networks(model)
    return model, with_images(source.config())


def say_weights(source: Source, what: str = "weights") -> None:
    """Tell which checkpoint was read; of several processes the first one does.

    Args:
        source: whose model was built.
        what: has these weights.
    """
    if int(os.environ.get("RANK", "0")) == 0:
        say(f"{what}: {source.used()}")


def load_latent_diffusion(
    source: Source, options: argparse.Namespace
) -> tuple[LatentDiffusion, DictConfig]:
    """As ``load_source``; refuses what is no latent diffusion model."""
    model, config = load_source(source, options)
    if not isinstance(model, LatentDiffusion):
        raise UserError(
            f"{options.source} holds a {type(model).__name__}, not a latent diffusion model: "
            "name the run of stage 2; what each script takes is in docs/sampling.md, first stages "
            "are measured by scripts/evaluate_autoencoder.py"
        )
    return model, config


def load_yaml(option: str, items: list[str], complete: bool = True) -> DictConfig:
    """YAML files and ``key=value`` overrides of an option, merged; see ``load_config``."""
    files, overrides = split_config(items)
    if not files:
        raise UserError(f"{option} {items[0]}: name a YAML file before it")
    return load_config(*files, overrides=overrides, complete=complete)


def subject(source: Source, options: argparse.Namespace) -> dict[str, Any]:
    """Which weights are used, for the record."""
    file = source.weights_file()
    return {
        "source": str(options.source),
        "checkpoint": str(file),
        "checkpoint_sha256": file_sha256(file),
        "ema": not options.no_ema,
    }


def other_weights(source: Source) -> dict[str, str]:
    """SHA-256 of the files of a pipeline of diffusers beside that of ``subject``, by path."""
    _, *others = source.files()
    return {str(file): file_sha256(file) for file in others}


def load_classifier(
    options: argparse.Namespace, diffusion: LatentDiffusion
) -> tuple[NoisyLatentClassifier | None, dict[str, Any]]:
    """The classifier of --classifier, None if there is to be none, and what to record of it.

    Raises:
        UserError: it is no classifier, or was not trained on the latents of this model.
    """
    run = options.classifier
    if run is None:
        return None, {}
    if options.classifier_scale is None:
        options.classifier_scale = 1.0
    source = locate(run, trust=options.trust)
    model = source.model(not options.no_ema, options.device)
    say_weights(source, "weights of the classifier")
    if not isinstance(model, NoisyLatentClassifier):
        raise UserError(
            f"--classifier {run}: holds a {type(model).__name__}, not a classifier of noisy "
            "latents; train one with a config of configs/classifier"
        )
    _check_match(run, model, diffusion)
    return model.requires_grad_(False), {
        "classifier_sha256": file_sha256(source.weights_file()),
        "classifier_scale": options.classifier_scale,
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
