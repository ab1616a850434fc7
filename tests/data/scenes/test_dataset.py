from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from ldm.data.layouts.boxes import BoxTokenizer
from ldm.data.scenes.captions import CLASS_NAMES, class_index, parse_caption, relation_between
from ldm.data.scenes.dataset import SceneDataset
from ldm.errors import DataError


def test_entries_have_documented_shapes_and_ranges() -> None:
    dataset = SceneDataset((32, 48), 50, seed=1)
    for i in range(50):
        item = dataset[i]
        assert item["image"].shape == (3, 32, 48)
        assert item["image"].dtype == torch.float32
        assert item["image"].abs().max() <= 1
        assert item["boxes"].shape == (3, 4)
        assert item["boxes"].dtype == torch.float32
        assert item["box_labels"].dtype == torch.long
        assert item["segmentation"].shape == (32, 48)
        n = int((item["box_labels"] >= 0).sum())
        assert 1 <= n <= 3
        assert (item["boxes"][n:] == 0).all()
        assert item["boxes"].min() >= 0
        assert item["boxes"].max() <= 1
        assert set(item["segmentation"].unique().tolist()) == {
            0,
            *(item["box_labels"][:n] + 1).tolist(),
        }


def test_an_item_depends_on_seed_split_and_index_only() -> None:
    dataset = SceneDataset(32, 100, seed=3)
    again = SceneDataset(32, 1000, seed=3)
    [dataset[i] for i in range(5)]
    assert torch.equal(dataset[7]["image"], again[7]["image"])
    assert dataset[7]["caption"] == again[7]["caption"]
    for other in (SceneDataset(32, 100, seed=4), SceneDataset(32, 100, seed=3, split="test")):
        assert not torch.equal(dataset[7]["image"], other[7]["image"])
    with pytest.raises(IndexError):
        dataset[100]


def test_a_pinned_scene_stays_the_same() -> None:
    item = SceneDataset(32, 10, seed=0)[2]
    assert item["caption"] == "a cyan triangle right of a green triangle"
    assert item["boxes"][0].tolist() == pytest.approx([0.5946, 0.2199, 0.9672, 0.5926], abs=1e-4)


def test_one_scene_at_two_resolutions() -> None:
    for i in range(20):
        small = SceneDataset(32, 20)[i]
        large = SceneDataset(128, 20)[i]
        assert small["caption"] == large["caption"]
        assert torch.equal(small["boxes"], large["boxes"])
        pooled = torch.nn.functional.avg_pool2d(large["image"], 4)
        assert (pooled - small["image"]).abs().mean() < 0.03


def test_caption_boxes_labels_and_segmentation_agree() -> None:
    dataset = SceneDataset(64, 300, seed=5)
    for i in range(300):
        item = dataset[i]
        n = int((item["box_labels"] >= 0).sum())
        spec = parse_caption(item["caption"])
        labels = Counter({class_index(*key): count for key, count in spec.counts().items()})
        assert labels == Counter(item["box_labels"][:n].tolist())
        assert item["class_label"] == item["box_labels"][0]
        assert CLASS_NAMES[item["class_label"]] == f"{spec.items[0].colour} {spec.items[0].shape}"
        if spec.relation is not None:
            boxes = item["boxes"].tolist()
            assert relation_between(boxes[0], boxes[1]) == spec.relation
        x0, y0, x1, y1 = (item["boxes"][0] * 64).tolist()
        inside = item["segmentation"][round(y0) : round(y1), round(x0) : round(x1)]
        assert (inside == item["class_label"] + 1).float().mean() > 0.4


def test_objects_do_not_overlap() -> None:
    for resolution in (32, (32, 80), (80, 32)):
        dataset = SceneDataset(resolution, 300, num_objects=(2, 3))
        for i in range(300):
            objects = dataset.scene(i).objects
            for a in objects:
                for b in objects:
                    if a is not b:
                        distance = max(abs(a.x - b.x), abs(a.y - b.y))
                        assert distance > a.radius + b.radius + 0.06


def test_options_limit_what_appears() -> None:
    dataset = SceneDataset(
        32, 60, num_objects=(1, 1), shapes=["circle", "cross"], colours=["red"], split="validation"
    )
    captions = {dataset[i]["caption"] for i in range(60)}
    assert captions == {"a red circle", "a red cross"}
    assert dataset[0]["boxes"].shape == (1, 4)


def test_every_kind_of_caption_is_frequent() -> None:
    dataset = SceneDataset(32, 600)
    captions = [dataset[i]["caption"] for i in range(600)]
    kinds = {
        "one": sum(c.startswith("a ") and len(c.split()) == 3 for c in captions),
        "relation": sum(parse_caption(c).relation is not None for c in captions),
        "two": sum(c.startswith("two") for c in captions),
        "three": sum(c.startswith("three") for c in captions),
        "list": sum("," in c for c in captions),
    }
    assert min(kinds.values()) > 30, kinds


def test_tokens_come_from_the_tokenizer() -> None:
    def tokenizer(text: str) -> torch.Tensor:
        return torch.tensor([[len(word) for word in text.split()][:3]])

    item = SceneDataset(32, 3, tokenizer=tokenizer)[0]
    assert item["tokens"].shape == (3,)
    assert "tokens" not in SceneDataset(32, 3)[0]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"resolution": 8}, "resolution"),
        ({"split": "val"}, "split"),
        ({"num_objects": (0, 2)}, "num_objects"),
        ({"num_objects": (1, 4)}, "num_objects"),
        ({"shapes": ["star"]}, "shapes"),
        ({"colours": []}, "colours"),
        ({"length": 0}, "length"),
    ],
)
def test_bad_options_are_named(options: dict, word: str) -> None:
    with pytest.raises(DataError, match=word):
        SceneDataset(**{"resolution": 32, "length": 10, **options})


def test_drawing_is_fast() -> None:
    dataset = SceneDataset(32, 10_000)
    best = min(_seconds_per_item(dataset, start) for start in range(0, 1000, 200))
    # 140 microseconds on an idle core; the bound leaves room for a busy machine.
    assert best < 1e-3


def _seconds_per_item(dataset: SceneDataset, start: int) -> float:
    begin = time.perf_counter()
    for i in range(start, start + 200):
        dataset[i]
    return (time.perf_counter() - begin) / 200


def test_vocabulary_tokenises_every_word() -> None:
    transformers = pytest.importorskip("transformers")
    path = Path(__file__).parents[3] / "data" / "scenes" / "vocab.txt"
    vocab = path.read_text(encoding="utf-8").split()
    assert vocab[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(set(vocab)) == len(vocab)
    tokenizer = transformers.BertTokenizer(str(path))
    caption = SceneDataset(32, 40)[36]["caption"]
    assert tokenizer.tokenize(caption) == caption.replace(",", " ,").split()
    assert "[UNK]" not in tokenizer.tokenize("photograph of two zebras, 17 owls!")


def test_box_tokens_say_what_the_boxes_do() -> None:
    tokens = BoxTokenizer(24, max_objects=3, vocab_size=577, flags=False)
    dataset = SceneDataset(32, 20, box_tokenizer=tokens)
    for item in (dataset[i] for i in range(20)):
        boxes, crop = tokens.decode(item["box_tokens"])
        assert crop == (0, 0, 1, 1)
        labels = [label for label in item["box_labels"].tolist() if label >= 0]
        assert [box.class_id for box in boxes] == labels
        for box, edges in zip(boxes, item["boxes"].tolist(), strict=False):
            assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx(edges, abs=0.5 / 23 + 1e-6)
    with pytest.raises(DataError, match="box_tokenizer is 23"):
        SceneDataset(32, 20, box_tokenizer=BoxTokenizer(23))
