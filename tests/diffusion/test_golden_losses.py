"""Losses, their logs and gradients against the original code."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.loss_weighting import Uniform
from ldm.training.callbacks.ema import EMA
from tests.diffusion.golden import build_model
from tests.parity import Case, assert_close, load_case

NO_CONDITION = Conditioning()
LDM_VARIANTS = ["plain", "l1", "x0", "logvar_init", "learn_logvar", "elbo", "all"]
DDPM_VARIANTS = ["eps_l2", "eps_l1", "x0_l2", "x0_l1_elbo", "eps_elbo_simple"]


@cache
def case(name: str) -> Case:
    return load_case(name)


def check_loss(
    model: LatentDiffusion, golden: Case, variant: str, cond: Conditioning = NO_CONDITION
) -> None:
    inputs = golden.inputs
    loss, logs = model.training_loss(
        inputs["loss.x0"], cond, inputs["loss.t"], inputs["loss.noise"]
    )
    loss.backward()
    prefix = f"loss.{variant}." if variant else "loss."
    checked = 0
    parameters = dict(model.denoiser.named_parameters())
    for key, want in golden.outputs.items():
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        if name == "loss":
            got: Any = loss
        elif name.startswith("log."):
            got = logs[name.removeprefix("log.")]
        elif name == "grad.logvar":
            got = model.weighting.logvar.grad
        elif name == "grad_cond":
            got = cond.context.grad
        else:
            got = parameters[name.removeprefix("grad.")].grad
        assert_close(got, want, what=key)
        checked += 1
    assert checked >= 5


@pytest.mark.parametrize("variant", LDM_VARIANTS)
def test_latent_diffusion_loss(variant: str) -> None:
    golden = case("ldm_uncond_samplers")
    model = build_model(golden, golden.config["diffusion"], golden.config["loss_variants"][variant])
    offset = golden.inputs.get(f"loss.{variant}.logvar_offset")
    if offset is not None:
        model.weighting.logvar.data += offset
    check_loss(model, golden, variant)


@pytest.mark.parametrize("variant", DDPM_VARIANTS)
def test_pixel_diffusion_loss(variant: str) -> None:
    golden = case("ddpm_pixel")
    model = build_model(golden, golden.config["losses"], golden.config["loss_variants"][variant])
    check_loss(model, golden, variant)


def test_cross_attention_loss_and_output() -> None:
    golden = case("ldm_crossattn_samplers")
    model = build_model(golden, golden.config["diffusion"])
    cond = Conditioning(context=golden.inputs["cond"].clone().requires_grad_())
    check_loss(model, golden, "", cond)
    x, t = golden.inputs["loss.x0"], golden.inputs["loss.t"]
    _, eps = model.denoise(cond)(x, t)
    assert_close(eps, golden.outputs["apply_model"])


def test_three_optimiser_steps_with_ema() -> None:
    golden = case("ddpm_pixel")
    config = golden.config["train"]
    model = build_model(golden, golden.config["losses"])
    model.weighting = Uniform()
    optimizer = torch.optim.AdamW(
        model.denoiser.parameters(),
        lr=config["lr"],
        betas=tuple(config["betas"]),
        eps=config["eps"],
        weight_decay=config["weight_decay"],
    )
    ema = EMA(model.denoiser, config["ema_decay"])
    losses = []
    batches = zip(*(golden.inputs[f"train.{k}"] for k in ("x0", "t", "noise")), strict=True)
    for x0, t, noise in batches:
        loss, _ = model.training_loss(x0, NO_CONDITION, t, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(model.denoiser)
        losses.append(loss.detach())
    assert_close(torch.stack(losses), golden.outputs["train.loss"])
    trained: nn.Module = model.denoiser
    checked = 0
    for key, want in golden.outputs.items():
        group, _, name = key.partition(".diffusion_model.")
        if group == "train.param":
            assert_close(trained.get_parameter(name), want, what=key)
        elif group == "train.ema":
            assert_close(ema.shadow[name], want, what=key)
        else:
            continue
        checked += 1
    assert checked == 6


def test_posterior_of_the_model() -> None:
    golden = case("ddpm_pixel")
    model = build_model(golden, golden.config["sampling"])
    x_t, t = golden.inputs["pmv.x_t"], golden.inputs["pmv.t"]
    with torch.no_grad():
        x0, _ = model.denoise(NO_CONDITION)(x_t, t)
    mean, variance, logvar = model.schedule.posterior(x0.clamp(-1, 1), x_t, t)
    for got, name in ((mean, "mean"), (variance, "var"), (logvar, "logvar")):
        assert_close(got, golden.outputs[f"pmv.{name}"])
