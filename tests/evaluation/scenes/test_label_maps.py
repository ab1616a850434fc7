from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldm.data.scenes.dataset import SceneDataset
from ldm.evaluation.scenes.judge import find_regions, judge
from ldm.evaluation.scenes.label_maps import UNNAMED, map_agreement, recover_map


def test_maps_of_real_scenes_are_recovered() -> None:
    dataset = SceneDataset(32, 200, split="test", num_objects=(1, 3))
    agreements = [
        map_agreement(item["segmentation"], recover_map(item["image"]))
        for item in (dataset[i] for i in range(200))
    ]
    pixels, objects, mean_iou = torch.tensor(agreements).mean(0).tolist()
    assert pixels > 0.997  # 0.9981, the ceiling of the measure
    assert objects > 0.985  # 0.9902
    assert mean_iou > 0.985  # 0.9900
    assert min(a.pixels for a in agreements) > 0.97


def test_other_scenes_agree_in_the_background_only() -> None:
    dataset = SceneDataset(32, 100, split="test")
    maps = [dataset[i]["segmentation"] for i in range(100)]
    other = [recover_map(dataset[(i + 1) % 100]["image"]) for i in range(100)]
    agreements = [map_agreement(a, b) for a, b in zip(maps, other, strict=True)]
    pixels, objects, mean_iou = torch.tensor(agreements).mean(0).tolist()
    assert pixels > 0.6
    assert max(objects, mean_iou) < 0.05


def test_shares_of_a_small_map() -> None:
    given = torch.zeros(4, 4, dtype=torch.int64)
    given[0], given[1, :2] = 5, 7
    assert map_agreement(given, given) == (1, 1, 1)
    assert map_agreement(given, torch.zeros_like(given)) == (10 / 16, 0, 0)
    recovered = given.clone()
    recovered[1, :2] = 5  # a wrong class
    recovered[3, 3] = 9  # an object where there is none
    agreement = map_agreement(given, recovered)
    assert agreement.pixels == 13 / 16
    assert agreement.objects == pytest.approx(4 / 7)
    assert agreement.mean_iou == pytest.approx((4 / 6 + 0) / 2)


def test_what_the_judge_cannot_name_agrees_with_nothing() -> None:
    image = torch.full((3, 32, 32), 0.5)
    image[:, 12:18, 4:28] = torch.tensor((0.9, 0.13, 0.15))[:, None, None] * 2 - 1
    recovered = recover_map(image)
    assert (recovered[12:18, 4:28] == UNNAMED).all()
    assert (recovered == UNNAMED).sum() == 6 * 24
    assert (recovered == 0).sum() == 32 * 32 - 6 * 24


def test_regions_are_the_objects_of_the_judge_with_their_pixels() -> None:
    dataset = SceneDataset((32, 48), 20, seed=4)
    for item in (dataset[i] for i in range(20)):
        regions = find_regions(item["image"])
        assert [region.item for region in regions] == judge(item["image"])
        for found, pixels in regions:
            assert pixels.shape == (32, 48)
            assert pixels.mean() == pytest.approx(found.area, rel=0.15)
            rows, columns = pixels.nonzero()
            box = columns.min() / 48, rows.min() / 32, (columns.max() + 1) / 48
            assert found.box == pytest.approx((*box, (rows.max() + 1) / 32))


@pytest.mark.parametrize(
    ("given", "message"),
    [(torch.zeros(4, 4), "holds no object"), (torch.ones(4, 5), "do not fit")],
)
def test_bad_maps_are_refused(given: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        map_agreement(given, torch.zeros(4, 4))
