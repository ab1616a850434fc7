from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from torch import Tensor

from ldm.data.super_resolution.bicubic import Bicubic
from ldm.data.super_resolution.bsrgan import (
    BlindDegradation,
    Blur,
    Decimate,
    Jpeg,
    Noise,
    Resize,
    blur,
    bsr,
    bsr_light,
    covariance,
    gaussian_kernel,
    resize,
)
from ldm.errors import DataError

CHAINS = {"bsr": bsr, "bsr_light": bsr_light}


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def photo(height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    """Noise with the spectrum of photographs, 1/f, and an edge: (H, W, 3) in [0, 1], 8 bits."""
    grey, colour = (rng(seed, i).standard_normal((height, width, n)) for i, n in ((0, 1), (1, 3)))
    noise = grey + 0.2 * colour
    y, x = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    spectrum = np.fft.fft2(noise, axes=(0, 1)) / np.maximum(np.hypot(y, x), 0.02)[..., None]
    image = np.fft.ifft2(spectrum, axes=(0, 1)).real
    image = 0.5 + 0.15 * image / image.std()
    image[:, width // 2 :] += 0.2
    return ((image.clip(0, 1) * 255).round() / 255).astype(np.float32)


def tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1) * 2 - 1


def psnr(a: Tensor, b: Tensor) -> float:
    return float(10 * torch.log10(4 / (a - b).square().mean()))


# -- bicubic ----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 4])
def test_bicubic_is_that_of_pillow(factor: int) -> None:
    image = photo(64, 96)
    small = Bicubic(factor)(tensor(image), rng())
    size = (96 // factor, 64 // factor)
    assert small.shape == (3, size[1], size[0])
    for channel in range(3):
        plane = Image.fromarray(image[..., channel])
        expected = np.asarray(plane.resize(size, Image.Resampling.BICUBIC)).clip(0, 1)
        assert np.abs(small[channel].numpy() - (expected * 2 - 1)).max() < 1e-4


def test_bicubic_of_any_channels_in_range() -> None:
    checks = torch.ones(5, 16, 16)
    checks[:, :, :8] = -1
    small = Bicubic(4)(checks, rng())
    assert small.shape == (5, 4, 4)
    assert small.aminmax() == (-1, 1)
    assert torch.allclose(Bicubic(4)(torch.full((3, 8, 8), 0.3), rng()), torch.tensor(0.3))
    with pytest.raises(DataError, match="30 x 32 pixels cannot shrink 4 times"):
        Bicubic(4)(torch.zeros(3, 30, 32), rng())
    with pytest.raises(DataError, match="factor 0"):
        Bicubic(0)


# -- blur -------------------------------------------------------------------------------------


def moments(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.indices(kernel.shape) - (len(kernel) - 1) / 2
    places = np.stack([x.ravel(), y.ravel()])
    mean = places @ kernel.ravel()
    return mean, np.cov(places, aweights=kernel.ravel(), bias=True)


@pytest.mark.parametrize("size", [31, 32])
def test_kernels_have_sum_mean_and_covariance(size: int) -> None:
    for variances, angle in (((2.0, 2.0), 0.3), ((8.0, 1.0), 0.6), ((1.0, 6.0), 2.5)):
        wanted = covariance(variances, angle)
        axis = np.array([np.cos(angle), np.sin(angle)])
        assert axis @ wanted @ axis == pytest.approx(variances[0])
        kernel = gaussian_kernel(size, wanted)
        assert kernel.shape == (size, size)
        assert kernel.sum() == pytest.approx(1)
        assert (kernel >= 0).all()
        mean, found = moments(kernel)
        assert mean == pytest.approx([0, 0], abs=1e-9)
        assert found == pytest.approx(wanted, rel=1e-2, abs=1e-2)
        moved = gaussian_kernel(size, wanted, shift=1.5)
        assert moments(moved)[0] == pytest.approx([-1.5, -1.5], abs=0.05)


def test_kernels_without_width_take_the_nearest_pixels() -> None:
    odd = gaussian_kernel(5, covariance((1e-9, 1e-9), 0.7))
    assert odd[2, 2] == 1
    even = gaussian_kernel(4, np.eye(2) * 1e-4)
    assert even[1:3, 1:3] == pytest.approx(np.full((2, 2), 0.25))


@pytest.mark.parametrize("size", [5, 6, 25])
def test_blur_is_convolution_with_mirrored_borders(size: int) -> None:
    image = photo(20, 28)
    kernel = gaussian_kernel(size, covariance((3.0, 0.5), 0.4), shift=0.7)
    expected = scipy.ndimage.convolve(image, kernel[..., None], mode="mirror")
    blurred = blur(image, kernel)
    assert blurred.dtype == np.float32
    assert np.abs(blurred - expected).max() < 1e-5
    assert blur(image[:3, :2], kernel).shape == (3, 2, 3)


def test_the_blur_step_has_the_covariance_it_says() -> None:
    point = np.zeros((31, 31, 3), np.float32)
    point[15, 15] = 1
    spread = Blur(25, (4.0, 1.0), 0.5)(point, rng())
    weights = spread[..., 0].clip(0)  # rounding leaves tiny negative values
    assert moments(weights)[1] == pytest.approx(covariance((4.0, 1.0), 0.5), abs=0.02)


# -- resizing ---------------------------------------------------------------------------------


def test_area_is_the_mean_of_what_is_covered() -> None:
    image = photo(24, 36)
    blocks = image.reshape(6, 4, 9, 4, 3).mean((1, 3))
    assert np.abs(resize(image, (6, 9), "area") - blocks).max() < 1e-6
    small = resize(image, (7, 10), "area")
    for channel in range(3):
        plane = Image.fromarray(image[..., channel])
        pillow = np.asarray(plane.resize((10, 7), Image.Resampling.BOX))
        # Pillow gives a pixel to one side of a border, here it is divided
        assert np.abs(small[..., channel] - pillow).max() < 0.1
    assert small.mean() == pytest.approx(image.mean(), abs=1e-6)


def test_bilinear_mixes_four_neighbours_only() -> None:
    image = photo(24, 36)
    y, x = ((np.arange(new) + 0.5) * old / new - 0.5 for new, old in ((5, 24), (7, 36)))
    grid = np.meshgrid(y, x, indexing="ij")
    small = resize(image, (5, 7), "bilinear")
    for channel in range(3):
        expected = scipy.ndimage.map_coordinates(image[..., channel], grid, order=1)
        assert np.abs(small[..., channel] - expected).max() < 1e-5
    assert np.abs(resize(image, (5, 7), "bilinear", antialias=True) - small).max() > 0.01


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "area"])
def test_resizing_keeps_constants_and_what_has_the_size(method: str) -> None:
    flat = np.full((9, 11, 3), 0.25, np.float32)
    for size in ((4, 5), (20, 13)):
        resized = Resize(size, method)(flat, rng())
        assert resized.shape == (*size, 3)
        assert np.abs(resized - 0.25).max() < 1e-6
    image = photo(8, 8)
    assert np.array_equal(resize(image, (8, 8), method), image)


@pytest.mark.parametrize(("std", "factor"), [(0.1, 4), (2.0, 4), (0.1, 2), (1.0, 3)])
def test_decimated_pixels_stand_for_the_centres_of_their_blocks(std: float, factor: int) -> None:
    ramp = np.repeat(np.linspace(0, 1, 96, dtype=np.float32)[None, :, None], 96, 0)
    ramp = np.concatenate([ramp, ramp.transpose(1, 0, 2), ramp], axis=2)
    small = Decimate(std, factor)(ramp, rng())
    centres = ramp[0, :, 0].reshape(-1, factor).mean(1)
    inner = slice(20 // factor, 76 // factor)
    assert small.shape == (96 // factor, 96 // factor, 3)
    assert small[40 // factor, inner, 0] == pytest.approx(centres[inner], abs=1e-4)
    assert small[inner, 40 // factor, 1] == pytest.approx(centres[inner], abs=1e-4)


# -- noise and JPEG ---------------------------------------------------------------------------


def test_noise_has_its_level_and_kind() -> None:
    grey = np.full((120, 120, 3), 0.5, np.float32)
    colour = Noise("colour", 10)(grey, rng(1)) - grey
    assert colour.std((0, 1)) == pytest.approx([10 / 255] * 3, rel=0.05)
    assert np.abs(np.corrcoef(colour.reshape(-1, 3).T) - np.eye(3)).max() < 0.05
    same = Noise("grey", 10)(grey, rng(1)) - grey
    assert same.std() == pytest.approx(10 / 255, rel=0.05)
    assert np.array_equal(same[..., 0], same[..., 2])
    bright = Noise("colour", 25)(np.ones((8, 8, 3), np.float32), rng(1))
    assert bright.max() == 1
    assert bright.dtype == np.float32


def test_correlated_noise_has_the_covariance_of_its_mixing() -> None:
    class Recorded(Noise):
        @staticmethod
        def mixing(generator: np.random.Generator) -> np.ndarray:
            seen.append(Noise.mixing(generator))
            return seen[-1]

    seen: list[np.ndarray] = []
    grey = np.full((200, 200, 3), 0.5, np.float32)
    noise = (Recorded("correlated", 10)(grey, rng(2)) - grey).reshape(-1, 3)
    wanted = seen[0].T @ seen[0] * (10 / 255) ** 2
    assert np.cov(noise.T) == pytest.approx(wanted, rel=0.1, abs=3e-5)
    diagonals = np.array([np.diag(m.T @ m) for m in (Noise.mixing(rng(3, i)) for i in range(99))])
    assert diagonals.min() >= 0
    assert diagonals.max() < 1.5
    assert diagonals.mean() == pytest.approx(0.5, abs=0.1)


def test_jpeg_is_that_of_pillow() -> None:
    image = photo(48, 40)
    errors = []
    for quality in (30, 95):
        file = io.BytesIO()
        Image.fromarray((image * 255).round().astype(np.uint8)).save(file, "JPEG", quality=quality)
        expected = np.asarray(Image.open(file)).astype(np.float32) / 255
        coded = Jpeg(quality)(image, rng())
        assert np.array_equal(coded, expected)
        errors.append(np.abs(coded - image).mean())
    assert errors[0] > 1.3 * errors[1]


# -- the chains -------------------------------------------------------------------------------


def plans(chain: BlindDegradation, count: int = 3000) -> list[list[object]]:
    return [chain.plan(256, 256, rng(11, i)) for i in range(count)]


def share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)


@pytest.mark.parametrize("name", CHAINS)
def test_steps_occur_as_often_as_they_should(name: str) -> None:
    chain, near = CHAINS[name](), {"abs": 0.035}
    drawn = plans(chain)
    kinds = [Counter(type(step) for step in plan) for plan in drawn]
    assert all(kind[Blur] == {"bsr": 2, "bsr_light": 1}[name] for kind in kinds)
    assert all(kind[Noise] == 1 for kind in kinds)
    assert all(isinstance(plan[-1], Jpeg) for plan in drawn)
    assert share([kind[Jpeg] == 2 for kind in kinds]) == pytest.approx(0.9, **near)
    free = {"bsr": 0.75, "bsr_light": 0.8}[name]
    assert share([kind[Decimate] == 0 for kind in kinds]) == pytest.approx(free, **near)
    assert share([halved(plan) for plan in drawn]) == pytest.approx(0.25, **near)
    halves = [plan[0] for plan in drawn if halved(plan)]
    assert all(half.size == (128, 128) for half in halves)
    assert share([half.antialias for half in halves]) == pytest.approx(0.5, abs=0.08)
    noises = Counter(step.kind for step in steps(drawn, Noise))
    shares = [noises[kind] / len(drawn) for kind in ("colour", "grey", "correlated")]
    assert shares == pytest.approx([0.4, 0.4, 0.2], **near)
    methods = Counter(step.method for plan in drawn for step in plan[-2:1:-1] if is_final(step))
    assert sorted(methods) == ["area", "bicubic", "bilinear"]
    assert max(methods.values()) < 1.2 * min(methods.values())


def halved(plan: list) -> bool:
    first = plan[0]
    if not isinstance(first, Resize) or first.size != (128, 128):
        return False
    return sum(isinstance(step, (Resize, Decimate)) for step in plan) == 3


def is_final(step: object) -> bool:
    return isinstance(step, Resize) and step.size == (64, 64)


def steps(drawn: list, kind: type) -> list:
    return [step for plan in drawn for step in plan if isinstance(step, kind)]


@pytest.mark.parametrize("name", CHAINS)
def test_strengths_are_the_published_ones(name: str) -> None:
    drawn = plans(CHAINS[name]())
    blurs, light = steps(drawn, Blur), name == "bsr_light"
    round_, long = (
        [blur for blur in blurs if (blur.variances[0] == blur.variances[1]) == same]
        for same in (True, False)
    )
    assert len(round_) / len(blurs) == pytest.approx(0.5, abs=0.035)
    sizes = ({5, 6, 7}, set(range(5, 15))) if light else (set(range(7, 26, 2)),) * 2
    assert ({b.size for b in round_}, {b.size for b in long}) == sizes
    # 2 + 0.2 f and 4 + f for f = 4
    widest = 0.25 if light else 1
    assert max(b.variances[0] for b in round_) ** 0.5 == pytest.approx(2.8 * widest, rel=0.02)
    assert max(b.variances[1] for b in long) == pytest.approx(8 * widest, rel=0.02)
    angles = [b.angle for b in long]
    assert (min(angles), max(angles)) == pytest.approx((0, np.pi), abs=0.02)
    levels = {n.level for n in steps(drawn, Noise) if n.kind != "correlated"}
    assert levels == ({1, 2} if light else set(range(2, 26)))
    assert {n.level for n in steps(drawn, Noise) if n.kind == "correlated"} == {2 if light else 25}
    qualities = {jpeg.quality for jpeg in steps(drawn, Jpeg)}
    assert qualities == set(range(80 if light else 30, 96))
    stds = [d.std for d in steps(drawn, Decimate) if d.factor == 4]
    assert (min(stds), max(stds)) == pytest.approx((0.1, 2.4), abs=0.05)


@pytest.mark.parametrize("name", CHAINS)
def test_the_order_is_random_but_for_the_last_shrinking(name: str) -> None:
    noise_first, jpeg_first, places = [], [], Counter()
    for plan in plans(CHAINS[name]()):
        kinds = [type(step) for step in plan]
        shrinking = [i for i, step in enumerate(plan) if isinstance(step, (Resize, Decimate))]
        assert plan[shrinking[-1]].size == (64, 64)
        places[len(plan) - 2 - shrinking[-1]] += 1
        noise_first.append(kinds.index(Noise) < kinds.index(Blur))
        jpeg_first.append(kinds.index(Jpeg) < kinds.index(Noise))
    assert share(noise_first) == pytest.approx(1 / 3 if name == "bsr" else 1 / 2, abs=0.035)
    assert share(jpeg_first) == pytest.approx(0.45, abs=0.035)
    assert set(places) >= {0, 1, 2, 3}  # steps between it and the last JPEG


def test_only_a_fourfold_shrinking_is_begun_by_half() -> None:
    for factor in (2, 3):
        for i in range(50):
            plan = bsr(factor).plan(96, 96, rng(i))
            assert sum(isinstance(step, (Resize, Decimate)) for step in plan) == 2


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize(("size", "factor"), [((64, 96), 4), ((16, 16), 4), ((32, 48), 2)])
def test_small_images(name: str, size: tuple[int, int], factor: int) -> None:
    chain, image = CHAINS[name](factor), tensor(photo(*size))
    for i in range(20):
        small = chain(image, rng(12, i))
        assert small.shape == (3, size[0] // factor, size[1] // factor)
        assert small.dtype == torch.float32
        assert small.abs().max() <= 1
        levels = (small + 1) * 127.5
        assert (levels - levels.round()).abs().max() < 1e-3
        assert torch.equal(chain(image, rng(12, i)), small)
    assert not torch.equal(chain(image, rng(12, 0)), chain(image, rng(12, 1)))
    assert torch.equal(image, tensor(photo(*size)))


def test_the_light_variant_is_light() -> None:
    image = tensor(photo(128, 128))
    plain = Bicubic(4)(image, rng())
    strong, light = (
        np.array([psnr(chain(image, rng(13, i)), plain) for i in range(60)])
        for chain in (bsr(), bsr_light())
    )
    assert light.mean() > strong.mean() + 2
    assert (light > strong).mean() > 0.7
    assert strong.min() > 10


def test_what_cannot_be_degraded() -> None:
    with pytest.raises(DataError, match="JPEG needs RGB, got 1 channels"):
        bsr()(torch.zeros(1, 16, 16), rng())
    with pytest.raises(DataError, match="18 x 16 pixels cannot shrink 4 times"):
        bsr_light()(torch.zeros(3, 18, 16), rng())
    with pytest.raises(DataError, match="factor 0"):
        bsr(0)
    settings = vars(bsr())
    with pytest.raises(DataError, match=r"jpeg_prob 1\.5 is not a probability"):
        BlindDegradation(**{**settings, "jpeg_prob": 1.5})
    with pytest.raises(DataError, match="jpeg_quality 90 to 80 is no range"):
        BlindDegradation(**{**settings, "jpeg_quality": (90, 80)})
