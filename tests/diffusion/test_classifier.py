from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.autoencoders.identity import AutoencoderIdentity
from ldm.autoencoders.kl import AutoencoderKL
from ldm.autoencoders.networks import Architecture
from ldm.denoisers.encoder_unet import EncoderUNet
from ldm.denoisers.unet import UNet
from ldm.diffusion.classifier import NoisyLatentClassifier, classifier_for
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import DataError
from ldm.samplers.ddim import DDIM
from ldm.samplers.noise import SeededNoise
from tests.diffusion.fakes import FakeDenoiser, FakeLabels
from tests.diffusion.mixture import TwoGaussians
from tests.parity import assert_close

SCHEDULE = NoiseSchedule(timesteps=40)


class Logits(nn.Module):
    """A linear classifier of the pixels' mean, with a bias that depends on the step."""

    def __init__(self, classes: int = 3, maps: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, classes, 1)
        self.maps = maps

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        y = self.conv(x) * (1 + t / 40)[:, None, None, None]
        return y if self.maps else y.mean((2, 3))


class AfterHalf(nn.Module):
    """Class 1 from the middle of the steps on, class 0 before."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.stack([20.0 - t, t - 19.0], dim=1) + 0 * x.mean()


def classifier(network: nn.Module | None = None, **options: Any) -> NoisyLatentClassifier:
    return NoisyLatentClassifier(network or Logits(), AutoencoderIdentity(3), SCHEDULE, **options)


def batch(n: int = 4, **entries: Any) -> dict[str, Any]:
    image = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(5)) * 2 - 1
    return {"image": image, "class_label": torch.arange(n) % 3, **entries}


# -- training ---------------------------------------------------------------------------------


def test_loss_is_the_cross_entropy_of_noisy_scaled_latents() -> None:
    model, data = classifier(scale_factor=0.5), batch()
    loss, logs = model(data, torch.Generator().manual_seed(1))
    again = torch.Generator().manual_seed(1)
    t = torch.randint(40, (4,), generator=again)
    noise = torch.randn(4, 3, 4, 4, generator=again)
    z_t = SCHEDULE.add_noise(0.5 * data["image"], noise, t)
    logits = model.network(z_t, t)
    assert_close(loss, F.cross_entropy(logits, data["class_label"]))
    assert logs["loss"] == loss
    assert not logs["loss"].requires_grad
    right = logits.argmax(1) == data["class_label"]
    assert logs["accuracy"] == right.float().mean()
    assert logs["accuracy_top5"] == 1  # of three classes


def test_top5() -> None:
    class Ranks(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return -torch.arange(10.0).expand(len(x), 10)  # class 0 first, class 9 last

    labels = torch.tensor([0, 4, 5, 9])
    logs = classifier(Ranks()).evaluate(batch(class_label=labels))
    assert logs["accuracy"] == 0.25
    assert logs["accuracy_top5"] == 0.5


def test_accuracy_by_quarter_of_the_steps() -> None:
    model = classifier(AfterHalf())
    logs = model.evaluate(batch(class_label=torch.zeros(4, dtype=torch.long)))
    assert [float(logs[f"accuracy_q{i}"]) for i in (1, 2, 3, 4)] == [1, 1, 0, 0]
    assert logs["accuracy"] == 0.5


def test_every_step_is_drawn() -> None:
    seen = []

    class Recorder(AfterHalf):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append(t)
            return super().forward(x, t)

    model = classifier(Recorder())
    data = batch(800, class_label=torch.zeros(800, dtype=torch.long))
    model(data)
    assert set(seen[0].tolist()) == set(range(40))
    seen.clear()
    model.evaluate(data)
    assert [set(t.tolist()) for t in seen] == [set(range(i, i + 10)) for i in (0, 10, 20, 30)]


def test_evaluation_repeats_with_the_same_generator() -> None:
    model, data = classifier(), batch()
    first, second = (model.evaluate(data, torch.Generator().manual_seed(2)) for _ in range(2))
    assert first == second


def test_only_the_network_learns() -> None:
    sizes = Architecture(
        channels=8, channel_mult=[1, 1], num_res_blocks=1, z_channels=2, norm_groups=2
    )
    network = EncoderUNet(2, 8, 3, 1, [2], [1, 1], 8, num_heads=1, norm_groups=2)
    model = NoisyLatentClassifier(network, AutoencoderKL(sizes, 2), SCHEDULE)
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"network"}
    model.train()
    assert model.network.training
    assert not any(module.training for module in model.autoencoder.modules())
    data = batch(2)
    data["image"] = torch.rand(2, 3, 16, 16)
    assert not model.encode(data["image"]).requires_grad
    model(data)[0].backward()
    assert all(p.grad is None for p in model.autoencoder.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.network.parameters())


# -- label maps -------------------------------------------------------------------------------


def test_label_maps_at_the_size_of_the_latents() -> None:
    """Every second label of maps of twice the size; pixels without one do not count."""
    model = classifier(Logits(maps=True), label_key="segmentation")
    maps = torch.randint(3, (4, 8, 8), generator=torch.Generator().manual_seed(6))
    maps[0, 0, 0], maps[1, 2, 2] = -1, 255
    loss, _ = model(batch(segmentation=maps), torch.Generator().manual_seed(1))
    again = torch.Generator().manual_seed(1)
    t = torch.randint(40, (4,), generator=again)
    noise = torch.randn(4, 3, 4, 4, generator=again)
    logits = model.network(SCHEDULE.add_noise(batch()["image"], noise, t), t)
    small = maps[:, ::2, ::2]
    counts = (small >= 0) & (small < 255)
    chosen = logits.log_softmax(1).gather(1, small.clamp(0, 2)[:, None])[:, 0][counts]
    assert counts.sum() == 62
    assert_close(loss, -chosen.mean())


def test_a_unet_classifies_pixels() -> None:
    network = UNet(3, 3, 32, 1, [2], [1, 2])
    model = classifier(network, label_key="segmentation")
    maps = torch.zeros(4, 4, 4, dtype=torch.long)
    loss, _ = model(batch(segmentation=maps))
    assert loss.item() == pytest.approx(torch.tensor(3.0).log().item())  # a new UNet says nothing


def test_maps_without_any_label_give_no_loss() -> None:
    model = classifier(Logits(maps=True), label_key="segmentation")
    loss, logs = model(batch(segmentation=torch.full((4, 4, 4), -1)))
    assert loss == 0
    assert logs["accuracy"] == 0


# -- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 2, 3]), "label 3 is out of range: the classifier has 3 classes"),
        (torch.tensor([0, 1, -1, 0]), "label -1 is out of range"),
        (torch.zeros(4, 1, dtype=torch.long), r"labels must be ids \(B,\) of 4, got \(4, 1\)"),
        (torch.zeros(3, dtype=torch.long), r"of 4, got \(3,\)"),
        (torch.zeros(4), "needs integer labels as batch entry 'class_label'"),
        (["a", "b", "c", "d"], "needs integer labels"),
    ],
)
def test_labels_that_do_not_fit(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        classifier()(batch(class_label=labels))


def test_no_labels() -> None:
    data = batch()
    del data["class_label"]
    with pytest.raises(DataError, match="'class_label'; the batch has image"):
        classifier()(data)


@pytest.mark.parametrize("shape", [(4, 2, 2), (4, 8, 9), (4,)])
def test_maps_of_another_size(shape: tuple[int, ...]) -> None:
    model = classifier(Logits(maps=True), label_key="segmentation")
    with pytest.raises(DataError, match=r"whole multiple|must be maps"):
        model(batch(segmentation=torch.zeros(shape, dtype=torch.long)))


# -- guidance ---------------------------------------------------------------------------------


def exact() -> tuple[NoisyLatentClassifier, TwoGaussians]:
    schedule = NoiseSchedule(timesteps=1000, start=0.0015, end=0.0195)
    mixture = TwoGaussians(schedule)
    return NoisyLatentClassifier(mixture, AutoencoderIdentity(2), schedule), mixture


def test_gradient_is_that_of_bayes_rule() -> None:
    model, mixture = exact()
    x, t = torch.randn(8, 2, 1, 1), torch.arange(8) * 100
    y = torch.tensor([0, 1] * 4)
    want = mixture.class_score(x, t)[torch.arange(8), y] - mixture.score(x, t)
    assert_close(model.log_prob_gradient(x, t, y), want, rtol=1e-3)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradient_where_gradients_are_off(mode: Any) -> None:
    model = classifier()
    with mode():
        z, t, y = torch.randn(2, 3, 4, 4), torch.tensor([3, 30]), torch.tensor([0, 2])
        got = model.log_prob_gradient(z, t, y)
    assert not got.requires_grad
    assert_close(got, model.log_prob_gradient(z.clone(), t.clone(), y.clone()))
    assert all(p.grad is None for p in model.parameters())


def test_gradient_of_one_sample_does_not_depend_on_the_others() -> None:
    model = classifier()
    z, t, y = torch.randn(3, 3, 4, 4), torch.tensor([3, 30, 9]), torch.tensor([0, 2, 1])
    alone = model.log_prob_gradient(z[1:2], t[1:2], y[1:2])
    assert_close(model.log_prob_gradient(z, t, y)[1:2], alone, rtol=1e-5)


def test_gradient_refuses_a_class_that_is_not_there() -> None:
    with pytest.raises(DataError, match="label 3 is out of range"):
        classifier().log_prob_gradient(
            torch.zeros(1, 3, 4, 4), torch.tensor([0]), torch.tensor([3])
        )


def test_guided_samples_are_of_their_classes() -> None:
    model, mixture = exact()
    y = torch.arange(400) % 2
    denoise = model.guide(y, scale=1.0)(mixture.denoise)
    start = torch.randn(400, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    *_, last = DDIM(steps=50)(denoise, start, model.schedule, torch.zeros_like)
    found = mixture(last.x, torch.zeros_like(y)).argmax(1)
    assert (found == y).float().mean() > 0.97


def diffusion(scale_factor: float | None = 0.25) -> LatentDiffusion:
    torch.manual_seed(1)
    return LatentDiffusion(
        FakeDenoiser(),
        AutoencoderIdentity(3),
        SCHEDULE,
        [FakeLabels(drop_prob=0.1)],
        scale_factor=scale_factor,
    ).eval()


def test_the_classifier_of_a_diffusion_model_shares_its_latents() -> None:
    model = diffusion()
    guide = classifier_for(model, Logits())
    assert guide.autoencoder is model.autoencoder
    assert guide.schedule is model.schedule
    image = batch()["image"]
    assert torch.equal(guide.encode(image), model.encode(image))
    assert classifier_for(diffusion(None), Logits()).scale_factor.isnan()


@torch.no_grad()
def test_it_guides_a_diffusion_model_beside_classifier_free_guidance() -> None:
    model = diffusion()
    guide = classifier_for(model, Logits())
    labels = torch.tensor([0, 1, 2, 0])
    request = {"label": labels}
    noise = SeededNoise(range(4))
    free = model.denoise(model.condition(request), model.unconditional(request), 3.0)
    start = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    samples = {}
    for scale in (0.0, 5.0):
        steps = DDIM(steps=8)(guide.guide(labels, scale)(free), start, SCHEDULE, noise)
        *_, last = steps
        samples[scale] = last.x
    *_, unguided = DDIM(steps=8)(free, start, SCHEDULE, noise)
    assert torch.equal(samples[0.0], unguided.x)
    t = torch.zeros_like(labels)
    before, after = (F.cross_entropy(guide.logits(samples[s], t), labels) for s in (0.0, 5.0))
    assert after < before
