from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from ldm.data.scenes.captions import COLOURS, SHAPES, parse_caption
from ldm.data.scenes.dataset import SceneDataset
from ldm.errors import DataError
from ldm.evaluation.scenes.judge import UNKNOWN, Verdict, check, judge, summarise, validate_judge


def scenes(resolution: int, n: int = 150, seed: int = 77) -> SceneDataset:
    return SceneDataset(resolution, n, seed=seed, split="test")


def worsen(image: Tensor, generator: torch.Generator) -> Tensor:
    """Blur and noise of the size that a small autoencoder adds (sigma 0.7 px at 32 px)."""
    sigma = 0.7 * image.shape[1] / 32
    noise = 0.06 * torch.randn(image.shape, generator=generator)
    return gaussian_blur(image, [9, 9], sigma) + noise


@pytest.mark.parametrize("resolution", [32, 64])
def test_right_on_real_scenes(resolution: int) -> None:
    assert validate_judge(scenes(resolution), 150) >= 0.99


@pytest.mark.parametrize("resolution", [32, 64])
def test_right_on_blurred_and_noisy_scenes(resolution: int) -> None:
    generator = torch.Generator().manual_seed(0)
    dataset = scenes(resolution)
    items = [dataset[i] for i in range(len(dataset))]
    verdicts = [check(worsen(item["image"], generator), item["caption"]) for item in items]
    assert sum(verdict.correct for verdict in verdicts) >= 0.99 * len(verdicts)


def test_wrong_captions_are_refused() -> None:
    dataset = scenes(32)
    accepted, asked = 0, 0
    for i in range(len(dataset)):
        image, caption = dataset[i]["image"], dataset[i]["caption"]
        for words in (COLOURS, SHAPES):
            turned = {word: words[(k + 1) % len(words)] for k, word in enumerate(words)}
            turned |= (
                {
                    "circles": "squares",
                    "squares": "triangles",
                    "triangles": "crosses",
                    "crosses": "circles",
                }
                if words is SHAPES
                else {}
            )
            other = " ".join(
                turned.get(word.rstrip(","), word.rstrip(",")) + "," * word.endswith(",")
                for word in caption.split()
            )
            if set(parse_caption(other).counts()) <= set(parse_caption(caption).counts()):
                continue
            asked += 1
            accepted += check(image, other).shape_and_colour
    assert asked > 250
    assert accepted < 0.01 * asked


def test_count_and_relation_are_judged_apart() -> None:
    def find(caption: str) -> Tensor:
        dataset = SceneDataset(
            32, 3000, num_objects=(2, 2), shapes=["circle", "cross"], colours=["red", "blue"]
        )
        return next(d["image"] for d in dataset if d["caption"] == caption)

    pair = find("a red circle left of a blue cross")
    assert check(pair, "a red circle left of a blue cross") == Verdict(True, True, True)
    assert check(pair, "a blue cross right of a red circle") == Verdict(True, True, True)
    assert check(pair, "a red circle right of a blue cross") == Verdict(True, True, False)
    assert check(pair, "a red circle above a blue cross") == Verdict(True, True, False)
    assert check(pair, "a red circle") == Verdict(True, False, None)
    assert check(pair, "a red cross left of a blue cross") == Verdict(False, False, False)
    twins = find("two red circles")
    assert check(twins, "two red circles") == Verdict(True, True, None)
    assert check(twins, "three red circles") == Verdict(True, False, None)
    assert check(twins, "a red circle") == Verdict(True, False, None)
    assert not check(twins, "a red circle").correct


def test_found_objects_have_the_boxes_of_the_scene() -> None:
    dataset = SceneDataset((32, 64), 30, seed=2)
    for item in dataset:
        found = sorted(f.box for f in judge(item["image"]))
        real = sorted(
            tuple(box)
            for box, label in zip(item["boxes"].tolist(), item["box_labels"], strict=True)
            if label >= 0
        )
        assert torch.allclose(torch.tensor(found), torch.tensor(real), atol=1.6 / 32)
        areas = [f.area for f in judge(item["image"])]
        assert sum(areas) == pytest.approx(
            float((item["segmentation"] > 0).float().mean()), rel=0.15
        )
        assert areas == sorted(areas, reverse=True)


def test_empty_images_and_noise_hold_nothing_known() -> None:
    generator = torch.Generator().manual_seed(0)
    assert judge(torch.full((3, 32, 32), 0.3)) == []
    assert check(torch.full((3, 32, 32), 0.3), "a red circle") == Verdict(False, False, None)
    for scale in (0.3, 1.0, 3.0):
        for _ in range(20):
            noise = scale * torch.randn(3, 32, 32, generator=generator)
            assert all(UNKNOWN in (f.shape, f.colour) for f in judge(noise))


@pytest.mark.parametrize("rgb", [(0.95, 0.5, 0.1), (0.45, 0.06, 0.07), (0.95, 0.5, 0.5)])
def test_a_shifted_colour_is_not_red(rgb: tuple[float, float, float]) -> None:
    image = torch.full((3, 32, 32), 0.5)
    image[:, 8:24, 8:24] = torch.tensor(rgb)[:, None, None] * 2 - 1
    assert not check(image, "a red square").shape_and_colour
    image[:, 8:24, 8:24] = torch.tensor((0.9, 0.13, 0.15))[:, None, None] * 2 - 1
    assert check(image, "a red square").correct


def test_a_bar_is_no_square() -> None:
    image = torch.full((3, 32, 32), 0.5)
    image[:, 12:18, 4:28] = torch.tensor((0.9, 0.13, 0.15))[:, None, None] * 2 - 1
    assert [f.shape for f in judge(image)] == [UNKNOWN]


def test_an_image_of_one_colour_is_no_square() -> None:
    image = torch.tensor((0.9, 0.13, 0.15)).view(3, 1, 1).expand(3, 32, 32) * 2 - 1
    assert [(f.shape, f.colour) for f in judge(image)] == [(UNKNOWN, "red")]
    assert judge(torch.full((3, 32, 32), torch.nan)) == []


def test_validation_refuses_scenes_that_the_judge_cannot_read() -> None:
    class Mislabelled:
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> dict:
            return {**scenes(32)[index], "caption": "a red circle"}

    with pytest.raises(DataError, match="99 % are needed"):
        validate_judge(Mislabelled(), 50)


def test_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="one image"):
        judge(torch.zeros(1, 3, 32, 32))


def test_summary_counts_relations_among_captions_that_say_one() -> None:
    verdicts = [
        Verdict(True, True, True),
        Verdict(True, True, False),
        Verdict(True, False, None),
        Verdict(False, False, None),
    ]
    assert summarise(verdicts) == {
        "shape_and_colour": 0.75,
        "count": 0.5,
        "correct": 0.25,
        "relation": 0.5,
    }
    assert "relation" not in summarise(verdicts[2:])
    with pytest.raises(ValueError, match="no verdicts"):
        summarise([])
