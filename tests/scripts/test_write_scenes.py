from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.config import instantiate, load_config
from ldm.data.folder import ImageFolder
from ldm.data.layouts.boxes import Box, BoxTokenizer
from ldm.data.layouts.reading import read_layouts
from ldm.data.scenes.captions import CLASS_NAMES
from ldm.data.scenes.dataset import SceneDataset
from tests.experiments import CONFIGS
from tests.scripts.conftest import Outcome

Script = Callable[..., Outcome]
NUM = 12
HALF = 0.5 / 127.5 + 1e-6
"""What rounding to bytes may change."""


@pytest.fixture
def scenes() -> SceneDataset:
    return SceneDataset(32, NUM)


@pytest.fixture
def root(script: Script, tmp_path: Path) -> Path:
    out = tmp_path / "scenes"
    outcome = script("write_scenes.py", out, "--num", NUM)
    assert outcome.code == 0, outcome.err
    assert f"{NUM} scenes in {out}" in outcome.out
    return out


def recipe(model: str, name: str, *overrides: str) -> Any:
    files = [CONFIGS / f"{model}.yaml", CONFIGS / "data" / f"{name}.yaml"]
    config = load_config(*files, overrides=["image_size=32", *overrides], complete=False)
    return instantiate(config.data.params.validation), config


def same(read: torch.Tensor, drawn: torch.Tensor) -> bool:
    return read.shape == drawn.shape and bool((read - drawn).abs().max() <= HALF)


@pytest.mark.parametrize("kind", ["metadata", "txt", "json", "csv"])
def test_captions_in_every_format(
    script: Script, tmp_path: Path, scenes: SceneDataset, kind: str
) -> None:
    outcome = script("write_scenes.py", tmp_path / "x", "--num", NUM, "--captions", kind)
    assert outcome.code == 0, outcome.err
    for mode in (kind, "auto"):
        read = ImageFolder(tmp_path / "x" / "images", 32, split="all", captions=mode)
        assert len(read) == NUM
        for k in range(NUM):
            assert read[k]["caption"] == scenes[k]["caption"]
            assert same(read[k]["image"], scenes[k]["image"])
            assert "class_label" not in read[k]


def test_classes_are_folders(script: Script, tmp_path: Path) -> None:
    options = ("--num", 200, "--classes", "--num-objects", 1, 1, "--size", 16)
    outcome = script("write_scenes.py", tmp_path / "x", *options)
    assert "24 class folders: num_classes=24" in outcome.out
    drawn = SceneDataset(16, 200, num_objects=(1, 1))
    read = ImageFolder(tmp_path / "x" / "images", 16, split="all", num_classes=24)
    assert [name[3:].replace("-", " ") for name in read.classes] == list(CLASS_NAMES)
    for i, file in enumerate(read.files):
        item, scene = read[i], drawn[int(Path(file).stem)]
        assert item["class_label"] == scene["class_label"]
        assert item["caption"] == scene["caption"]
        assert same(item["image"], scene["image"])
    maps, _ = recipe("semantic/landscapes-256", "paired-maps", *here(tmp_path / "x"))
    assert len(maps) > 0


def here(root: Path) -> tuple[str, ...]:
    return (f"data_root={root}", "num_classes=25", "image_size=16", "shorter_side=null")


def test_maps(root: Path, scenes: SceneDataset) -> None:
    overrides = (f"data_root={root}", "num_classes=25", "shorter_side=null")
    read, _ = recipe("semantic/landscapes-256", "paired-maps", *overrides)
    for item, file in zip((read[i] for i in range(len(read))), read.files, strict=True):
        scene = scenes[int(Path(file).stem)]
        assert torch.equal(item["segmentation"], scene["segmentation"])
        assert same(item["image"], scene["image"])


def test_boxes(root: Path, scenes: SceneDataset) -> None:
    overrides = (f"data_root={root}", "num_classes=24")
    read, _ = recipe("layout/openimages-ldm-4", "boxes", *overrides)
    assert read.classes == CLASS_NAMES
    tokenizer = BoxTokenizer(24)
    for i, file in enumerate(read.source.files):
        scene = scenes[int(Path(file).stem)]
        pairs = zip(scene["box_labels"].tolist(), scene["boxes"].tolist(), strict=True)
        boxes = [Box(label, *edges) for label, edges in pairs if label >= 0]
        assert list(read.source.boxes(i)) == boxes
        assert torch.equal(read[i]["box_tokens"], tokenizer(boxes))
    layouts, classes = read_layouts(root / "layouts.json", num_classes=24)
    assert (len(layouts), classes) == (NUM, CLASS_NAMES)


def test_masks_and_small_images(root: Path, scenes: SceneDataset) -> None:
    places = (f"data_root={root}", "images_folder=images")
    holes, _ = recipe(
        "inpainting/places-ldm-4-vq",
        "inpainting-pairs",
        *(*places, "masks_folder=masks", "mask_ending=.png"),
    )
    for item, file in zip((holes[i] for i in range(len(holes))), holes.files, strict=True):
        scene = scenes[int(Path(file).stem)]
        assert same(item["image"], scene["image"])
        assert set(item["mask"].unique().tolist()) == {0.0, 1.0}
        assert (item["masked_image"] == item["image"].masked_fill(item["mask"] == 1, -1)).all()
    pairs, _ = recipe("super_resolution/bsr", "super_resolution-pairs", *places)
    for item, file in zip((pairs[i] for i in range(len(pairs))), pairs.files, strict=True):
        scene = scenes[int(Path(file).stem)]["image"]
        small = torch.nn.functional.interpolate(
            scene[None], (8, 8), mode="bicubic", antialias=True
        )[0]
        assert same(item["lr_image"], small.clamp(-1, 1))


def test_lists(root: Path, scenes: SceneDataset) -> None:
    lists = [f"{part}_list={root}/{part}.txt" for part in ("train", "validation")]
    overrides = (f"data_root={root}", "labels=true", *lists)
    read, config = recipe("unconditional/celebahq-ldm-4", "files", *overrides)
    assert read[0]["class_label"] == scenes[1]["class_label"]
    train = instantiate(config.data.params.train)
    assert len(train) + len(read) == NUM
    assert set(train.source.files).isdisjoint(read.source.files)


def test_resumes_and_grows(script: Script, root: Path, tmp_path: Path) -> None:
    images = root / "images"
    before = {path.name: path.read_bytes() for path in images.glob("*.png")}
    times = {path.name: path.stat().st_mtime_ns for path in images.glob("*.png")}
    (images / "00003.png").unlink()
    (root / "layouts.json").unlink()
    outcome = script("write_scenes.py", root, "--num", NUM + 3)
    assert outcome.code == 0, outcome.err
    assert len(list(images.glob("*.png"))) == NUM + 3
    for name, content in before.items():
        assert (images / name).read_bytes() == content
        if name != "00003.png":
            assert (images / name).stat().st_mtime_ns == times[name]
    lines = (images / "metadata.jsonl").read_text().splitlines()
    assert len(lines) == len(json.loads((root / "layouts.json").read_text())["layouts"]) == NUM + 3


def test_never_overwrites(script: Script, root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("x")
    for arguments, message in (
        ((root, "--num", NUM, "--seed", 1), "scenes of other settings (seed; see scenes.json)"),
        ((root, "--num", NUM, "--captions", "txt"), "other settings (captions"),
        ((root, "--num", NUM - 1), f"holds {NUM} scenes"),
        ((tmp_path / "mine", "--num", 4), "was not written by this script"),
        ((tmp_path / "new", "--num", 1), "--num 1 must be at least 2"),
        ((tmp_path / "new", "--num", 4, "--size", 30), "a multiple of 4"),
        ((tmp_path / "new", "--num", 4, "--size", 12), "below 16 pixels"),
        ((tmp_path / "new", "--num", 4, "--num-objects", 2, 1), "num_objects"),
    ):
        outcome = script("write_scenes.py", *arguments)
        assert outcome.code == 2
        assert message in outcome.err
        assert outcome.err.count("\n") == 1
    assert not (tmp_path / "new").exists()
    (root / "scenes.json").write_text("{")
    assert "scenes.json is damaged" in script("write_scenes.py", root, "--num", NUM).err
