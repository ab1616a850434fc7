"""Every file of configs/data for a data set, after its model, on a tiny set of that format."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from ldm.config import instantiate, load_config
from ldm.data.datasets.open_images import MIN_AREA
from ldm.data.layouts.boxes import BoxFilter
from ldm.errors import DataError
from tests.experiments import CONFIGS

SIZE = 32
IDS = ("n01440764", "n01443537")
CELEBA = ("celebahqtrain.txt", "celebahqvalidation.txt")
VOCAB = "tokenizer.params.vocab=data/scenes/vocab.txt"


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (60, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def imagenet(root: Path) -> list[str]:
    for part in ("train", "val"):
        for synset in IDS:
            picture(root / part / synset / f"{synset}_1.JPEG")
    return ["num_classes=2"]


def celebahq(root: Path) -> list[str]:
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (1, 3, 64, 64), np.uint8)
        np.save(root / f"imgHQ{i:05}.npy", pixels)
    (root / CELEBA[0]).write_text("imgHQ00000.npy\nimgHQ00002.npy\n")
    (root / CELEBA[1]).write_text("imgHQ00001.npy\n")
    return [f"train_list={root / CELEBA[0]}", f"validation_list={root / CELEBA[1]}"]


def ffhq(root: Path) -> list[str]:
    for i in range(3):
        picture(root / f"{i // 2:05}" / f"{i:05}.png", i)
    (root / "t.txt").write_text("00000.png\n00002.png\n")
    (root / "v.txt").write_text("00001.png\n")
    return [f"train_list={root / 't.txt'}", f"validation_list={root / 'v.txt'}"]


def lsun(root: Path) -> list[str]:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(root), map_size=1 << 20) as env, env.begin(write=True) as transaction:
        for i in range(6):
            transaction.put(f"{i:040x}".encode(), picture(root / "x.webp", i).read_bytes())
    return ["validation_fraction=0.4"]


def places(root: Path) -> list[str]:
    picture(root / "data_large" / "a" / "airfield" / "1.jpg")
    picture(root / "val_large" / "Places365_val_1.jpg")
    (root / "places365_train_standard.txt").write_text("/a/airfield/1.jpg 0\n")
    (root / "places365_val.txt").write_text("Places365_val_1.jpg 165\n")
    return []


def cifar10(root: Path) -> list[str]:
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        values = np.random.default_rng(0).integers(0, 10, (2, 3073), np.uint8)
        values.tofile(root / f"{name}.bin")
    return []


def laion(root: Path) -> list[str]:
    for shard in range(3):
        with tarfile.open(root / f"{shard:05}.tar", "w") as tar:
            for i in range(2):
                image = picture(root / "x.jpg", i).read_bytes()
                about = json.dumps({"caption": "a red circle"}).encode()
                for ending, data in (("jpg", image), ("json", about), ("txt", b"a red circle")):
                    info = tarfile.TarInfo(f"{shard:05}{i:04}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        (root / f"{shard:05}_stats.json").write_text('{"successes": 2}')
    return []


def coco(root: Path) -> list[str]:
    (root / "annotations").mkdir()
    for part in ("train", "val"):
        images = []
        for i in range(3):
            name = f"{i:012}"
            picture(root / f"{part}2017" / f"{name}.jpg", i)
            map_ = np.full((48, 60), (i, 181, 255)[i], np.uint8)
            maps = root / "stuffthingmaps" / f"{part}2017"
            maps.mkdir(parents=True, exist_ok=True)
            Image.fromarray(map_).save(maps / f"{name}.png")
            images.append({"id": i, "file_name": f"{name}.jpg", "width": 60, "height": 48})
        write = {
            "captions": [{"image_id": i, "caption": "a red circle"} for i in range(3)],
            "instances": [annotation(i, 1 + k) for i in range(3) for k in range(2)],
            "stuff": [annotation(i, 92) for i in range(3)],
        }
        names = {"instances": range(1, 81), "stuff": [*range(92, 183), 183], "captions": ()}
        for kind, found in write.items():
            categories = [{"id": i, "name": "other" if i == 183 else str(i)} for i in names[kind]]
            tree = {"images": images, "annotations": found, "categories": categories}
            (root / "annotations" / f"{kind}_{part}2017.json").write_text(json.dumps(tree))
    return []


def annotation(image: int, category: int) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": [6, 6, 20, 30], "iscrowd": 0}


def openimages(root: Path) -> list[str]:
    head = "ImageID,LabelName,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf,IsDepiction,IsInside"
    files = ("oidv6-train-annotations-bbox.csv", "validation-annotations-bbox.csv")
    for part, name in zip(("train", "validation"), files, strict=True):
        picture(root / part / "000002b66c9c498e.jpg")
        with (root / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(head.split(","))
            for label in ("/m/01", "/m/02"):
                writer.writerow(["000002b66c9c498e", label, 0.1, 0.5, 0.2, 0.6, 1, 0, 0, 0])
    (root / "class-descriptions-boxable.csv").write_text("/m/01,Person\n/m/02,Hat\n/m/03,Dog\n")
    return ["num_classes=2"]


def landscapes(root: Path) -> list[str]:
    maps(root, "images", "maps")
    return []


def ade20k(root: Path) -> list[str]:
    for part in ("training", "validation"):
        maps(root, f"images/{part}", f"annotations/{part}")
    return []


def maps(root: Path, images: str, labels: str) -> None:
    (root / labels).mkdir(parents=True)
    for i in range(4):
        picture(root / images / f"{i}.jpg", i)
        ids = np.random.default_rng(i).integers(0, 12, (48, 60), np.uint8)
        Image.fromarray(ids).save(root / labels / f"{i}.png")


def own_maps(root: Path) -> list[str]:
    maps(root, "images", "maps")
    return ["num_classes=12"]


def boxes(root: Path) -> list[str]:
    objects = [{"class": "cat", "box": [0.1, 0.1, 0.6, 0.9]}]
    layouts = []
    for i in range(4):
        picture(root / "images" / f"{i}.jpg")
        layouts.append({"name": f"{i}.jpg", "objects": objects})
    (root / "layouts.json").write_text(json.dumps({"classes": ["cat"], "layouts": layouts}))
    return ["num_classes=1"]


def files(root: Path) -> list[str]:
    picture(root / "a.png")
    (root / "list.txt").write_text("a.png\n")
    return [f"train_list={root / 'list.txt'}", f"validation_list={root / 'list.txt'}"]


# recipe, model, maker, entries, items of both sets (None: any)
RECIPES: list[tuple[str | None, str, Callable[[Path], list[str]], set[str], tuple[Any, Any]]] = [
    ("imagenet", "class/cin256-v2", imagenet, {"class_label"}, (2, 2)),
    ("celebahq", "unconditional/celebahq-ldm-4", celebahq, set(), (2, 1)),
    ("ffhq", "unconditional/ffhq-ldm-4", ffhq, set(), (2, 1)),
    ("lsun", "unconditional/lsun-churches-ldm-8", lsun, set(), (None, None)),
    ("lsun", "unconditional/lsun-bedrooms-ldm-4", lsun, set(), (None, None)),
    ("places", "autoencoder/vq-f4", places, {"class_label"}, (1, 1)),
    ("files", "unconditional/celebahq-ldm-4", files, set(), (1, 1)),
    ("cifar10", "pixel/ddpm-cifar10-class", cifar10, {"class_label"}, (10, 2)),
    ("laion", "text/laion-ldm-8", laion, {"caption", "tokens"}, (4, 2)),
    ("coco-captions", "text/text2img256", coco, {"caption", "tokens"}, (3, 3)),
    (None, "layout/coco-ldm-8", coco, {"box_tokens"}, (3, 3)),
    ("coco-2048", "layout/coco-ldm-8", coco, {"box_tokens"}, (3, 3)),
    (None, "layout/openimages-ldm-4", openimages, {"box_tokens"}, (1, 1)),
    ("boxes", "layout/openimages-ldm-4", boxes, {"box_tokens"}, (None, None)),
    (None, "semantic/landscapes-256", landscapes, {"segmentation"}, (None, None)),
    (None, "semantic/landscapes-512", landscapes, {"segmentation"}, (None, None)),
    ("paired-maps", "semantic/landscapes-256", own_maps, {"segmentation"}, (None, None)),
    ("ade20k", "semantic/landscapes-256", ade20k, {"segmentation"}, (4, 4)),
    ("coco-stuff", "semantic/landscapes-256", coco, {"segmentation"}, (3, 3)),
]


def load(recipe: str | None, model: str, overrides: list[str]) -> DictConfig:
    paths = [CONFIGS / f"{model}.yaml"]
    paths += [] if recipe is None else [CONFIGS / "data" / f"{recipe}.yaml"]
    return load_config(*paths, overrides=overrides)


@pytest.mark.parametrize(
    ("recipe", "model", "make", "entries", "lengths"),
    RECIPES,
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_recipe(
    recipe: str | None,
    model: str,
    make: Callable[[Path], list[str]],
    entries: set[str],
    lengths: tuple[Any, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    overrides = [f"data_root={tmp_path}", f"image_size={SIZE}", *make(tmp_path)]
    group = model.split("/")[0]
    overrides += {"text": [VOCAB], "semantic": ["shorter_side=40"]}.get(group, [])
    config = load(recipe, model, overrides)
    with torch.device("meta"):  # as train.py --dry-run builds it
        data = instantiate(config.data, "data")
    for items, length in zip((data.train, data.validation), lengths, strict=True):
        assert len(items) == length or length is None
        assert len(items) > 0
        item = next(iter(items)) if recipe == "laion" else items[len(items) - 1]
        assert set(item) == {"image", *entries}
        assert item["image"].shape == (3, SIZE, SIZE)
        assert item["image"].device.type == "cpu"
    if "box_tokens" in entries:
        assert item["box_tokens"].shape == (config.box_tokens.length,)
        assert data.train.tokens.num_classes == config.num_classes
    if "segmentation" in entries:
        assert item["segmentation"].shape == (SIZE, SIZE)
    if "tokens" in entries:
        assert item["tokens"].shape == (config.tokenizer.params.length,)


def test_a_class_id_that_the_model_does_not_know_is_told_at_once(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png 1\na.png 2\n")
    lists = [f"{part}_list={tmp_path / 'list.txt'}" for part in ("train", "validation")]
    overrides = [f"data_root={tmp_path}", "labels=true", *lists]
    config = load("files", "class/cin256-v2", [*overrides, "num_classes=2"])
    with pytest.raises(DataError, match=r"line 2: class id 2 is outside 0 to 1"):
        instantiate(config.data, "data")
    config = load("files", "class/cin256-v2", [*overrides, "num_classes=3"])
    assert len(instantiate(config.data, "data").train) == 2
    config = load("files", "unconditional/celebahq-ldm-4", overrides)
    assert len(instantiate(config.data, "data").train) == 2


def test_missing_lists_are_said_to_be_somewhere(tmp_path: Path) -> None:
    root = f"data_root={tmp_path}"
    for recipe, model, where in (
        ("celebahq", "unconditional/celebahq-ldm-4", "CompVis/taming-transformers"),
        ("ffhq", "unconditional/ffhq-ldm-4", "CompVis/taming-transformers"),
        ("places", "autoencoder/vq-f4", "filelist_places365-standard.tar"),
    ):
        with pytest.raises(DataError, match=f"there is no list of files .*{where}"):
            instantiate(load(recipe, model, [root]).data, "data")


def test_one_shard_is_enough_where_it_is_said(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    laion(tmp_path)
    overrides = [f"data_root={tmp_path}/00000.tar", "image_size=32", VOCAB]
    with pytest.raises(DataError, match="validation_shards=1 of 1 shards"):
        instantiate(load("laion", "text/laion-ldm-8", overrides).data, "data")
    overrides += [f"validation_root={tmp_path}/00001.tar", "validation_shards=0"]
    data = instantiate(load("laion", "text/laion-ldm-8", overrides).data, "data")
    assert (len(data.train), len(data.validation)) == (2, 2)
    assert data.train.shards != data.validation.shards


def test_every_recipe_is_here() -> None:
    others = ("random", "inpainting", "super_resolution", "retrieval", "_")
    names = {path.stem for path in (CONFIGS / "data").glob("*.yaml")}
    mine = {name for name in names if not name.startswith(others)}
    assert {recipe for recipe, *_ in RECIPES if recipe} == mine


def test_the_recipes_are_the_published_ones(tmp_path: Path) -> None:
    """PAPER.md section 7."""
    root = f"data_root={tmp_path}"
    faces = load("celebahq", "unconditional/celebahq-ldm-4", [root]).data.params.train.params
    assert (faces.framing.params.interpolation, faces.antialias) == ("bilinear", False)
    assert faces.framing.params.get("flip", 0) == 0
    beds = load("lsun", "unconditional/lsun-bedrooms-ldm-4", [root]).data.params
    assert (beds.train.params.framing.params.interpolation) == "bicubic"
    assert beds.train.params.framing.params.flip == 0.5
    assert beds.validation.params.framing.params.get("flip", 0) == 0
    classes = load("imagenet", "class/cin256-v2", [root]).data.params.train.params
    assert (classes.framing.params.crop, classes.antialias) == ("random", False)
    for size in (256, 512):
        maps = load(None, f"semantic/landscapes-{size}", [root]).data.params.train.params
        framing = instantiate(maps.framing)
        assert (framing.height, framing.resize, framing.crop) == (size, size * 3 // 2, "random")
    for name, crop in (("coco-ldm-8", "random-1d"), ("openimages-ldm-4", "random-2d")):
        params = load(None, f"layout/{name}", [root]).data.params
        train, held_out = params.train.params, params.validation.params
        assert (train.crop, train.flip, train.shuffle) == (crop, 0.5, True)
        assert (held_out.crop, "flip" in held_out) == ("center", False)
    assert BoxFilter() == BoxFilter(2, 30, 1e-5)
    assert MIN_AREA == 1e-4
