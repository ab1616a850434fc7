"""Objectives of the autoencoders against the original code, and their own rules."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.autoencoders.base import DiagonalGaussian
from ldm.errors import ConfigError
from ldm.losses.adversarial import patch_discriminator
from ldm.losses.autoencoder import KLObjective, VQObjective
from tests.parity import Case, assert_close, load_case

KL, VQ = load_case("loss_lpips_disc"), load_case("loss_vq_lpips_disc")
REFUSED = {"conditional", "weights"}  # no published configuration uses either
NOT_NATIVE = {"pixelloss_weight", "disc_num_layers", "disc_in_channels", "disc_ndf", "n_classes"}
# The original runs the discriminator from the first batch on, multiplies what comes of it by 0, and
# logs that. Here it is left alone until it counts: these two logs are then absent.
OF_THE_DISCRIMINATOR = {"g_loss", "d_weight"}
NEW_LOGS = {"pixel_loss", "p_loss", "grad_norm_nll", "grad_norm_g"}
SHARED = ["pixel_loss", "p_loss", "rec_loss"]
LOGS = {
    KL.name: [*SHARED, "logvar", "nll_loss", "kl_loss"],
    VQ.name: [*SHARED, "nll_loss", "quant_loss", "perplexity", "cluster_usage"],
}


class Output(NamedTuple):
    image: Tensor
    posterior: Any = None
    codebook_loss: Tensor | None = None
    indices: Tensor | None = None


class Given(nn.Module):
    """A perceptual network that always returns the same distance."""

    def __init__(self, distance: Tensor) -> None:
        super().__init__()
        self.distance = distance

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        assert x.shape == y.shape
        return self.distance


def build(case: Case, variant: str) -> KLObjective | VQObjective:
    kwargs = case.config["base"] | case.config["variants"][variant]["kwargs"]
    options = {k: v for k, v in kwargs.items() if k not in NOT_NATIVE}
    width = case.config.get("discriminator_ndf", kwargs.get("disc_ndf"))
    discriminator = patch_discriminator(3, width, kwargs["disc_num_layers"])
    perceptual = Given(case.inputs["p_loss"]) if options["perceptual_weight"] > 0 else None
    cls = KLObjective if case is KL else VQObjective
    if case is VQ:
        options["num_codes"] = kwargs["n_classes"]
    objective = cls(discriminator, perceptual, **options)
    weights = {k: v for k, v in case.weights.items() if not k.startswith("cond.")}
    objective.load_state_dict(weights, strict=True)
    return objective.train()


def forward(case: Case) -> tuple[Tensor, Output, Tensor]:
    inputs = case.inputs
    layer = inputs["last_layer"].clone().requires_grad_()
    image = F.conv2d(inputs["feat"], layer, padding=1)
    if case is KL:
        return inputs["x"], Output(image, DiagonalGaussian(inputs["moments"])), layer
    output = Output(image, None, inputs["codebook_loss"], inputs["predicted_indices"])
    return inputs["x"], output, layer


def check(
    case: Case, prefix: str, got: dict[str, Tensor], absent: frozenset[str] = frozenset()
) -> None:
    want = {
        k.removeprefix(prefix): v
        for k, v in case.outputs.items()
        if k.startswith(prefix) and ".after." not in k
    }
    assert not got.keys() & absent
    want = {k: v for k, v in want.items() if k not in absent}
    assert not want.keys() - got.keys()
    assert {key.removeprefix("log.") for key in got.keys() - want.keys()} <= NEW_LOGS
    for key, value in want.items():
        assert_close(got[key], value, what=prefix + key)


def check_buffers(case: Case, prefix: str, objective: nn.Module) -> None:
    buffers = dict(objective.discriminator.named_buffers())
    for key, want in case.outputs.items():
        if key.startswith(f"{prefix}after."):
            assert_close(buffers[key.removeprefix(f"{prefix}after.")], want, what=key)


@pytest.mark.parametrize(
    ("case", "variant"),
    [(c, v) for c in (KL, VQ) for v in c.config["variants"] if v not in REFUSED],
    ids=lambda p: p if isinstance(p, str) else p.name,
)
def test_golden(case: Case, variant: str) -> None:
    call = case.config["variants"][variant]["call"]
    step, evaluate = call["step"], call.get("eval", False)
    objective = build(case, variant)
    x, output, layer = forward(case)
    with torch.set_grad_enabled(not evaluate):
        objective.train(not evaluate)
        loss, logs = objective.generator(x, output, layer, step)
    got = {"loss": loss} | {f"log.{k}": v for k, v in logs.items()}
    if not evaluate:
        loss.backward()
        got["grad_last_layer"] = layer.grad
        if case is KL:
            got["grad_logvar"] = objective.logvar.grad
    if objective.adversarial(step):
        check(case, f"{variant}.gen.", got)
        check_buffers(case, f"{variant}.gen.", objective)
    else:
        check(case, f"{variant}.gen.", got, frozenset(f"log.{k}" for k in OF_THE_DISCRIMINATOR))

    objective = build(case, variant).train(not evaluate)
    with torch.set_grad_enabled(not evaluate):
        loss, logs = objective.discriminator_loss(x, output.image, step)
    got = {"loss": loss} | {f"log.{k}": v for k, v in logs.items()}
    if not evaluate:
        loss.backward()
        got["grad_first_kernel"] = objective.discriminator.main[0].weight.grad
    check(case, f"{variant}.disc.", got)
    check_buffers(case, f"{variant}.disc.", objective)


@pytest.mark.parametrize("case", [KL, VQ], ids=lambda c: c.name)
def test_keys_and_logs(case: Case) -> None:
    objective = build(case, "hinge_after")
    keys = [k for k in objective.state_dict() if not k.startswith("discriminator.main.")]
    assert keys == (["logvar"] if case is KL else [])
    x, output, layer = forward(case)
    _, before = objective.generator(x, output, layer, 9)
    assert list(before) == [*LOGS[case.name], "disc_factor", "total_loss"]
    _, after = objective.generator(x, output, layer, 10)
    adversarial = ["g_loss", "grad_norm_nll", "grad_norm_g", "d_weight", "disc_factor"]
    assert list(after) == [*LOGS[case.name], *adversarial, "total_loss"]
    with torch.no_grad():
        _, evaluation = objective.generator(x, output, layer, 10)
    assert after.keys() - evaluation.keys() == {"grad_norm_nll", "grad_norm_g"}
    assert not any(value.requires_grad for value in (before | after).values())


@pytest.mark.parametrize("case", [KL, VQ], ids=lambda c: c.name)
def test_before_disc_start_only_the_reconstruction_counts(case: Case) -> None:
    """The discriminator is not even called, so its running statistics do not move."""
    objective = build(case, "hinge_after")
    x, output, layer = forward(case)
    assert objective.discriminator_loss(x, output.image, 9)[0] == 0
    objective.discriminator.register_forward_pre_hook(refuse)
    objective.generator(x, output, layer, 9)[0].backward()
    with pytest.raises(AssertionError, match="was called"):
        objective.generator(x, output, layer, 10)


def refuse(*_: object) -> None:
    raise AssertionError("the discriminator was called")


def test_pixel_loss_of_both_objectives() -> None:
    net = patch_discriminator(3, 4, 2)
    for case, cls in ((KL, KLObjective), (VQ, VQObjective)):
        for pixel_loss, power in (("l1", 1), ("l2", 2)):
            objective = cls(net, perceptual_weight=0, disc_start=9, pixel_loss=pixel_loss)
            x, output, layer = forward(case)
            _, logs = objective.generator(x, output, layer, 0)
            want = (x - output.image).abs() ** power
            torch.testing.assert_close(logs["pixel_loss"], want.mean())
            scale = 1.0 if case is VQ else want[0].numel()
            torch.testing.assert_close(logs["nll_loss"], want.mean() * scale)


def test_no_gradient_of_the_discriminator_loss_reaches_the_autoencoder() -> None:
    objective = build(KL, "hinge_after")
    x, output, layer = forward(KL)
    objective.discriminator_loss(x, output.image, 10)[0].backward()
    assert layer.grad is None


def test_errors() -> None:
    net = patch_discriminator(3, 4, 2)
    for cls in (KLObjective, VQObjective):
        with pytest.raises(ConfigError, match="no perceptual network"):
            cls(net)
        with pytest.raises(ConfigError, match="unknown disc_loss 'wgan'"):
            cls(net, perceptual_weight=0, disc_loss="wgan")
        with pytest.raises(ConfigError, match="unknown pixel_loss 'l3'"):
            cls(net, perceptual_weight=0, pixel_loss="l3")
    x, output, layer = forward(KL)
    with pytest.raises(ValueError, match="codebook loss"):
        VQObjective(net, perceptual_weight=0).generator(x, output, layer, 0)
