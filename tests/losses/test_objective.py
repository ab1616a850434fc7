"""What both objectives do with precision, with the discriminator's schedule, and with NaN."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.autoencoders.base import DiagonalGaussian
from ldm.autoencoders.kl import AutoencoderKL
from ldm.autoencoders.networks import Architecture
from ldm.errors import ConfigError
from ldm.losses.adversarial import patch_discriminator
from ldm.losses.autoencoder import KLObjective, VQObjective
from ldm.losses.perceptual import LPIPS

CLASSES = [KLObjective, VQObjective]


class Output(NamedTuple):
    image: Tensor
    posterior: Any
    codebook_loss: Tensor | None
    indices: Tensor | None = None


class Decoder(nn.Module):
    """Features to images by one convolution in float32, as the decoders here end."""

    def __init__(self, size: float = 1.0) -> None:
        super().__init__()
        self.features = size * random(2, 4, 32, 32, seed=1)
        self.layer = nn.Parameter(0.3 * random(3, 4, 3, 3, seed=2))

    def forward(self, dtype: torch.dtype = torch.float32, mean: float = 0.5) -> Output:
        with torch.autocast("cpu", enabled=False):
            image = F.conv2d(self.features, self.layer, padding=1).to(dtype)
        moments = torch.full((2, 4, 4, 4), mean, dtype=dtype)
        return Output(image, DiagonalGaussian(moments), torch.tensor(0.25, dtype=dtype))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build(cls: Any, norm: str = "batch", **changes: Any) -> Any:
    torch.manual_seed(0)
    options = {"perceptual_weight": 1.0, "disc_start": 10} | changes
    perceptual = LPIPS(widths=(4, 4, 4, 4, 4))
    return cls(patch_discriminator(width=8, norm=norm), perceptual, **options)


X = random(2, 3, 32, 32).clamp(-1, 1)


# -- precision --------------------------------------------------------------------------------


def both_passes(cls: Any, **changes: Any) -> dict[str, Tensor]:
    objective = build(cls, norm="group", r1_weight=1.0, r1_every=1, **changes)
    decoder = Decoder()
    output = decoder()
    loss, logs = objective.generator(X, output, decoder.layer, 10)
    loss.backward()
    objective.discriminator.zero_grad()
    disc_loss, disc_logs = objective.discriminator_loss(X, output.image, 10)
    disc_loss.backward()
    kernel = objective.discriminator.main[0].weight
    return logs | disc_logs | {"layer": decoder.layer.grad, "kernel": kernel.grad}


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(cls: Any, dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=dtype):
        got = both_passes(cls)
    want = both_passes(cls)
    assert got.keys() == want.keys() >= {"d_weight", "r1", "p_loss"}
    for key, value in want.items():
        assert value.dtype == torch.float32, key
        assert torch.equal(got[key], value), key


@pytest.mark.parametrize("cls", CLASSES)
def test_numbers_beyond_float16_stay_finite(cls: Any) -> None:
    """Sums and gradients that are infinite in half precision, under its autocast."""
    objective, decoder = build(cls, kl_weight=1.0) if cls is KLObjective else build(cls), Decoder()
    decoder.features *= 300.0
    with torch.autocast("cpu", dtype=torch.float16):
        output = decoder(torch.float16, mean=200.0)
        assert output.image.dtype == torch.float16
        loss, logs = objective.generator(X.half(), output, decoder.layer, 10)
    loss.backward()
    assert all(value.isfinite() for value in logs.values())
    assert decoder.layer.grad is not None
    assert decoder.layer.grad.isfinite().all()
    if cls is KLObjective:
        limit = torch.finfo(torch.float16).max
        assert min(logs["nll_loss"], logs["kl_loss"], logs["grad_norm_nll"]) > limit
    _, disc_logs = objective.discriminator_loss(X.half(), output.image, 10)
    assert all(value.isfinite() for value in disc_logs.values())


def test_weight_of_a_real_autoencoder_under_bfloat16() -> None:
    """What is left of a difference is that of the network's own activations."""
    torch.manual_seed(0)
    sizes = Architecture(channels=8, channel_mult=(1, 2), num_res_blocks=1, norm_groups=4)
    model = AutoencoderKL(sizes, embed_dim=4, initial_logvar=-4.0)
    objective = build(KLObjective)

    def logs() -> dict[str, Tensor]:
        output = model(X, generator=torch.Generator().manual_seed(0))
        return objective.generator(X, output, model.last_layer, 10)[1]

    want = logs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = logs()
    for key in ("nll_loss", "grad_norm_nll", "grad_norm_g", "d_weight"):
        torch.testing.assert_close(got[key], want[key], rtol=0.2, atol=0)


# -- the discriminator's part -----------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_it_takes_part_from_disc_start_on(cls: Any) -> None:
    objective = build(cls)
    assert [objective.adversarial(step) for step in (0, 9, 10, 99)] == [False, False, True, True]
    assert not build(cls, disc_factor=0.0).adversarial(99)


@pytest.mark.parametrize("cls", CLASSES)
def test_warmup_scales_the_generators_term_alone(cls: Any) -> None:
    def term(step: int, **changes: Any) -> tuple[float, float]:
        objective, decoder = build(cls, **changes), Decoder()
        output = decoder()
        with_it = objective.generator(X, output, decoder.layer, step)[1]["total_loss"]
        without = objective.generator(X, output, decoder.layer, 9)[1]["total_loss"]
        disc = objective.discriminator_loss(X, output.image, step)[1]["disc_loss"]
        return (with_it - without).item(), disc.item()

    full, disc = term(10)
    assert disc > 0
    for step, share in ((10, 0.0), (12, 0.5), (14, 1.0), (20, 1.0)):
        got = term(step, disc_warmup=4)
        assert got == pytest.approx((share * full, disc), rel=1e-3, abs=1e-3 * abs(full))


def test_adaptive_weight_is_limited() -> None:
    objective, decoder = build(VQObjective, max_weight=1e-3, disc_weight=0.5), Decoder()
    _, logs = objective.generator(X, decoder(), decoder.layer, 10)
    assert logs["grad_norm_nll"] > 1e-3 * logs["grad_norm_g"]
    assert logs["d_weight"].item() == pytest.approx(0.5e-3)


class Linear(nn.Module):
    """Two "patches", each the sum over all pixels times a slope."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.5, 1.5]))

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(dim=(1, 2, 3), keepdim=True) * self.slope.view(1, 1, 1, 2)


def test_r1_term_of_a_linear_discriminator() -> None:
    """D(x) = mean slope * sum of pixels: |grad|^2 = mean slope^2 * number of pixels."""
    objective = VQObjective(Linear(), perceptual_weight=0, disc_start=10, r1_weight=0.5, r1_every=4)
    x = 0.01 * random(2, 3, 8, 8)
    losses = {}
    for step in (9, 10, 11, 14):
        loss, logs = objective.discriminator_loss(x, -x, step)
        losses[step] = loss.item() - logs["disc_loss"].item()
        assert ("r1" in logs) == (step in (10, 14))
    penalty = 1.0**2 * 3 * 8 * 8
    assert losses == pytest.approx({9: 0, 10: 0.5 / 2 * 4 * penalty, 11: 0, 14: losses[10]})

    loss, logs = objective.discriminator_loss(x, -x, 10)
    assert logs["r1"].item() == pytest.approx(penalty)
    loss.backward()
    with_penalty = objective.discriminator.slope.grad.clone()
    objective.zero_grad()
    objective.discriminator_loss(x, -x, 11)[0].backward()
    # d/dslope_i of r1_weight / 2 * r1_every * mean(slope)^2 * pixels, over 2 patches
    torch.testing.assert_close(
        with_penalty - objective.discriminator.slope.grad, torch.full((2,), 2 * 1.0 / 2 * 3 * 8 * 8)
    )
    with torch.no_grad():
        assert "r1" not in objective.discriminator_loss(x, -x, 10)[1]
    assert not x.requires_grad


def test_r1_is_refused_where_batch_norm_mixes_the_images() -> None:
    with pytest.raises(ConfigError, match="norm: group"):
        VQObjective(patch_discriminator(width=8), perceptual_weight=0, r1_weight=1.0)


def test_r1_trains_the_patch_discriminator() -> None:
    torch.manual_seed(0)
    network = patch_discriminator(width=8, norm="group")
    objective = VQObjective(network, perceptual_weight=0, r1_weight=1e3, r1_every=1)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    penalties = []
    for _ in range(10):
        loss, logs = objective.discriminator_loss(X, -X, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        penalties.append(logs["r1"].item())
    assert penalties[-1] < 0.5 * penalties[0]


# -- NaN --------------------------------------------------------------------------------------


def not_finite(logs: dict[str, Tensor]) -> list[str]:
    return [name for name, value in logs.items() if not value.isfinite()]


@pytest.mark.parametrize("cls", CLASSES)
def test_the_first_log_that_is_not_finite_is_the_cause(cls: Any) -> None:
    decoder = Decoder()

    def broken(change: Any, step: int = 10) -> list[str]:
        objective, output = build(cls), decoder()
        output = change(objective, output) or output
        return not_finite(objective.generator(X, output, decoder.layer, step)[1])

    def image(_: Any, output: Output) -> Output:
        return output._replace(image=output.image + float("nan"))

    def perceptual(objective: Any, _: Output) -> None:
        objective.perceptual_loss.lin2.model[0].weight.fill_(float("inf"))

    def regulariser(_: Any, output: Output) -> Output:
        bad = DiagonalGaussian(torch.full((2, 4, 4, 4), float("nan")))
        return output._replace(posterior=bad, codebook_loss=torch.tensor(float("inf")))

    def discriminator(objective: Any, _: Output) -> None:
        objective.discriminator.main[0].bias.data.fill_(float("nan"))

    assert broken(lambda *_: None) == []
    assert broken(image)[0] == "pixel_loss"
    assert broken(perceptual)[0] == "p_loss"
    own = "kl_loss" if cls is KLObjective else "quant_loss"
    assert broken(regulariser) == [own, "total_loss"]
    assert broken(discriminator) == ["g_loss", "grad_norm_g", "d_weight", "total_loss"]
    assert broken(discriminator, step=9) == []


def test_overflow_of_a_last_layer_in_float16_is_seen() -> None:
    """A foreign decoder whose last layer runs in half precision: logged, and no weight of 0."""
    objective, decoder = build(KLObjective), Decoder()
    decoder.features = decoder.features.abs() * 1e3
    layer = decoder.layer.detach().half().requires_grad_()
    image = F.conv2d(decoder.features.half(), layer, padding=1)
    output = decoder()._replace(image=image.clamp(-3e4, 3e4))
    _, logs = objective.generator(X, output, layer, 10)
    assert logs["grad_norm_nll"].isinf() or logs["grad_norm_nll"].isnan()
    assert logs["d_weight"].isnan()
    assert not_finite(logs) == ["grad_norm_nll", "d_weight", "total_loss"]
