"""Latent diffusion: autoencoder, denoiser and conditioners put together (LDM, figure 3).

And the one number by which latents are scaled to unit variance (appendix G). It follows from sums
over all latents, which can be added up over batches and processes, however the data were split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm.autoencoders.base import LATENTS, MOMENTS, from_batch
from ldm.diffusion.conditioning import Conditioning, check_fit, encode_conditions, null_batch, stack
from ldm.diffusion.guidance import ClassifierFreeGuidance, RescaledGuidance
from ldm.diffusion.loss_weighting import Uniform, Weighting
from ldm.diffusion.prediction import Eps, Prediction
from ldm.diffusion.sampling import Denoise, NoiseSource, Progress, Sampler, run_sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError, DataError, check_number
from ldm.layers.rng import draw_integers, draw_normal

LOSSES = ("l1", "l2")
EPS = Eps()


class LatentDiffusion(nn.Module):
    """A diffusion model in the latent space of a frozen autoencoder.

    Every part is given; this class only connects them. Latents are multiplied by the scale factor
    here, in ``encode``, and divided by it in ``decode``, and nowhere else.

    Args:
        denoiser: network called as ``denoiser(x, t, context=..., y=...)``.
        autoencoder: first stage with ``encode``, ``decode``, ``latent_channels`` and
            ``downsampling_factor``. It is frozen and stays in eval mode.
        schedule: the noise schedule.
        conditioners: modules that turn batch entries into conditions.
        prediction: what the network predicts.
        weighting: weighting of the loss over time steps; ``None`` is ``Uniform()``.
        loss: "l1" or "l2".
        scale_factor: factor of the latents. ``None``: to be measured, see ``set_scale_factor``;
            any use before that is an error.
    """

    scale_factor: Tensor

    def __init__(
        self,
        denoiser: nn.Module,
        autoencoder: nn.Module,
        schedule: NoiseSchedule,
        conditioners: Sequence[nn.Module] = (),
        prediction: Prediction = EPS,
        weighting: Weighting | None = None,
        loss: str = "l2",
        scale_factor: float | None = 1.0,
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ConfigError(f"unknown loss {loss!r}: choose one of {', '.join(LOSSES)}")
        if scale_factor is not None:
            check_number("scale_factor", scale_factor, 0, above=True)
        check_fit(conditioners, denoiser, autoencoder.latent_channels)  # type: ignore[arg-type]
        self.denoiser = denoiser
        self.autoencoder: Any = autoencoder.eval().requires_grad_(False)
        self.schedule = schedule
        self.conditioners: Any = nn.ModuleList(conditioners)
        self.prediction = prediction
        self.weighting: Weighting = Uniform() if weighting is None else weighting
        self.loss = loss
        value = math.nan if scale_factor is None else float(scale_factor)
        self.register_buffer("scale_factor", torch.tensor(value))
        self._scale_is_known = False

    def train(self, mode: bool = True) -> LatentDiffusion:
        """Set the mode of all parts but the frozen ones, which stay in eval mode."""
        super().train(mode)
        self.autoencoder.eval()
        for conditioner in self.conditioners:
            if conditioner.frozen:
                conditioner.eval()
        return self

    # -- between images and latents ---------------------------------------------------------

    @torch.no_grad()
    def encode_unscaled(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A posterior sample of images x (B, 3, H, W) before scaling, float32 (B, C, h, w)."""
        return self.autoencoder.encode(x).sample(generator).float()

    def encode(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Scaled latents z (B, C, h, w) of images x (B, 3, H, W) in [-1, 1]; no gradient."""
        return self.encode_unscaled(x, generator) * self._scale()

    @torch.no_grad()
    def encode_batch_unscaled(
        self, batch: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> Tensor:
        """A posterior sample of a batch before scaling, float32 (B, C, h, w).

        Args:
            batch: "image" (B, 3, H, W) in [-1, 1], or what a cache of latents has in its place:
                "moments" (B, 2C, h, w), of which a new sample is drawn, or "latents" (B, C, h, w).
            generator: of the draws, which are the same for images and their moments.

        Raises:
            DataError: it has neither.
        """
        posterior = from_batch(batch)
        if posterior is not None:
            return posterior.sample(generator).float()
        if "image" not in batch:
            raise DataError(
                f"the batch has neither 'image' nor '{MOMENTS}' nor '{LATENTS}', "
                f"only: {', '.join(map(str, batch)) or 'nothing'}"
            )
        return self.encode_unscaled(batch["image"], generator)

    def encode_batch(
        self, batch: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> Tensor:
        """Scaled latents z (B, C, h, w) of a batch of images or of cached latents; no gradient."""
        return self.encode_batch_unscaled(batch, generator) * self._scale()

    def image_size(self, batch: Mapping[str, Any]) -> tuple[int, int]:
        """Height and width in pixels of the images of a batch, or of its cached latents."""
        factor = 1 if "image" in batch else self.autoencoder.downsampling_factor
        names = ("image", MOMENTS, LATENTS)
        height, width = next(batch[name] for name in names if name in batch).shape[-2:]
        return height * factor, width * factor

    @torch.no_grad()
    def encode_mode(self, x: Tensor) -> Tensor:
        """Scaled latents of images x (B, 3, H, W) without chance: the posterior's mode."""
        latents: Tensor = self.autoencoder.encode(x).mode()
        return latents.float() * self._scale()

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, 3, H, W), not clamped, of scaled latents z (B, C, h, w)."""
        return self.autoencoder.decode(z / self._scale())

    def set_scale_factor(self, value: float) -> None:
        """Fix the scale factor, e.g. to ``scale_from_moments(latent_moments(...))``."""
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"the scale factor must be positive, got {value}")
        self.scale_factor.fill_(value)

    @property
    def has_scale_factor(self) -> bool:
        """Whether the scale factor was given, loaded or measured."""
        return not bool(self.scale_factor.isnan())

    def _scale(self) -> Tensor:
        if not self._scale_is_known:  # asked once only: reading a value makes a GPU wait
            if not self.has_scale_factor:
                raise ConfigError(
                    "the latent scale factor has not been measured: give scale_factor a number, "
                    "load a trained checkpoint, or call set_scale_factor before any use"
                )
            self._scale_is_known = True
        return self.scale_factor

    # -- conditions -------------------------------------------------------------------------

    def condition(
        self,
        batch: Mapping[str, Any],
        drop: bool = False,
        generator: torch.Generator | None = None,
    ) -> Conditioning:
        """Encoded conditions of a batch; ``drop`` applies the dropout for guidance."""
        return encode_conditions(
            self.conditioners, batch, drop, generator, autoencoder=self.autoencoder
        )

    def unconditional(self, batch: Mapping[str, Any]) -> Conditioning:
        """Conditions of the unconditional half of guidance, shaped like those of ``batch``."""
        nothing = null_batch(self.conditioners, batch)
        return encode_conditions(self.conditioners, nothing, autoencoder=self.autoencoder)

    # -- training ---------------------------------------------------------------------------

    def forward(
        self, batch: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss of a batch at uniformly drawn time steps.

        Args:
            batch: "image" (B, 3, H, W) in [-1, 1] or cached latents, see ``encode_batch_unscaled``,
                and the entries that the conditioners read.
            generator: source of all randomness; draws are made on its device.

        Returns:
            The loss, and detached scalars to log: "loss", "loss_simple" and those of the weighting.
        """
        z = self.encode_batch(batch, generator)
        cond = self.condition(batch, drop=self.training, generator=generator)
        t = draw_integers(0, self.schedule.timesteps, (len(z),), generator, z.device)
        noise = draw_normal(z.shape, generator, z.device)
        return self.training_loss(z, cond, t, noise)

    def training_loss(
        self, z: Tensor, cond: Conditioning, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of given latents z, steps t (B,) and noise; see ``forward`` for the result."""
        z_t = self.schedule.add_noise(z, noise, t)
        target = self.prediction.target(z, noise, t, self.schedule)
        error = target - self._output(z_t, t, cond)
        losses = (error.abs() if self.loss == "l1" else error**2).flatten(1).mean(1)
        loss, logs = self.weighting(losses, t, self.schedule, self.prediction)
        return loss, {"loss_simple": losses.detach().mean(), "loss": loss.detach(), **logs}

    def _output(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """Raw network output in float32."""
        if cond.concat is not None:
            if cond.concat.shape[2:] != x.shape[2:]:
                keys = [part.key for part in self.conditioners if part.route == "concat"]
                raise DataError(
                    f"{', '.join(keys)}: maps to concatenate have size "
                    f"{tuple(cond.concat.shape[2:])}, latents {tuple(x.shape[2:])}"
                )
            x = torch.cat([x, cond.concat], dim=1)
        return self.denoiser(x, t, context=cond.context, y=cond.y).float()

    # -- sampling ---------------------------------------------------------------------------

    def denoise(
        self,
        cond: Conditioning,
        uncond: Conditioning | None = None,
        guidance_scale: float = 1.0,
        guidance_rescale: float = 0.0,
    ) -> Denoise:
        """The model as samplers see it: ``(x, t) -> (x0, eps)`` under given conditions.

        Guidance is off (one pass of the plain batch) without ``uncond`` or at scale 1.
        ``guidance_rescale``: see ``RescaledGuidance``.
        """
        if uncond is None or guidance_scale == 1:
            return self._denoise_under(cond)
        both = self._denoise_under(stack(uncond, cond))
        if guidance_rescale == 0:
            return ClassifierFreeGuidance(both, guidance_scale)
        return RescaledGuidance(
            both, guidance_scale, guidance_rescale, self.prediction, self.schedule
        )

    def conditional_denoise(
        self,
        batch: Mapping[str, Any],
        guidance_scale: float = 1.0,
        guidance_rescale: float = 0.0,
    ) -> Denoise:
        """The model under the conditions of a batch, guided away from no condition."""
        guided = guidance_scale != 1 and len(self.conditioners) > 0
        uncond = self.unconditional(batch) if guided else None
        return self.denoise(self.condition(batch), uncond, guidance_scale, guidance_rescale)

    def _denoise_under(self, cond: Conditioning) -> Denoise:
        def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            output = self._output(x, t, cond)
            return self.prediction.to_x0_eps(output, x, t, self.schedule)

        return denoise

    @torch.no_grad()
    def sample(
        self,
        batch: Mapping[str, Any],
        size: tuple[int, int],
        sampler: Sampler,
        noise: NoiseSource,
        guidance_scale: float = 1.0,
        count: int | None = None,
        progress: Progress | None = None,
        guide: Callable[[Denoise], Denoise] | None = None,
        guidance_rescale: float = 0.0,
    ) -> Tensor:
        """Generate images.

        Args:
            batch: the entries that the conditioners read; may be empty without conditioners.
            size: height and width of the images in pixels.
            sampler: e.g. ``DDIM(steps=50)``.
            noise: source of the start and of the noise of the sampler.
            guidance_scale: strength of classifier-free guidance; 1 is off.
            count: number of images; needed only where ``batch`` is empty.
            progress: wraps the iteration, called as ``progress(steps, total=...)`` like tqdm.
            guide: wraps the model as samplers see it, e.g. ``classifier.guide(labels, scale)``.
            guidance_rescale: see ``RescaledGuidance``; 0 is off.

        Returns:
            Images (B, 3, H, W) with range about [-1, 1], not clamped.
        """
        n = len(next(iter(batch.values()))) if batch else count
        if n is None or count not in (None, n):
            raise ValueError(f"cannot sample {count=} images under a batch of {n}")
        start = noise(self.scale_factor.new_empty(self.latent_shape(n, size)))
        denoise = self.conditional_denoise(batch, guidance_scale, guidance_rescale)
        if guide is not None:
            denoise = guide(denoise)
        z = run_sampler(sampler, denoise, start, self.schedule, noise, progress=progress)
        return self.decode(z)

    def latent_shape(self, n: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Shape of the latents of n images of a size (height, width) in pixels.

        Raises:
            ConfigError: a side is no multiple of the factor by which the first stage shrinks.
        """
        factor = self.autoencoder.downsampling_factor
        if size[0] % factor or size[1] % factor:
            raise ConfigError(f"image size {tuple(size)} must be a multiple of {factor}")
        return n, self.autoencoder.latent_channels, size[0] // factor, size[1] // factor


def latent_moments(latents: Iterable[Tensor]) -> Tensor:
    """Count, sum and sum of squares over all elements of all tensors, float64 (3,) on the CPU.

    Add the results of several calls or ranks element by element.
    """
    total = torch.zeros(3, dtype=torch.float64)
    for z in latents:
        values = z.detach().double()
        sums = torch.stack([values.sum(), (values * values).sum()]).cpu()
        total += torch.cat([torch.tensor([float(z.numel())], dtype=torch.float64), sums])
    return total


def scale_from_moments(moments: Tensor) -> float:
    """1 / (unbiased standard deviation over all elements), from ``latent_moments``.

    Raises:
        ValueError: if there are fewer than two elements, or if they do not vary.
    """
    count, total, squares = moments.tolist()
    if count < 2:
        raise ValueError(f"the standard deviation of {count:.0f} latent elements is undefined")
    variance = (squares - total * total / count) / (count - 1)
    if not variance > 0 or not math.isfinite(variance):
        raise ValueError(f"latents have variance {variance}: nothing to scale by")
    return 1 / math.sqrt(variance)
