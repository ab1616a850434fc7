"""Configurations of the original code (CompVis/latent-diffusion) in terms of this library.

Pure functions from trees to trees. Every class has one strict table of its arguments, in the
modules beside this one; what cannot be translated exactly is an error that names its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm.compat.compvis.classifier import CLASSIFIER_NAME, CLASSIFIERS, classifier_task
from ldm.compat.compvis.conditioners import ENCODERS, UNTRANSLATED
from ldm.compat.compvis.data import (
    DATA_MODULE,
    RECIPES,
    ROOT,
    data_module,
    experiment_data,
    explain,
)
from ldm.compat.compvis.diffusion import inpainting, latent_diffusion, layout2img
from ldm.compat.compvis.networks import FIRST_STAGES, UNET_NAME, unet
from ldm.compat.compvis.training import (
    EMA_DECAY,
    LOSSES,
    LR_SCHEDULES,
    accumulated_batches,
    autoencoder_task,
    diffusion_task,
    learning_rate,
    trainer_options,
)
from ldm.compat.rules import Translator, split
from ldm.errors import ConfigError

_DDPM = "ldm.models.diffusion.ddpm."
DIFFUSION: dict[str, Translator] = {
    f"{_DDPM}LatentDiffusion": latent_diffusion,
    f"{_DDPM}Layout2ImgDiffusion": layout2img,
    f"{_DDPM}LatentInpaintDiffusion": inpainting,
}

TRANSLATORS: dict[str, Translator] = {
    **DIFFUSION,
    UNET_NAME: unet,
    **FIRST_STAGES,
    **CLASSIFIERS,
    **ENCODERS,
    **LOSSES,
    **LR_SCHEDULES,
    **RECIPES,
    DATA_MODULE: data_module,
}

_PREFIXES = (
    UNTRANSLATED,
    "ldm.models.",
    "ldm.modules.",
    "ldm.lr_scheduler.",
    "ldm.util.",
    "taming.data.",
    "taming.models.",
    "taming.modules.losses.",
    "main.DataModuleFromConfig",
    "main.ImageLogger",
    *(
        f"ldm.data.{name}."
        for name in ("base", "imagenet", "lsun", "faceshq", "openimages", "landscapes", "previews")
    ),
)


def is_published(name: Any) -> bool:
    """Whether a target is a dotted name of the original code."""
    return isinstance(name, str) and name.startswith(_PREFIXES)


def translate(foreign: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The native node for a node of the original code.

    Parts inside it that have no native counterpart are left as they are: they raise when they are
    built, unless a further YAML file has replaced them by then.

    Args:
        foreign: a node ``{target, params}`` without interpolations.
        path: where it stands, for messages.

    Raises:
        ConfigError: the class has no native counterpart, or an argument does not translate.
    """
    name, params = split(foreign, path)
    if name not in TRANSLATORS:
        place = path or "this node"
        missing = explain(name)
        if missing is not None:
            raise ConfigError(f"{place}: {missing}")
        raise ConfigError(
            f"{place}: {name.removeprefix(UNTRANSLATED)} of the original code has no counterpart "
            f"in this library yet; replace {place} by a native node in a further YAML file"
        )
    return TRANSLATORS[name](params, name, f"{path}.params" if path else "params")


def translate_file(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """A whole configuration file; a file of this library comes back as it is.

    A published experiment ``{model, data, lightning}`` becomes ``{name, model, task, trainer,
    every, ema_decay, data}``. ``model`` is the architecture alone; checkpoints that the file names
    are loaded by ``task.params.model``. ``data`` reads folders below ``data_root``, which has to be
    given for training; data sets that were never released stay as they are, and raise when they are
    built. Without ``data`` there is no batch size, hence no learning rate and no task.

    Args:
        tree: content of the file.
        name: what to call a published experiment, which has no name of its own.

    Raises:
        ConfigError: see ``translate``.
    """
    model = tree.get("model")
    if not isinstance(model, Mapping) or not is_published(model.get("target")):
        native = _translate_nodes(tree, "")
        assert isinstance(native, dict)
        return native
    target, params = split(model, "model", beside=("base_learning_rate",))
    foreign = {key: value for key, value in model.items() if key != "base_learning_rate"}
    result: dict[str, Any] = {"name": name, "model": translate(foreign, "model")}
    task = _task(tree, target, params)
    if task is not None:
        result["task"] = task
        result |= trainer_options(tree.get("lightning"), "lightning")
    averages = target in DIFFUSION or target in FIRST_STAGES
    if averages and (params or {}).get("use_ema", target in DIFFUSION):
        result["ema_decay"] = EMA_DECAY
    rest = {key: value for key, value in tree.items() if key not in ("model", "lightning")}
    if _target(tree.get("data")) == DATA_MODULE:
        data = experiment_data(rest.pop("data"), accumulated_batches(tree))
        if ROOT in str(data):
            result["data_root"] = "???"  # first, so that it is what a message names
        result["data"] = data
    for key, value in rest.items():
        result[key] = _translate_nodes(value, key)
    return result


def _target(node: Any) -> Any:
    return node.get("target") if isinstance(node, Mapping) else None


def _task(tree: Mapping[str, Any], name: str, params: Any) -> dict[str, Any] | None:
    base = tree["model"].get("base_learning_rate")
    rate = None if base is None else learning_rate(base, tree)
    if rate is None:
        return None
    if name in DIFFUSION:
        return diffusion_task(params, name, "model.params", rate)
    if name in FIRST_STAGES:
        return autoencoder_task(params, name, "model.params", rate)
    if name == CLASSIFIER_NAME:
        return classifier_task(params, name, "model.params", rate)
    return None


def _translate_nodes(tree: Any, path: str) -> Any:
    """Translate all nodes inside ``tree`` that have a native counterpart."""
    if isinstance(tree, Mapping):
        if is_published(tree.get("target")) and tree["target"] in TRANSLATORS:
            return translate(tree, path)
        return {
            key: _translate_nodes(value, f"{path}.{key}" if path else str(key))
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [_translate_nodes(value, f"{path}[{i}]") for i, value in enumerate(tree)]
    return tree
