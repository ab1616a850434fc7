"""What only a GPU can show of sampling: the same pictures as on the CPU, at half precision, too."""

from __future__ import annotations

import pytest
import torch

from ldm.autoencoders.kl import AutoencoderKL
from ldm.autoencoders.networks import Architecture
from ldm.conditioners.class_label import ClassLabel
from ldm.denoisers.unet import UNet
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.sampling import Sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.samplers.ddim import DDIM
from ldm.samplers.ddpm import DDPM
from ldm.samplers.dpm_solver import DPMSolver
from ldm.samplers.karras import Euler, Heun
from ldm.samplers.noise import SeededNoise
from ldm.samplers.plms import PLMS
from ldm.samplers.unipc import UniPC

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

SAMPLERS: list[Sampler] = [
    DDIM(10),
    DDIM(10, eta=1.0),
    DDPM(),
    PLMS(10),
    DPMSolver(10),
    DPMSolver(10, stochastic=True),
    UniPC(10),
    Euler(10),
    Heun(6),
]


def model() -> LatentDiffusion:
    torch.manual_seed(0)
    unet = UNet(
        in_channels=4,
        out_channels=4,
        model_channels=32,
        num_res_blocks=1,
        attention_resolutions=[1, 2],
        channel_mult=[1, 2],
        num_head_channels=16,
        use_spatial_transformer=True,
        context_dim=16,
    )
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.05)  # nothing is zero
    first_stage = AutoencoderKL(Architecture(channels=32, channel_mult=(1, 2), z_channels=4), 4)
    classes = ClassLabel(num_classes=10, dim=16, null_index=10)
    return LatentDiffusion(unet, first_stage, NoiseSchedule(timesteps=50), [classes]).eval()


def pictures(parts: LatentDiffusion, sampler: Sampler, device: str) -> torch.Tensor:
    labels = torch.arange(4, device=device)
    noise = SeededNoise(range(4))
    images = parts.to(device).sample(
        {"class_label": labels}, (32, 48), sampler, noise, guidance_scale=3.0
    )
    return images.float().cpu()


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: repr(sampler))
def test_the_pictures_of_a_seed_are_those_of_the_cpu(sampler: Sampler) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    parts = model()
    here, there = pictures(parts, sampler, "cpu"), pictures(parts, sampler, "cuda")
    assert (here - there).abs().max() < 1e-3 * here.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(dtype: torch.dtype) -> None:
    parts = model()
    exact = pictures(parts, DDIM(10), "cuda")
    with torch.autocast("cuda", dtype=dtype):
        rounded = pictures(parts, DDIM(10), "cuda")
    assert rounded.isfinite().all()
    assert (rounded - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_a_large_picture_in_tiles_needs_less_memory() -> None:
    from ldm.autoencoders.tiled import TiledAutoencoder
    from ldm.layers.tiling import Tiling

    first_stage = AutoencoderKL(Architecture(channels=64, z_channels=4), 4).cuda().eval()
    z = torch.randn(1, 4, 128, 128, device="cuda")
    peaks = []
    for decoder in (first_stage, TiledAutoencoder(first_stage, Tiling(32, 8))):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.no_grad():
            decoder.decode(z)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 0.3 * peaks[0]
