from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.autoencoders.base import DiagonalGaussian
from ldm.autoencoders.identity import AutoencoderIdentity
from ldm.conditioners.class_label import ClassLabel
from ldm.denoisers.unet import UNet
from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.loss_weighting import MinSNR
from ldm.diffusion.prediction import X0, Eps, V
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError
from ldm.samplers.ddim import DDIM
from ldm.samplers.ddpm import DDPM
from ldm.samplers.noise import SeededNoise
from tests.diffusion.fakes import FakeDenoiser, FakeLabels, FakeMap
from tests.parity import assert_close


class FakeAutoencoder(nn.Module):
    """Average pooling by 2 with some posterior noise, and nearest up-sampling."""

    downsampling_factor = 2
    latent_channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.dropout = nn.Dropout(0.5)

    def encode(self, x: Tensor) -> DiagonalGaussian:
        mean = self.dropout(self.gain * nn.functional.avg_pool2d(x, 2))
        return DiagonalGaussian(torch.cat([mean, torch.full_like(mean, -4.0)], 1))

    def decode(self, z: Tensor) -> Tensor:
        return nn.functional.interpolate(self.dropout(z) / self.gain, scale_factor=2.0)


def build(conditioners: tuple = (), extra: int = 0, **options: Any) -> LatentDiffusion:
    torch.manual_seed(0)
    return LatentDiffusion(
        FakeDenoiser(3, extra),
        FakeAutoencoder(),
        NoiseSchedule(timesteps=100),
        conditioners,
        **options,
    )


def batch(n: int = 4) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(n, 3, 8, 6, generator=generator) * 2 - 1,
        "label": torch.arange(n) % 9,
        "caption": ["text"] * n,
    }


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- parts and modes


def test_the_autoencoder_stays_frozen_and_in_eval_mode() -> None:
    model = build((FakeLabels(),)).train()
    assert model.training
    assert model.denoiser.training
    assert not model.autoencoder.training
    assert not model.autoencoder.dropout.training
    loss, _ = model(batch(), seeded())
    loss.backward()
    assert model.autoencoder.gain.grad is None
    assert model.denoiser.conv.weight.grad is not None
    assert model.conditioners[0].embedding.weight.grad is not None


def test_state_dict_names() -> None:
    keys = set(build((FakeLabels(),)).state_dict())
    assert keys == {
        "scale_factor",
        "denoiser.conv.weight",
        "denoiser.conv.bias",
        "autoencoder.gain",
        "conditioners.0.embedding.weight",
    }


# -- scale factor


def test_scale_factor_is_applied_once_in_each_direction() -> None:
    x = batch()["image"]
    plain, scaled = build(scale_factor=1.0), build(scale_factor=0.25)
    z, small = plain.encode(x, seeded()), scaled.encode(x, seeded())
    assert z.shape == (4, 3, 4, 3)
    assert_close(small, 0.25 * z, rtol=1e-6)
    assert_close(scaled.encode_unscaled(x, seeded()), z, rtol=1e-6)
    assert_close(scaled.decode(small), plain.decode(z), rtol=1e-6)


def test_an_unmeasured_scale_factor_is_a_clear_error_until_it_is_set_or_loaded() -> None:
    model = build(scale_factor=None)
    assert not model.has_scale_factor
    for use in (lambda: model(batch()), lambda: model.decode(torch.zeros(1, 3, 4, 4))):
        with pytest.raises(ConfigError, match="has not been measured"):
            use()
    assert model.encode_unscaled(batch()["image"]).isfinite().all()
    saved = build(scale_factor=0.5).state_dict()
    loaded = build(scale_factor=None)
    loaded.load_state_dict(saved)
    assert loaded.has_scale_factor
    model.set_scale_factor(0.5)
    for ready in (model, loaded):
        assert ready.decode(torch.ones(1, 3, 4, 4)).mean() == 1.0  # 1 / 0.5 / gain
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive"):
            model.set_scale_factor(bad)


# -- loss


def test_forward_is_determined_by_its_generator() -> None:
    model = build((FakeLabels(drop_prob=0.5),)).train()
    first, logs = model(batch(), seeded(1))
    again, _ = model(batch(), seeded(1))
    other, _ = model(batch(), seeded(2))
    assert first == again
    assert first != other
    assert logs["loss"] == first
    assert logs.keys() == {"loss", "loss_simple"}
    assert not any(value.requires_grad for value in logs.values())


def test_forward_draws_every_time_step() -> None:
    model = build()
    for seed in range(30):
        model(batch(16), seeded(seed))
    steps = torch.cat([t for _, t, _, _ in model.denoiser.calls])
    assert steps.min() <= 2
    assert steps.max() >= 97
    assert steps.max() < 100


def test_conditions_are_dropped_in_training_only() -> None:
    model = build((FakeLabels("adm", drop_prob=0.5),))
    for training in (True, False):
        model.train(training)
        model(batch(64), seeded())
        y = model.denoiser.calls[-1][3]
        assert bool((y == 9).any()) == training


@pytest.mark.parametrize("loss", ["l1", "l2"])
@pytest.mark.parametrize("prediction", [Eps(), X0(), V()], ids=["Eps", "X0", "V"])
def test_training_loss_by_hand(loss: str, prediction: Any) -> None:
    model = build(loss=loss, prediction=prediction)
    z, noise = torch.randn(2, 2, 3, 4, 4, generator=seeded()).unbind()
    t = torch.tensor([3, 80])
    got, logs = model.training_loss(z, Conditioning(), t, noise)
    a = model.schedule.alphas_cumprod[t][:, None, None, None]
    z_t = a.sqrt() * z + (1 - a).sqrt() * noise
    assert_close(model.denoiser.calls[0][0], z_t, rtol=1e-6)
    targets = {Eps: noise, X0: z, V: a.sqrt() * noise - (1 - a).sqrt() * z}
    error = targets[type(prediction)] - model.denoiser.conv(z_t)
    want = error.abs().mean() if loss == "l1" else error.square().mean()
    assert_close(got, want, rtol=1e-5)
    assert_close(logs["loss_simple"], want, rtol=1e-5)


def test_weighting_is_plugged_in() -> None:
    model = build(weighting=MinSNR(5.0), prediction=V())
    z, noise = torch.randn(2, 2, 3, 4, 4, generator=seeded()).unbind()
    loss, logs = model.training_loss(z, Conditioning(), torch.tensor([3, 80]), noise)
    assert loss < logs["loss_simple"] * 5
    assert loss != logs["loss_simple"]


def test_half_precision_stays_inside_the_networks() -> None:
    model = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = model(batch(), seeded())
        z = model.encode(batch()["image"], seeded())
        x0, eps = model.denoise(Conditioning())(z, torch.full((4,), 50))
    assert {v.dtype for v in (loss, z, x0, eps)} == {torch.float32}


# -- conditions and guidance


def test_concatenated_conditions() -> None:
    model = build((FakeMap(),), extra=2)
    maps = torch.randn(4, 2, 4, 3)
    model(batch() | {"map": maps}, seeded())
    assert torch.equal(model.denoiser.calls[0][0][:, 3:], maps)
    with pytest.raises(ValueError, match=r"size \(5, 5\), latents \(4, 3\)"):
        model(batch() | {"map": torch.randn(4, 2, 5, 5)}, seeded())


def test_guidance_is_one_doubled_pass_and_off_at_scale_1() -> None:
    model = build((FakeLabels(),))
    cond, uncond = model.condition(batch()), model.unconditional(batch())
    x, t = torch.randn(4, 3, 4, 4), torch.full((4,), 50)
    with torch.no_grad():
        eps_cond = model.denoise(cond)(x, t)[1]
        eps_uncond = model.denoise(uncond)(x, t)[1]
        model.denoiser.calls.clear()
        eps_one = model.denoise(cond, uncond, 1.0)(x, t)[1]
        x0, eps = model.denoise(cond, uncond, 2.5)(x, t)
    assert [len(call[0]) for call in model.denoiser.calls] == [4, 8]
    assert torch.equal(eps_one, eps_cond)
    assert_close(eps, eps_uncond + 2.5 * (eps_cond - eps_uncond), rtol=1e-5)
    assert_close(x0, model.schedule.x0_from_eps(x, eps, t), rtol=1e-5)


# -- sampling


@pytest.mark.parametrize(
    "sampler", [DDIM(5), DDIM(3, eta=1.0), DDPM()], ids=["ddim", "eta", "ddpm"]
)
def test_sample_does_not_depend_on_the_batch(sampler: Any) -> None:
    model = build((FakeLabels(),)).eval()
    labels = {"label": torch.tensor([1, 2, 3])}
    images = model.sample(labels, (8, 12), sampler, SeededNoise([7, 8, 9]), guidance_scale=3.0)
    assert images.shape == (3, 3, 8, 12)
    alone = model.sample(
        {"label": torch.tensor([2])}, (8, 12), sampler, SeededNoise([8]), guidance_scale=3.0
    )
    torch.testing.assert_close(alone[0], images[1])
    assert not images.requires_grad


def test_sample_is_start_steps_and_decoding() -> None:
    model = build(scale_factor=0.5).eval()
    got = model.sample({}, (4, 4), DDIM(4), SeededNoise([0, 1]), count=2)
    x = SeededNoise([0, 1])(torch.empty(2, 3, 2, 2))
    with torch.no_grad():
        *_, last = DDIM(4)(model.denoise(Conditioning()), x, model.schedule, SeededNoise([0, 1]))
        assert torch.equal(got, model.decode(last.x))


def test_progress_wraps_the_steps() -> None:
    model = build().eval()
    seen: list[int] = []

    def progress(steps: Any, total: int) -> Any:
        assert total == 6
        for step in steps:
            seen.append(step.t)
            yield step

    model.sample({}, (4, 4), DDIM(6), SeededNoise([0]), count=1, progress=progress)
    assert len(seen) == 6
    assert seen == sorted(seen, reverse=True)


def test_guidance_of_an_unconditional_model_has_no_effect() -> None:
    model = build().eval()
    options = {"size": (4, 4), "sampler": DDIM(3), "count": 1}
    plain = model.sample({}, noise=SeededNoise([0]), **options)
    guided = model.sample({}, noise=SeededNoise([0]), guidance_scale=4.0, **options)
    assert torch.equal(plain, guided)


def test_sample_errors() -> None:
    model = build()
    with pytest.raises(ConfigError, match=r"\(5, 4\) must be a multiple of 2"):
        model.sample({}, (5, 4), DDIM(2), SeededNoise([0]), count=1)
    with pytest.raises(ValueError, match="count=None"):
        model.sample({}, (4, 4), DDIM(2), SeededNoise([0]))
    with pytest.raises(ValueError, match="count=3"):
        model.sample(batch(2), (4, 4), DDIM(2), SeededNoise([0] * 3), count=3)
    with pytest.raises(ConfigError, match="unknown loss 'huber'"):
        build(loss="huber")


def test_pixels_are_latents_of_an_identity() -> None:
    model = LatentDiffusion(FakeDenoiser(), AutoencoderIdentity(3), NoiseSchedule(timesteps=10))
    x = batch()["image"]
    assert torch.equal(model.encode(x), x)
    assert torch.equal(model.decode(x), x)


def test_frozen_conditioners_stay_in_eval_mode() -> None:
    labels, learning = ClassLabel(3, 4), ClassLabel(3, 4, key="other")
    labels.freeze()
    denoiser = UNet(
        in_channels=3,
        out_channels=3,
        model_channels=8,
        channel_mult=[1],
        attention_resolutions=[],
        num_heads=1,
        use_spatial_transformer=True,
        context_dim=4,
        norm_groups=2,
    )
    model = LatentDiffusion(denoiser, AutoencoderIdentity(3), NoiseSchedule(), [labels, learning])
    model.train()
    assert not labels.training
    assert learning.training
    assert not any(p.requires_grad for p in labels.parameters())


def test_the_denoiser_under_the_conditions_of_a_batch() -> None:
    model = build((FakeLabels(),))
    x, t = torch.randn(4, 3, 4, 3), torch.full((4,), 50)
    labels = {"label": batch()["label"]}
    with torch.no_grad():
        cond, uncond = model.condition(labels), model.unconditional(labels)
        for scale, calls in ((1.0, [4]), (3.0, [8])):
            model.denoiser.calls.clear()
            got = model.conditional_denoise(labels, scale)(x, t)
            assert [len(call[0]) for call in model.denoiser.calls] == calls
            for mine, want in zip(got, model.denoise(cond, uncond, scale)(x, t), strict=True):
                assert_close(mine, want)


def test_shape_of_the_latents() -> None:
    model = build()
    assert model.latent_shape(5, (8, 6)) == (5, 3, 4, 3)
    with pytest.raises(ConfigError, match=r"\(8, 7\) must be a multiple of 2"):
        model.latent_shape(1, (8, 7))
