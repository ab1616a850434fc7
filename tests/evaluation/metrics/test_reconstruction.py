from __future__ import annotations

import math

import pytest
import torch

from ldm.data.scenes.dataset import SceneDataset
from ldm.evaluation.metrics.reconstruction import psnr, resampled, saturated, ssim


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    dataset = SceneDataset((32, 40), 3)
    real = torch.stack([dataset[i]["image"] for i in range(3)])
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    return real, (real + noise * torch.tensor([0.02, 0.1, 0.4]).view(3, 1, 1, 1)).clamp(-1, 1)


def test_psnr_of_a_known_error() -> None:
    real = torch.zeros(2, 3, 8, 8)
    off = torch.stack([torch.full((3, 8, 8), 0.2), torch.full((3, 8, 8), 0.02)])
    assert psnr(real, off).tolist() == pytest.approx([20.0, 40.0], abs=1e-4)
    assert psnr(real, real).tolist() == [math.inf, math.inf]
    # Beyond the range of images there is no error to see.
    assert math.isinf(psnr(torch.ones(1, 3, 8, 8), torch.full((1, 3, 8, 8), 1.5)))


def test_psnr_and_ssim_agree_with_skimage() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    real, fake = pair()
    for i in range(3):
        a, b = real[i].double().numpy(), fake[i].double().numpy()
        want = metrics.peak_signal_noise_ratio(a, b, data_range=2.0)
        assert float(psnr(real, fake)[i]) == pytest.approx(want, rel=1e-5)
        want = metrics.structural_similarity(
            a,
            b,
            channel_axis=0,
            data_range=2.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert float(ssim(real, fake)[i]) == pytest.approx(want, rel=1e-6)


def test_psnr_and_ssim_agree_with_torchmetrics() -> None:
    metrics = pytest.importorskip("torchmetrics.functional.image")
    real, fake = (x.double() for x in pair())
    want = metrics.peak_signal_noise_ratio(fake, real, 2.0, dim=(1, 2, 3), reduction="none")
    assert psnr(real, fake).tolist() == pytest.approx(want.tolist(), rel=1e-5)
    _, windows = metrics.structural_similarity_index_measure(
        fake, real, sigma=1.5, data_range=2.0, reduction="none", return_full_image=True
    )
    want = windows[:, :, 5:-5, 5:-5].mean((1, 2, 3))  # it counts windows across the border too
    assert ssim(real, fake).tolist() == pytest.approx(want.tolist(), rel=1e-5)


def test_resampled_images_are_block_means_enlarged() -> None:
    real, _ = pair()
    assert torch.equal(resampled(real, 1), real)
    small = real.unflatten(2, (8, 4)).unflatten(4, (10, 4)).mean((3, 5))
    want = torch.nn.functional.interpolate(small, (32, 40), mode="bicubic").clamp(-1, 1)
    assert torch.allclose(resampled(real, 4), want, atol=1e-6)
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert torch.allclose(resampled(flat, 8), flat)
    better, worse = (psnr(real, resampled(real, f)) for f in (2, 8))
    assert (better > worse).all()


def test_saturated_values_are_those_at_the_ends_to_8_bits() -> None:
    images = torch.zeros(2, 1, 2, 2)
    images[0, 0] = torch.tensor([[1.0, -1.0], [254 / 127.5 - 1, 3.0]])
    assert saturated(images).tolist() == [0.75, 0]
    assert saturated(images + torch.tensor([0.0, -0.9999]).view(2, 1, 1, 1))[1] == 1


def test_ssim_is_one_value_per_image_and_one_for_a_copy() -> None:
    real, fake = pair()
    values = ssim(real, fake)
    assert values.shape == (3,)
    assert values[0] > values[1] > values[2]
    assert ssim(real, real).tolist() == pytest.approx([1.0] * 3)
    assert ssim(real[:1], fake[:1]).tolist() == pytest.approx(values[:1].tolist())


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        psnr(torch.zeros(1, 3, 16, 16), torch.zeros(2, 3, 16, 16))
    with pytest.raises(ValueError, match="one shape"):
        ssim(torch.zeros(3, 16, 16), torch.zeros(3, 16, 16))
    with pytest.raises(ValueError, match="11 x 11 pixels"):
        ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
