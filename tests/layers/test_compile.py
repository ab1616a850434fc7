from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.autoencoders.kl import AutoencoderKL
from ldm.autoencoders.networks import Architecture
from ldm.conditioners.class_label import ClassLabel
from ldm.conditioners.contrastive import ContrastiveCLIP
from ldm.denoisers.encoder_unet import EncoderUNet
from ldm.denoisers.unet import UNet
from ldm.diffusion.classifier import NoisyLatentClassifier
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.schedule import NoiseSchedule
from ldm.evaluation.networks.small import ClassFeatures, SceneFeatures
from ldm.layers.compile import compile_networks
from tests.conditioners.clips import OPEN, ids

SIZES = {"model_channels": 8, "num_res_blocks": 1, "norm_groups": 4, "num_head_channels": 8}


@pytest.fixture(autouse=True)
def _forget() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def unet(**options: Any) -> UNet:
    torch.manual_seed(0)
    network = UNet(2, 2, channel_mult=[1, 2], attention_resolutions=[2], **SIZES, **options)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)  # nothing is zero
    return network


def first_stage() -> AutoencoderKL:
    torch.manual_seed(1)
    sizes = Architecture(channels=8, channel_mult=(1, 2), num_res_blocks=1, norm_groups=4)
    return AutoencoderKL(sizes, 2)


def latent_diffusion() -> LatentDiffusion:
    classes = ClassLabel(num_classes=3, dim=6, null_index=3)
    denoiser = unet(use_spatial_transformer=True, context_dim=6)
    return LatentDiffusion(denoiser, first_stage(), NoiseSchedule(timesteps=20), [classes]).eval()


def whole(function: Any) -> Any:
    """Compiled as one graph; what dynamo cannot take in is an error."""
    return torch.compile(function, fullgraph=True, backend="eager")


@pytest.mark.parametrize(
    ("options", "training"),
    [
        pytest.param(  # so it is within a step of sampling, below
            {"use_spatial_transformer": True, "context_dim": 6}, False, marks=pytest.mark.slow
        ),
        ({"use_spatial_transformer": True, "context_dim": 6, "use_checkpoint": True}, True),
        ({"resblock_updown": True, "use_scale_shift_norm": True, "num_classes": 3}, True),
    ],
)
def test_a_unet_is_one_graph(options: dict[str, Any], training: bool) -> None:
    network = unet(**options).train(training)
    x, t = torch.randn(2, 2, 8, 8), torch.tensor([3, 7])
    context = torch.randn(2, 4, 6) if "context_dim" in options else None
    y = torch.tensor([0, 2]) if "num_classes" in options else None
    with torch.set_grad_enabled(training):
        output = whole(network)(x, t, context=context, y=y)
        torch.testing.assert_close(output, network(x, t, context=context, y=y))


@pytest.mark.parametrize("training", [False, True])
def test_encoder_and_decoder_are_one_graph(training: bool) -> None:
    model = first_stage().train(training)
    x, z = torch.rand(1, 3, 48, 48), torch.randn(1, 2, 24, 24)
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(whole(model.encoder)(x), model.encoder(x))
        mode = whole(lambda images: model.encode(images).mode())(x)
        torch.testing.assert_close(mode, model.encode(x).mode())
        torch.testing.assert_close(whole(model.decode)(z), model.decode(z), rtol=1e-4, atol=1e-5)


def test_a_guided_sampling_step_is_one_graph() -> None:
    model = latent_diffusion()
    batch = {"class_label": torch.tensor([0, 2])}
    with torch.no_grad():
        denoise = model.conditional_denoise(batch, guidance_scale=3.0)

        def step(x: Tensor, t: Tensor) -> Tensor:
            x0, eps = denoise(x, t)
            return 0.8 * x0 + 0.6 * eps

        x, t = torch.randn(2, 2, 8, 8), torch.tensor([5, 5])
        torch.testing.assert_close(whole(step)(x, t), step(x, t), rtol=1e-4, atol=1e-5)


def test_what_is_compiled_keeps_its_names_and_types() -> None:
    model = latent_diffusion()
    before = list(model.state_dict())
    assert compile_networks(model) == ["denoiser", "autoencoder.encoder", "autoencoder.decoder"]
    assert list(model.state_dict()) == before
    assert type(model.denoiser) is UNet
    assert compile_networks(first_stage()) == ["encoder", "decoder"]
    assert compile_networks(unet()) == [""]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Types of the modules that are called through a compiler, which changes nothing."""
    names: list[str] = []

    def compiled(function: Any, **_: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            names.append(type(function.__self__).__name__)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    return names


def test_the_networks_are_called_through_the_compiler(calls: list[str]) -> None:
    model = latent_diffusion()
    compile_networks(model)
    model({"image": torch.rand(2, 3, 16, 16), "class_label": torch.tensor([0, 1])})
    model.decode(torch.randn(1, 2, 8, 8))
    assert calls == ["Encoder", "UNet", "Decoder"]


def test_so_are_networks_that_bring_a_loss(calls: list[str]) -> None:
    batch = {
        "image": torch.rand(2, 3, 8, 8),
        "class_label": torch.tensor([0, 1]),
        "box_labels": torch.tensor([[0], [1]]),
        "tokens": ids(3, 0),
    }
    for model in (ClassFeatures(2, width=8), SceneFeatures(width=8), ContrastiveCLIP(OPEN)):
        compile_networks(model)
        model.loss(batch)
    assert calls == ["ClassFeatures", "SceneFeatures", "ContrastiveCLIP"]


def test_so_is_a_classifier_of_latents(calls: list[str]) -> None:
    network = EncoderUNet(2, out_channels=3, channel_mult=[1, 2], image_size=8, **SIZES)
    model = NoisyLatentClassifier(network, first_stage(), NoiseSchedule(timesteps=20))
    compile_networks(model)
    model({"image": torch.rand(2, 3, 16, 16), "class_label": torch.tensor([0, 1])})
    assert calls == ["Encoder", "EncoderUNet"]
