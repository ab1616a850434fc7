"""Whole trajectories against the original code, with its recorded noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.sampling import Denoise, Sampler, Step
from ldm.diffusion.schedule import NoiseSchedule
from ldm.samplers.ddim import DDIM
from ldm.samplers.ddpm import DDPM
from ldm.samplers.plms import PLMS
from tests.diffusion.golden import RecordedNoise, build_model, build_schedule
from tests.parity import Case, assert_close, load_case

DDIM_RUNS = {
    "ddim_eta0": DDIM(5),
    "ddim_eta1": DDIM(5, eta=1.0),
    "ddim_eta1_temp": DDIM(5, eta=0.8, temperature=0.7),
    "ddim_log2": DDIM(10),
    "ddim_quad": DDIM(6, eta=0.3, spacing="quad"),
}
GUIDED_RUNS = {
    "ddim_cond": (DDIM(5), None),
    "ddim_cfg": (DDIM(5), 3.0),
    "ddim_cfg_eta1": (DDIM(5, eta=1.0), 3.0),
    "ddim_cfg_scale0": (DDIM(5), 0.0),
}


def strided(stride: int) -> Callable[[int, NoiseSchedule], Tensor]:
    """The published uniform grid where the stride does not divide T: it has one step too many."""
    return lambda steps, schedule: (torch.arange(0, schedule.timesteps, stride) + 1).flip(0)


PLMS_RUNS = {
    "plms": PLMS(8, spacing=strided(1000 // 7)),
    "plms2": PLMS(2),
}


@cache
def case(name: str) -> Case:
    return load_case(name)


@torch.no_grad()
def run(sampler: Sampler, denoise: Denoise, schedule: NoiseSchedule, golden: Case, tag: str):
    noise = RecordedNoise(golden.inputs.get(f"{tag}.noise"))
    start = golden.inputs[f"{tag}.x_T"]
    return start, list(sampler(denoise, start, schedule, noise))


class Recorder:
    """A denoiser that remembers at which time steps it was called."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise = denoise
        self.calls: list[int] = []

    def __call__(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append(int(t[0]))
        return self.denoise(x, t)


def check_ddim(golden: Case, tag: str, start: Tensor, steps: list[Step], every: int = 1) -> None:
    want = golden.outputs
    if f"{tag}.t_calls" in want:
        assert [s.t for s in steps] == want[f"{tag}.t_calls"].tolist()
    check_states(golden, tag, start, steps, every)


def check_states(golden: Case, tag: str, start: Tensor, steps: list[Step], every: int = 1) -> None:
    want = golden.outputs
    assert_close(steps[-1].x, want[f"{tag}.x"])
    if f"{tag}.x_inter" not in want:
        return
    left = [(len(steps) - 1 - s.index, s) for s in steps]
    logged = [s for rest, s in left if rest % every == 0 or s.index == 0]
    assert_close(torch.stack([start, *(s.x for s in logged)]), want[f"{tag}.x_inter"])
    assert_close(torch.stack([start, *(s.x0 for s in logged)]), want[f"{tag}.pred_x0"])


@pytest.mark.parametrize("tag", DDIM_RUNS)
def test_ddim(tag: str) -> None:
    golden = case("ldm_uncond_samplers")
    model = build_model(golden, golden.config["diffusion"])
    start, steps = run(DDIM_RUNS[tag], model.denoise(Conditioning()), model.schedule, golden, tag)
    check_ddim(golden, tag, start, steps, every=4 if tag == "ddim_log2" else 1)


@pytest.mark.parametrize("tag", GUIDED_RUNS)
def test_ddim_with_guidance(tag: str) -> None:
    golden = case("ldm_crossattn_samplers")
    model = build_model(golden, golden.config["diffusion"])
    sampler, scale = GUIDED_RUNS[tag]
    cond = Conditioning(context=golden.inputs["cond"])
    uncond = Conditioning(context=golden.inputs["uncond"])
    denoise = model.denoise(cond) if scale is None else model.denoise(cond, uncond, scale)
    start, steps = run(sampler, denoise, model.schedule, golden, tag)
    check_ddim(golden, tag, start, steps)


@pytest.mark.parametrize("tag", PLMS_RUNS)
def test_plms(tag: str) -> None:
    golden = case("ldm_uncond_samplers")
    model = build_model(golden, golden.config["diffusion"])
    denoise = Recorder(model.denoise(Conditioning()))
    start, steps = run(PLMS_RUNS[tag], denoise, model.schedule, golden, tag)
    check_states(golden, tag, start, steps)
    assert denoise.calls == golden.outputs[f"{tag}.t_calls"].tolist()


def test_plms_with_guidance() -> None:
    golden = case("ldm_crossattn_samplers")
    model = build_model(golden, golden.config["diffusion"])
    cond = Conditioning(context=golden.inputs["cond"])
    uncond = Conditioning(context=golden.inputs["uncond"])
    denoise = Recorder(model.denoise(cond, uncond, 3.0))
    sampler = PLMS(7, spacing=strided(1000 // 6))
    start, steps = run(sampler, denoise, model.schedule, golden, "plms_cfg")
    check_states(golden, "plms_cfg", start, steps)
    assert denoise.calls == golden.outputs["plms_cfg.t_calls"].tolist()


@pytest.mark.parametrize(
    ("tag", "parameterization", "clip"),
    [("clip", "eps", True), ("noclip", "eps", False), ("x0", "x0", True)],
)
def test_ancestral_chain_in_pixels(tag: str, parameterization: str, clip: bool) -> None:
    golden = case("ddpm_pixel")
    variant = {"parameterization": parameterization}
    model = build_model(golden, golden.config["sampling"], variant)
    denoise = model.denoise(Conditioning())
    start, steps = run(DDPM(clip=clip), denoise, model.schedule, golden, f"chain.{tag}")
    assert_close(steps[-1].x, golden.outputs[f"chain.{tag}.x0"])
    logged = [s.x for s in steps if s.t % 2 == 0 or s.index == 0]
    assert_close(torch.stack([start, *logged]), golden.outputs[f"chain.{tag}.intermediates"])


def test_ancestral_chain_in_latents() -> None:
    golden = case("ldm_uncond_samplers")
    model = build_model(golden, golden.config["ancestral"])
    denoise = model.denoise(Conditioning())
    start, steps = run(DDPM(), denoise, model.schedule, golden, "anc")
    assert_close(steps[-1].x, golden.outputs["anc.x"])
    logged = [s.x for s in steps if s.t % 3 == 0 or s.index == 0]
    assert_close(torch.stack([start, *logged]), golden.outputs["anc.intermediates"])


def test_ancestral_chain_with_cross_attention() -> None:
    golden = case("ldm_crossattn_samplers")
    model = build_model(golden, golden.config["runs"]["anc"])
    denoise = model.denoise(Conditioning(context=golden.inputs["cond"]))
    _, steps = run(DDPM(), denoise, model.schedule, golden, "anc")
    assert_close(steps[-1].x, golden.outputs["anc.x"])


def test_progressive_denoising_from_step_5() -> None:
    """The first 5 steps of the ancestral schedule are a schedule of their own."""
    golden = case("ldm_uncond_samplers")
    betas = build_schedule(golden.config["ancestral"]).betas[:5]
    model = build_model(golden, golden.config["ancestral"])
    model.schedule = NoiseSchedule(betas=betas)
    sampler = DDPM(temperature=0.6)
    _, steps = run(sampler, model.denoise(Conditioning()), model.schedule, golden, "prog")
    assert_close(steps[-1].x, golden.outputs["prog.x"])
    partial = [s.x0 for s in steps if s.t % 2 == 0]
    assert_close(torch.stack(partial), golden.outputs["prog.x0_partials"])
