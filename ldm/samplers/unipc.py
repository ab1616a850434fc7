"""UniPC (Zhao et al. 2023): a multi-step predictor, corrected by the next evaluation for free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ldm.diffusion.sampling import Denoise, NoiseSource, Project, Step, same_time
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError
from ldm.samplers.timesteps import Level, SpacedSampler, Spacing


def integration_weights(h: float, nodes: Sequence[float]) -> list[float]:
    """Weights w of an exponentially weighted integral of a curve f with f(0) = 0.

    h int_0^1 exp(-h (1 - u)) f(u) du = sum_k w_k f(u_k), exact for polynomials without constant
    term up to the number of nodes u_k. For a single node the first moment is taken as half the
    zeroth: the choice B(h) = exp(h) - 1 of the paper ("bh2").
    """
    if not nodes:
        return []
    if len(nodes) == 1:
        return [-0.5 * math.expm1(-h) / nodes[0]]
    moments, moment = [], -math.expm1(-h)
    for power in range(1, len(nodes) + 1):
        moment = 1 - power / h * moment
        moments.append(moment)
    powers = np.array([[node**power for node in nodes] for power in range(1, len(nodes) + 1)])
    weights: list[float] = np.linalg.solve(powers, np.array(moments)).tolist()
    return weights


@dataclass(frozen=True)
class UniPC(SpacedSampler):
    """Predictor-corrector of order p in the estimate of x0, lambda = log(alpha / sigma).

    The exact solution over a step h of lambda is

        x_next = sigma_next / sigma x + alpha_next h int_0^1 exp(-h (1 - u)) x0(u) du.

    The predictor (UniP) integrates the polynomial through the last p estimates of x0; once the
    denoiser has been evaluated at the new point, the corrector (UniC) adds this one and integrates
    again. No evaluation is spent on it.

    Attributes:
        steps: number of denoiser evaluations, kept exactly.
        order: p, 1 to 3.
        spacing: which time steps, see ``descending_times``.
    """

    steps: int = 20
    order: int = 2
    spacing: Spacing = "logsnr"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (1, 2, 3):
            raise ConfigError(f"UniPC: order must be 1, 2 or 3, got {self.order}")

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        schedule: NoiseSchedule,
        noise: NoiseSource,
        project: Project | None = None,
        begin: int = 0,
    ) -> Iterator[Step]:
        """See ``Sampler``; no noise is drawn."""
        times, levels = self.grid(schedule)
        update: Update | None = None
        estimates: list[Tensor] = []  # of x0, the newest first
        for index in range(begin, len(times)):
            t = times[index]
            if project is not None:
                x = project(x, t)
            x0, _ = denoise(x, same_time(t, x))
            if update is not None:  # an increment: what ``project`` has done to x stays
                x = x + update.correction(estimates, x0)
            estimates = [x0, *estimates[:2]]
            order = min(self.order, len(estimates), len(times) - index)
            update = Update(levels[index - order + 1 : index + 2], order)
            x = update.predict(x, estimates)
            yield Step(index, t, x, x0)


class Update:
    """One step: its weights for prediction and correction.

    Args:
        levels: those of the estimates in use, the oldest first, then the target.
        order: number of estimates.
    """

    def __init__(self, levels: Sequence[Level], order: int) -> None:
        here, self._target = levels[-2], levels[-1]
        self._shrink = self._target.sigma / here.sigma
        self._h = self._target.log_snr - here.log_snr  # inf towards clean data: order is 1 then
        self._nodes = [(levels[-2 - k].log_snr - here.log_snr) / self._h for k in range(1, order)]
        self._weights = integration_weights(self._h, self._nodes)

    def predict(self, x: Tensor, estimates: Sequence[Tensor]) -> Tensor:
        """The state at the target from that before, x, and estimates of x0, newest first."""
        newest, *older = estimates
        ahead = -math.expm1(-self._h) * newest
        for weight, estimate in zip(self._weights, older, strict=False):
            ahead = ahead + weight * (estimate - newest)
        return self._shrink * x + self._target.alpha * ahead

    def correction(self, estimates: Sequence[Tensor], reached: Tensor) -> Tensor:
        """What the estimate at the target, ``reached``, changes in the prediction."""
        newest, *older = estimates
        *weights, last = integration_weights(self._h, [*self._nodes, 1.0])
        change = last * (reached - newest)
        for weight, old, estimate in zip(weights, self._weights, older, strict=False):
            change = change + (weight - old) * (estimate - newest)
        return self._target.alpha * change
