"""Muon: updates of matrices that are equally large in all directions, AdamW for all else.

Jordan et al. 2024 (Muon), scaled as by Liu et al. 2025 ("Muon is scalable for LLM training").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from ldm.errors import ConfigError, check_number

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial that takes singular values in (0, 1] to about 1 (Jordan et al. 2024)."""
ITERATIONS = 5
RMS_OF_ADAMW = 0.2
"""Root mean square of a typical update of AdamW, in learning rates (Liu et al. 2025, eq. 4)."""
SMALLEST = 16
"""Rows and columns of a matrix that has directions worth telling apart."""
_TABLE = "_ldm_is_table"

Loss = Callable[[], Any]


def mark_tables(model: nn.Module) -> None:
    """Note which parameters of a model are looked up row by row, and are no matrices to Muon."""
    for module in model.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            setattr(module.weight, _TABLE, True)


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon takes a parameter, a kernel (out, in, ...) as the matrix (out, in x ...).

    Small ones, such as the last layer of a denoiser, and tables of embeddings go by AdamW.
    """
    if parameter.ndim < 2 or getattr(parameter, _TABLE, False):
        return False
    return min(parameter.shape[0], parameter[0].numel()) >= SMALLEST


class Muon(Optimizer):
    """Muon for the matrices of a network, AdamW for its other parameters, with one learning rate.

    The update of a matrix is its momentum with all singular values set to about 1, times
    0.2 sqrt(max(rows, columns)): as large as AdamW's, so that a learning rate and weight decay that
    suit AdamW suit it. Where weights are divided over devices (FSDP) there are no matrices to see.

    Args:
        params: parameters, or groups of them. Tables of embeddings are known as such if
            :func:`mark_tables` has seen their model, as in a training of this library.
        lr: learning rate.
        momentum: of matrices, with Nesterov's look ahead.
        weight_decay: decoupled, of all parameters.
        betas: of AdamW.
        eps: of AdamW.

    Raises:
        ConfigError: a number is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        check_number("lr", lr, 0)
        check_number("momentum", momentum, 0, 1, below=True)
        check_number("weight_decay", weight_decay, 0)
        check_number("eps", eps, 0)
        if len(betas) != 2:
            raise ConfigError(f"betas: expected two numbers, got {list(betas)}")
        for beta in betas:
            check_number("betas", beta, 0, 1, below=True)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "betas": tuple(betas),
            "eps": eps,
            "fused": True,  # a resumed training puts the count of steps where the weights are
        }
        super().__init__([part for group in _groups(params) for part in _divided(group)], defaults)

    @torch.no_grad()
    def step(self, closure: Loss | None = None) -> Any:
        """Update all parameters that have a gradient; returns what the closure does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters and group["matrices"]:
                self._step_matrices(parameters, group)
            elif parameters:
                self._step_others(parameters, group)
        return loss

    def _step_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
            alike[(parameter.shape[0], parameter[0].numel())].append(parameter)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        for shape, same in alike.items():
            ahead = [
                p.grad.lerp(self.state[p]["momentum_buffer"], group["momentum"]).reshape(shape)
                for p in same
                if p.grad is not None
            ]
            size = group["lr"] * RMS_OF_ADAMW * max(shape) ** 0.5
            for parameter, update in zip(same, orthogonal(torch.stack(ahead)), strict=True):
                parameter.sub_(update.reshape(parameter.shape).to(parameter.dtype), alpha=size)

    def _step_others(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=all(p.device.type in ("cpu", "cuda") for p in parameters),
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (N, r, c) with their singular values set to about 1 (0.7 to 1.2).

    Five iterations of Newton and Schulz, x <- p(x x^T) x with p(s) = a + b s + c s^2. As x stays a
    polynomial of the first x x^T times the first x, only small square matrices are iterated. It
    computes in float32 also under autocast, within which manual optimisation steps: in bfloat16
    the directions of singular value 0 would grow beyond all others.
    """
    with torch.autocast(matrices.device.type, enabled=False):
        x = matrices.float()
        if wide := x.shape[-2] > x.shape[-1]:
            x = x.mT
        x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
        x = _iterated(x @ x.mT) @ x
    return x.mT if wide else x


def _iterated(square: Tensor) -> Tensor:
    """The product (N, r, r) of all p(x x^T), from the first x x^T."""
    a, b, c = COEFFICIENTS
    eye = torch.eye(square.shape[-1], device=square.device)
    product = None
    for left in reversed(range(ITERATIONS)):
        factor = torch.baddbmm(square, square, square, beta=b, alpha=c) + a * eye
        product = factor if product is None else factor @ product
        if left:
            square = factor @ square @ factor
    return eye if product is None else product


def _groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    given = list(params)
    return given if given and isinstance(given[0], dict) else [{"params": given}]


def _divided(group: dict[str, Any]) -> list[dict[str, Any]]:
    """A group as one of matrices and one of the rest, as far as there are any."""
    parameters = group["params"]
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if "matrices" in group:
        return [group | {"params": parameters}]
    parts = {flag: [p for p in parameters if is_matrix(p) is flag] for flag in (True, False)}
    return [group | {"params": part, "matrices": flag} for flag, part in parts.items() if part]
