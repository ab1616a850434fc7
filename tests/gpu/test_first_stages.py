"""What only a GPU can show of first stages: float16 training, and memory of the code search."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ldm.autoencoders.kl import AutoencoderKL
from ldm.autoencoders.networks import Architecture
from ldm.autoencoders.quantizer import MAX_DISTANCES, VectorQuantizer
from ldm.losses.adversarial import patch_discriminator
from ldm.losses.autoencoder import KLObjective
from ldm.training.run import train
from ldm.training.run_folder import RunFolder
from ldm.visualization.curves import read_metrics
from tests.training.test_stability import DISC_START, stability_config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "32-true"])
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_across_the_start_of_the_discriminator(tmp_path: Path, kind: str, precision: str) -> None:
    config = stability_config(kind, precision, 1, 2)
    config.trainer.accelerator = "gpu"
    folder = RunFolder(tmp_path / "run")
    train(config, folder)
    curves = read_metrics(folder.metrics)
    psnr = dict(curves["val/psnr"])
    after = [value for step, value in psnr.items() if step > DISC_START]
    assert min(after) > psnr[DISC_START] - 1.0, psnr
    weights = [value for _, value in curves["train/d_weight"]]
    assert torch.tensor(weights).isfinite().all()


def test_the_adaptive_weight_of_large_images_fits_under_float16() -> None:
    """The gradient of a sum over 256x256 pixels, which float16 cannot hold."""
    torch.manual_seed(0)
    model = AutoencoderKL(Architecture(channels=32, channel_mult=(1, 2)), 4).cuda()
    objective = KLObjective(patch_discriminator(), perceptual_weight=0.0, disc_start=0).cuda()
    x = torch.rand(4, 3, 256, 256, device="cuda") * 2 - 1
    weights = []
    for dtype in (torch.float32, torch.float16):
        with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            output = model(x, generator=torch.Generator("cuda").manual_seed(0))
            _, logs = objective.generator(x, output, model.last_layer, 1)
        weights.append(logs["d_weight"])
    assert weights[0] > 0
    assert torch.allclose(*weights, rtol=0.2)


def test_memory_of_the_code_search() -> None:
    layer = VectorQuantizer(8192, 3).cuda()
    z = torch.randn(8, 3, 64, 64, device="cuda") / 8192
    layer.nearest(z[:1, :, :8, :8])
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    layer.nearest(z)
    extra = torch.cuda.max_memory_allocated() - before
    assert extra < 4 * MAX_DISTANCES * 1.1
