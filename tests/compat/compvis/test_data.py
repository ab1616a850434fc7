"""Data sections of the original code: folders of images, or words on what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ldm.compat.compvis.config import translate, translate_file
from ldm.compat.compvis.data import MISSING, RECIPES
from ldm.config import instantiate, load_config
from ldm.errors import ConfigError
from ldm.load.model import load_model
from tests.compat.compvis.test_config import experiment, first_stage, ldm
from tests.parity import official_keys, official_names, published_configs


def data(train: Any, validation: Any = None, **params: Any) -> dict[str, Any]:
    both = {"train": train, "validation": validation or train}
    return {"target": "main.DataModuleFromConfig", "params": {"batch_size": 6, **both, **params}}


def data_set(name: str, **params: Any) -> dict[str, Any]:
    return {"target": name, "params": params}


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        (
            "ldm.data.faceshq.FFHQTrain",
            {"size": 64},
            {"root": "train", "interpolation": "bilinear"},
        ),
        (
            "taming.data.faceshq.CelebAHQValidation",
            {"size": 64},
            {"root": "validation", "interpolation": "bilinear"},
        ),
        (
            "ldm.data.lsun.LSUNBedroomsTrain",
            {"size": 64},
            {"root": "train", "interpolation": "bicubic", "flip": 0.5},
        ),
        (
            "ldm.data.lsun.LSUNChurchesValidation",
            {"size": 64, "interpolation": "linear"},
            {"root": "validation", "interpolation": "bilinear", "flip": 0.0},
        ),
        (
            "ldm.data.imagenet.ImageNetTrain",
            {"config": {"size": 64}},
            {
                "root": "train",
                "crop": "random",
                "interpolation": "bilinear",
                "classes": "folder",
                "num_classes": 1000,
            },
        ),
        (
            "ldm.data.imagenet.ImageNetValidation",
            {"config": {"size": 64}},
            {
                "root": "val",
                "crop": "center",
                "interpolation": "bilinear",
                "classes": "folder",
                "num_classes": 1000,
            },
        ),
        (
            "ldm.data.imagenet.ImageNetSRTrain",
            {"size": 64, "degradation": "pil_nearest"},
            {"root": "train", "crop": "random", "crop_scale": [0.5, 1.0], "interpolation": "area"},
        ),
        (
            "ldm.data.openimages.FullOpenImagesTrain",
            {"size": 96, "crop_size": 64},
            {"root": "train", "crop": "random", "resize": 96, "interpolation": "bicubic"},
        ),
        (
            "ldm.data.openimages.FullOpenImagesValidation",
            {"crop_size": 64},
            {"root": "validation", "crop": "center", "resize": "keep", "interpolation": "bicubic"},
        ),
    ],
)
def test_recipes(name: str, params: dict[str, Any], expected: dict[str, Any]) -> None:
    node = translate(data_set(name, **params))
    assert node["target"] == "ldm.data.ImageFolder"
    common = {"split": "all", "captions": "none", "classes": "none", "size": 64}
    root = "${data_root}/" + expected["root"]
    assert node["params"] == common | expected | {"root": root}


def test_a_data_module_that_reads_folders(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        for i in range(12):
            pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / f"{i}.png")
    tree = experiment(first_stage(), lightning={"trainer": {"accumulate_grad_batches": 2}})
    tree["data"] = data(
        data_set("ldm.data.lsun.LSUNCatsTrain", size=16),
        data_set("ldm.data.lsun.LSUNCatsValidation", size=16),
        wrap=True,
    )
    file = tmp_path / "theirs.yaml"
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match="data_root: mandatory value is missing"):
        load_config(file)
    config = load_config(file, overrides=[f"data_root={tmp_path}"])
    module = instantiate(config.data)
    assert module.batch_size == 12  # two of 6 make a step
    assert module.num_workers == 4
    assert module.train[0]["image"].shape == (3, 16, 16)
    assert len(module.validation) == 12
    assert not torch.equal(module.train[0]["image"], module.validation[0]["image"])


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("ldm.data.landscapes.RFWTrain", "'segmentation' (H, W), class ids"),
        ("ldm.data.openimages.OpenImagesBBoxTrain", "'box_tokens' (92,)"),
        ("ldm.data.openimages.SuperresOpenImagesAdvancedTrain", "'lr_image' (3, h, w)"),
        ("ldm.data.previews.pytorch_dataset.PreviewsTrain", "'tokens' (77,)"),
    ],
)
def test_what_was_never_released_says_what_to_give(name: str, entry: str, tmp_path: Path) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text(yaml.safe_dump(experiment(ldm()) | {"data": data(data_set(name, size=64))}))
    config = load_config(file)  # nothing is missing but the data set itself
    assert instantiate(config.model) is not None
    with pytest.raises(ConfigError) as error:
        instantiate(config.data)
    start = f"data.params.train: the loader {name} was never released; put a data set in its place"
    assert str(error.value).startswith(start)
    assert entry in str(error.value)
    ours = tmp_path / "ours.yaml"
    empty = "{target: builtins.list}"
    ours.write_text(f"data: {{params: {{train: {empty}, validation: {empty}}}}}")
    assert instantiate(load_config(file, ours).data).train == []


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            data(data_set("ldm.data.lsun.LSUNCatsTrain")),
            "data.params.train.params: missing key size",
        ),
        (
            data(data_set("ldm.data.faceshq.FFHQTrain", size=64, keys=["a"])),
            "data.params.train.params.keys: .* no native counterpart",
        ),
        (data({}, test={"target": "a.B"}), "data.params.test: .* has no native counterpart"),
        (data({}, batchsize=3), "data.params.batchsize: unknown key"),
        (
            data(data_set("ldm.data.imagenet.ImageNetSRTrain", size=64, random_crop=False)),
            "data.params.train.params.random_crop: .* has no native counterpart",
        ),
    ],
)
def test_data_that_cannot_be_translated_is_refused_when_it_is_built(
    tree: dict[str, Any], message: str
) -> None:
    whole = translate_file(experiment(ldm()) | {"data": tree}, "x")
    assert whole["data"] == tree
    with pytest.raises(ConfigError, match=f"^{message}"):
        instantiate(whole["data"], "data")


@pytest.mark.parametrize("name", official_names())
def test_every_published_data_set_has_a_recipe_or_an_explanation(name: str) -> None:
    tree = published_configs()[official_keys(name)["config"]]
    translated = translate_file(tree, "x")
    if "data" not in tree:
        assert "data" not in translated
        return
    module = translated["data"]["params"]
    accumulated = tree.get("lightning", {}).get("trainer", {}).get("accumulate_grad_batches", 1)
    assert module["batch_size"] == tree["data"]["params"]["batch_size"] * accumulated
    for split in ("train", "validation"):
        published = tree["data"]["params"][split]["target"]
        if published in RECIPES:
            assert module[split]["target"] == "ldm.data.ImageFolder"
            assert translated["data_root"] == "???"
        else:
            assert published.startswith(tuple(MISSING))
            assert "data_root" not in translated
            with pytest.raises(ConfigError, match=f"^x: the loader {published} was never released"):
                instantiate(module[split], "x")


def test_a_model_needs_no_data(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tree = experiment(first_stage())
    tree["data"] = data(data_set("ldm.data.lsun.LSUNCatsTrain", size=16))
    file = tmp_path / "theirs.yaml"
    file.write_text(yaml.safe_dump(tree))
    model = instantiate(load_config(file, complete=False).model)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.ckpt")
    assert (
        load_model(file, tmp_path / "model.ckpt").state_dict().keys() == model.state_dict().keys()
    )
