"""A classifier of noisy latents, which can guide a diffusion model towards a class (LDM-8-G)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.diffusion.guidance import ClassifierGuidance
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.sampling import Denoise
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError, DataError
from ldm.layers.rng import draw_integers, draw_normal

IGNORED = -100
"""Label of a pixel that has none; torch's cross-entropy passes over it."""
QUARTERS = 4
_UNLABELLED = 255


class NoisyLatentClassifier(nn.Module):
    """log p(y | z_t): which class an image has, from its noisy latent.

    Latents, schedule and scale must be those of the diffusion model that is to be guided;
    ``classifier_for`` takes them from it.

    Args:
        network: called as ``network(z_t, t)``; gives logits (B, K) for labels (B,), or (B, K, h, w)
            for label maps.
        autoencoder: the first stage. It is frozen and stays in eval mode.
        schedule: the noise schedule.
        scale_factor: factor of the latents.
        label_key: batch entry of the labels: class ids (B,), or a map of them (B, H, W), in which
            -1 (and 255 where there are not so many classes) is "no label".
    """

    scale_factor: Tensor

    def __init__(
        self,
        network: nn.Module,
        autoencoder: nn.Module,
        schedule: NoiseSchedule,
        scale_factor: float = 1.0,
        label_key: str = "class_label",
    ) -> None:
        super().__init__()
        taken = getattr(network, "in_channels", autoencoder.latent_channels)
        if taken != autoencoder.latent_channels:
            raise ConfigError(
                f"the classifier has in_channels={taken}, the latents {autoencoder.latent_channels}"
            )
        self.network = network
        self.autoencoder: Any = autoencoder.eval().requires_grad_(False)
        self.schedule = schedule
        self.label_key = label_key
        self.register_buffer("scale_factor", torch.tensor(float(scale_factor)))

    def train(self, mode: bool = True) -> NoisyLatentClassifier:
        """Set the mode of the network; the autoencoder stays in eval mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    @torch.no_grad()
    def encode(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Scaled latents z (B, C, h, w) of images x (B, 3, H, W) in [-1, 1]; no gradient."""
        return self.autoencoder.encode(x).sample(generator).float() * self.scale_factor

    def logits(self, z_t: Tensor, t: Tensor) -> Tensor:
        """(B, K) or (B, K, h, w) in float32, from z_t (B, C, h, w) and steps t (B,)."""
        return self.network(z_t, t).float()

    # -- training ---------------------------------------------------------------------------

    def forward(
        self, batch: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy at uniformly drawn time steps.

        Args:
            batch: "image" (B, 3, H, W) in [-1, 1] and the labels.
            generator: source of all randomness; draws are made on its device.

        Returns:
            The loss, and detached scalars to log: "loss", "accuracy" and "accuracy_top5".

        Raises:
            DataError: if there are no labels, or they do not fit the network's classes.
        """
        z = self.encode(batch["image"], generator)
        return self._loss(z, batch, (0, self.schedule.timesteps), generator)

    @torch.no_grad()
    def evaluate(
        self, batch: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The scalars of ``forward``, each time step being as likely, and where they come from.

        Every image is classified in every quarter of the time steps; "accuracy_q1" is the share
        that is right in the first, almost clean, quarter, "accuracy_q4" that in the last.
        """
        z = self.encode(batch["image"], generator)
        edges = [self.schedule.timesteps * i // QUARTERS for i in range(QUARTERS + 1)]
        parts = [
            self._loss(z, batch, (low, max(high, low + 1)), generator)[1]
            for low, high in itertools.pairwise(edges)
        ]
        logs = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        return logs | {f"accuracy_q{i + 1}": part["accuracy"] for i, part in enumerate(parts)}

    def _loss(
        self,
        z: Tensor,
        batch: Mapping[str, Any],
        steps: tuple[int, int],
        generator: torch.Generator | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        t = draw_integers(*steps, (len(z),), generator, z.device)
        noise = draw_normal(z.shape, generator, z.device)
        logits = self.logits(self.schedule.add_noise(z, noise, t), t)
        labels = self._labels(batch, logits)
        count = (labels != IGNORED).sum().clamp(min=1)
        loss = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum") / count
        best = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices
        right = best == labels[:, None]
        logs = {
            "loss": loss.detach(),
            "accuracy": right[:, 0].sum() / count,
            "accuracy_top5": right.sum() / count,
        }
        return loss, logs

    def _labels(self, batch: Mapping[str, Any], logits: Tensor) -> Tensor:
        value = batch.get(self.label_key)
        if not isinstance(value, Tensor) or value.is_floating_point():
            raise DataError(
                f"the classifier needs integer labels as batch entry {self.label_key!r}; the batch "
                f"has {', '.join(map(str, batch))}"
            )
        return fitting_labels(value, logits.shape)

    # -- guidance ---------------------------------------------------------------------------

    def log_prob_gradient(self, z_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Gradient of log p(y | z_t) with respect to z_t, also where gradients are switched off.

        Args:
            z_t: noisy latents (B, C, h, w).
            t: steps (B,).
            y: class ids (B,), or maps of them (B, H, W), whose log-probabilities are added up.

        Returns:
            (B, C, h, w), each sample's own gradient.
        """
        with torch.inference_mode(False), torch.enable_grad():
            # clones: tensors of inference mode take no part in a backward pass
            z = z_t.detach().clone().requires_grad_()
            logits = self.logits(z, t)
            labels = fitting_labels(y.to(logits.device).clone(), logits.shape)
            log_prob = -F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
            return torch.autograd.grad(log_prob, z)[0]

    def guide(self, y: Tensor, scale: float) -> Callable[[Denoise], Denoise]:
        """A wrapper of denoisers that guides towards the labels ``y`` (B, ...) of a batch."""

        def wrap(denoise: Denoise) -> Denoise:
            gradient = functools.partial(self.log_prob_gradient, y=y)
            return ClassifierGuidance(denoise, gradient, scale, self.schedule)

        return wrap


def classifier_for(
    diffusion: LatentDiffusion, network: nn.Module, label_key: str = "class_label"
) -> NoisyLatentClassifier:
    """A classifier of the latents of a trained diffusion model, with its measured scale factor."""
    model = NoisyLatentClassifier(
        network, diffusion.autoencoder, diffusion.schedule, label_key=label_key
    )
    model.scale_factor.copy_(diffusion.scale_factor)
    return model


def fitting_labels(labels: Tensor, shape: torch.Size) -> Tensor:
    """Labels of logits with this shape, maps reduced to their size.

    Args:
        labels: ids (B,), or maps (B, H, W) of which every (H/h, W/w)-th value is taken.
        shape: (B, K) or (B, K, h, w).

    Returns:
        Labels (B,) or (B, h, w) in 0 ... K - 1, or ``IGNORED``.

    Raises:
        DataError: if shapes do not fit or an id is out of range.
    """
    classes, sides = shape[1], shape[2:]
    if labels.ndim != 1 + len(sides) or len(labels) != shape[0]:
        wanted = "ids (B,)" if not sides else "maps (B, H, W)"
        raise DataError(f"labels must be {wanted} of {shape[0]}, got {tuple(labels.shape)}")
    if sides:
        steps = [have // want for have, want in zip(labels.shape[1:], sides, strict=True)]
        labels = labels[:, :: max(steps[0], 1), :: max(steps[1], 1)]
        if labels.shape[1:] != sides:
            raise DataError(
                f"label maps must be a whole multiple of the latents' {tuple(sides)}, and are not"
            )
        none = (labels == -1) | ((labels == _UNLABELLED) & (classes <= _UNLABELLED))
        labels = labels.masked_fill(none, IGNORED)
    wrong = (labels != IGNORED) & ((labels < 0) | (labels >= classes))
    if wrong.any():
        raise DataError(
            f"label {int(labels[wrong][0])} is out of range: the classifier has {classes} classes, "
            f"0 to {classes - 1}"
        )
    return labels
