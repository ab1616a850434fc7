from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm.errors import UserError
from ldm.evaluation.networks.resizing import NAMES, NETWORK, resizer, tf1_bilinear


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def array(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).contiguous().numpy()


SIZES = [(32, 32), (40, 23), (299, 299), (17, 320)]


@pytest.mark.parametrize("size", SIZES)
def test_clean_and_torch_equal_clean_fid(size: tuple[int, int]) -> None:
    cleanfid = pytest.importorskip("cleanfid.resize")
    image = noise(*size)
    for name, theirs in (("clean", "clean"), ("torch-bilinear", "legacy_pytorch")):
        want = cleanfid.build_resizer(theirs)(array(image))
        got = resizer(name, 299)(image)
        assert got.shape == (3, 299, 299)
        assert np.array_equal(array(got.float()), want), name


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", [False, True])
def test_pil_equals_torchvision_on_pillow_images(size: tuple[int, int], crop: bool) -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    image = noise(*size)
    picture = Image.fromarray(array(image))
    for name in ("bicubic", "bilinear"):
        kernel = InterpolationMode(name)
        steps = [Resize(24, kernel), CenterCrop(24)] if crop else [Resize((24, 24), kernel)]
        want = np.asarray(Compose(steps)(picture))
        got = resizer(f"pil-{name}", 24, crop)(image)
        assert got.dtype == torch.uint8
        assert np.array_equal(array(got), want)


@pytest.mark.parametrize("size", SIZES)
def test_tf1_bilinear_equals_torch_fidelity(size: tuple[int, int]) -> None:
    module = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    images = torch.stack([noise(*size), noise(*size, seed=1)]).float()
    for wanted in ((299, 299), (224, 224)):
        want = module.interpolate_bilinear_2d_like_tensorflow1x(
            images, size=wanted, align_corners=False
        )
        assert torch.equal(tf1_bilinear(images, wanted), want)


def test_tf1_bilinear_in_closed_form() -> None:
    ramp = torch.tensor([[[[0.0, 1.0, 2.0, 3.0]]]])
    got = tf1_bilinear(ramp, (1, 8))
    assert got.flatten().tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]  # shifted to the left
    assert tf1_bilinear(ramp, (1, 2)).flatten().tolist() == [0, 2]  # no antialias
    assert torch.equal(tf1_bilinear(ramp, (1, 4)), ramp)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_of_the_size_stays_as_it_is(name: str) -> None:
    image = noise(24, 24)
    assert torch.equal(resizer(name, 24)(image).float(), image.float())


def test_antialias_is_what_the_description_says() -> None:
    stripes = torch.zeros(3, 64, 64, dtype=torch.uint8)
    stripes[:, :, ::4] = 255  # a quarter is white: antialiased, every pixel is about 64
    for name in NAMES[1:]:
        shrunk = resizer(name, 16)(stripes).float()
        smooth = bool(((shrunk - 64).abs() < 40).all())
        assert smooth == ("not antialiased" not in resizer(name, 16).describe()), name


def test_each_says_what_it_does() -> None:
    texts = {name: resizer(name, 299).describe() for name in NAMES}
    assert len(set(texts.values())) == len(NAMES)
    assert all("rounded" in text and "antialiased" in text for text in texts.values())
    assert "inside the network" in texts[NETWORK]
    assert resizer(NETWORK, None).describe() == "not resized"
    assert "middle square" in resizer("pil-bicubic", 224, crop=True).describe()


def test_wrong_names() -> None:
    with pytest.raises(UserError, match="'lanczos' is none of network, clean"):
        resizer("lanczos", 299)
    with pytest.raises(UserError, match="takes images as they are"):
        resizer("clean", None)
