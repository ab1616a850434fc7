"""Data classes of the original code, as native nodes or as words on what is missing.

Most of the classes that published configurations name were never released, or read lists and
folders of the authors' machines. Those of plain images become folders of images below
``data_root``; the others raise when they are built, and say what to put in their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm.compat.rules import Ignored, Inert, Renamed, Required, Table, Translator, apply, node
from ldm.errors import ConfigError

DATA_MODULE = "main.DataModuleFromConfig"
ROOT = "${data_root}"
_WORKERS = 4
_LOADING = Ignored("how items are loaded changes none of them")
_INTERPOLATIONS = {"linear": "bilinear"}

MODULE: Table = {
    "batch_size": Required("batch_size"),
    "train": Required("train"),
    "validation": Required("validation"),
    "test": Inert((None,)),
    "predict": Inert((None,)),
    "wrap": _LOADING,
    "num_workers": Renamed("num_workers", _WORKERS),
    "use_worker_init_fn": _LOADING,
    "shuffle_test_loader": _LOADING,
    "shuffle_val_dataloader": Inert((False,)),
}

FACES: Table = {"size": Required("size"), "keys": Inert((None,))}

LSUN: Table = {
    "size": Required("size"),
    "interpolation": Renamed("interpolation", "bicubic"),
    "flip_p": Renamed("flip", None),
}

IMAGENET: Table = {
    "config": Required("config"),
    "process_images": Inert((True,)),
    "data_root": Inert((None,)),
}
IMAGENET_CONFIG: Table = {"size": Required("size"), "random_crop": Renamed("random_crop", None)}

_LOW_RESOLUTION = Ignored("of the small image, which folders of images do not hold")
IMAGENET_SR: Table = {
    "size": Required("size"),
    "degradation": _LOW_RESOLUTION,
    "downscale_f": _LOW_RESOLUTION,
    "min_crop_f": Renamed("low", 0.5),
    "max_crop_f": Renamed("high", 1.0),
    "random_crop": Inert((True,)),
}

OPENIMAGES: Table = {"crop_size": Required("size"), "size": Renamed("resize", "keep")}


def data_module(params: Any, name: str, path: str) -> dict[str, Any]:
    """``DataModuleFromConfig``; data sets without counterpart are left as they are."""
    values = apply(MODULE, params, name, path)
    for key in ("train", "validation"):
        data_set = values[key]
        target = data_set.get("target") if isinstance(data_set, Mapping) else None
        if target in RECIPES:
            place = f"{path}.{key}.params"
            values[key] = RECIPES[target](data_set.get("params"), target, place)
    return node("ldm.training.DataModule", **values)


def experiment_data(foreign: Mapping[str, Any], accumulated: int) -> dict[str, Any]:
    """The data of a whole file; left as it is, to raise when it is built, where it cannot be had.

    Args:
        foreign: a node ``DataModuleFromConfig``.
        accumulated: batches per optimiser step, which ``batch_size`` counts here; the original has
            that of one of them.
    """
    try:
        native = data_module(foreign.get("params"), DATA_MODULE, "data.params")
    except ConfigError:
        return dict(foreign)
    native["params"]["batch_size"] *= accumulated
    return native


def explain(name: str) -> str | None:
    """Words on a class that has no counterpart: why, and what can stand in its place."""
    for prefix, entries in MISSING.items():
        if name.startswith(prefix):
            return (
                f"the loader {name} was never released; put a data set in its place whose items "
                f"hold 'image' (3, H, W) in [-1, 1] and {entries}"
            )
    return None


def _faces(params: Any, name: str, path: str) -> dict[str, Any]:
    values = apply(FACES, params, name, path)
    return _folder(name, size=values["size"], interpolation="bilinear")


def _lsun(params: Any, name: str, path: str) -> dict[str, Any]:
    values = apply(LSUN, params, name, path)
    if values["flip"] is None:
        values["flip"] = 0.5 if name.endswith("Train") else 0.0
    method = values.pop("interpolation")
    return _folder(name, **values, interpolation=_INTERPOLATIONS.get(method, method))


def _imagenet(params: Any, name: str, path: str) -> dict[str, Any]:
    config = apply(IMAGENET, params, name, path)["config"]
    values = apply(IMAGENET_CONFIG, config, name, f"{path}.config")
    random = values["random_crop"]
    if random is None:
        random = name.endswith("Train")
    return _folder(
        name,
        size=values["size"],
        crop="random" if random else "center",
        interpolation="bilinear",
        classes="folder",
        num_classes=1000,
    )


def _imagenet_sr(params: Any, name: str, path: str) -> dict[str, Any]:
    values = apply(IMAGENET_SR, params, name, path)
    scale = [values["low"], values["high"]]
    size = values["size"]
    return _folder(name, size=size, crop="random", crop_scale=scale, interpolation="area")


def _openimages(params: Any, name: str, path: str) -> dict[str, Any]:
    values = apply(OPENIMAGES, params, name, path)
    crop = "random" if name.endswith("Train") else "center"
    return _folder(name, **values, crop=crop, interpolation="bicubic")


def _folder(name: str, **options: Any) -> dict[str, Any]:
    """The images of a split, all in a folder of their own below ``data_root``."""
    folder = "train" if name.endswith("Train") else "validation"
    folder = "val" if folder == "validation" and ".imagenet." in name else folder
    options = {"captions": "none", "classes": "none"} | options
    return node("ldm.data.ImageFolder", root=f"{ROOT}/{folder}", split="all", **options)


def _splits(stem: str, recipe: Translator) -> dict[str, Translator]:
    return {f"{stem}{split}": recipe for split in ("Train", "Validation")}


RECIPES: dict[str, Translator] = {
    **_splits("ldm.data.imagenet.ImageNet", _imagenet),
    **_splits("ldm.data.imagenet.ImageNetSR", _imagenet_sr),
    **_splits("taming.data.imagenet.ImageNet", _imagenet),
    **_splits("ldm.data.lsun.LSUNBedrooms", _lsun),
    **_splits("ldm.data.lsun.LSUNChurches", _lsun),
    **_splits("ldm.data.lsun.LSUNCats", _lsun),
    **_splits("ldm.data.faceshq.CelebAHQ", _faces),
    **_splits("ldm.data.faceshq.FFHQ", _faces),
    **_splits("taming.data.faceshq.CelebAHQ", _faces),
    **_splits("taming.data.faceshq.FFHQ", _faces),
    **_splits("ldm.data.openimages.FullOpenImages", _openimages),
}
MISSING = {
    "ldm.data.openimages.SuperresOpenImages": "'lr_image' (3, h, w), the degraded small image of "
    "the size of the latent",
    "ldm.data.openimages.OpenImagesBBox": "'box_tokens' (92,), which "
    "ldm.data.BoxTokenizer makes of boxes",
    "ldm.data.landscapes.": "'segmentation' (H, W), class ids",
    "ldm.data.previews.": "'tokens' (77,), e.g. an ldm.data.ImageFolder with captions and a "
    "tokenizer",
}
