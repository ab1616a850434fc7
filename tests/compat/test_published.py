"""All 32 published configurations translate, and give networks with the published keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig

from ldm.compat.checkpoints import SCHEDULE, from_compvis, to_compvis
from ldm.config import instantiate, load_config
from ldm.errors import ConfigError
from tests.parity import official_keys, official_names, published_configs

CONDITIONERS_TO_COME = {
    "configs__retrieval-augmented-diffusion__768x768": "torch.nn.Identity",
    "models__ldm__bsr_sr": "torch.nn.Identity",
    "models__ldm__inpainting_big": "__is_first_stage__",
    "models__ldm__semantic_synthesis256": "ldm.modules.encoders.modules.SpatialRescaler",
    "models__ldm__semantic_synthesis512": "ldm.modules.encoders.modules.SpatialRescaler",
}
Shapes = dict[str, tuple[int, ...]]


def shapes(state: dict[str, Any]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items()}


def published_shapes(name: str) -> Shapes:
    return {key: tuple(shape) for key, shape, _ in official_keys(name)["state_dict"]}


def below(prefix: str, keys: Shapes) -> Shapes:
    return {k.removeprefix(prefix): v for k, v in keys.items() if k.startswith(prefix)}


@pytest.fixture(params=official_names())
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, DictConfig]]:
    name: str = request.param
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(published_configs()[official_keys(name)["config"]]))
    config = load_config(file)
    for conditioner in config.model.params.get("conditioners") or []:
        tokenizer = (conditioner.get("params") or {}).get("tokenizer")
        if tokenizer is not None:  # the real vocabulary would have to be downloaded
            vocabulary = tmp_path / "vocab.txt"
            vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
            tokenizer.params.vocab = str(vocabulary)
    with torch.device("meta"):
        yield name, config


def test_keys_are_those_of_the_published_checkpoints(published: tuple[str, DictConfig]) -> None:
    name, config = published
    want = published_shapes(name)
    if name in CONDITIONERS_TO_COME:
        params = config.model.params
        denoiser = shapes(instantiate(params.denoiser).state_dict())
        assert list(denoiser.items()) == list(below("model.diffusion_model.", want).items())
        autoencoder = shapes(instantiate(params.autoencoder).state_dict())
        assert list(autoencoder.items()) == list(below("first_stage_model.", want).items())
        with pytest.raises(ConfigError) as error:
            instantiate(config.model)
        missing = CONDITIONERS_TO_COME[name]
        assert str(error.value).startswith(
            f"model.params.conditioners[0]: {missing} of the original code has no counterpart"
        )
        return
    model = instantiate(config.model)
    state = model.state_dict()
    if not hasattr(model, "denoiser"):
        without_loss = {k: v for k, v in want.items() if not k.startswith("loss.")}
        assert sorted(shapes(state).items()) == sorted(without_loss.items())
        return
    averaged = any(key.startswith("model_ema.") for key in want)
    shadow = {key: value for key, value in model.named_parameters() if value.requires_grad}
    theirs = to_compvis(state, dict(model.schedule.named_buffers()), shadow if averaged else None)
    if "scale_factor" not in want:
        del theirs["scale_factor"]
    assert list(shapes(theirs).items()) == list(want.items())
    back = from_compvis(theirs)
    assert back.keys() | {"scale_factor"} == state.keys()
    assert not back.keys() & set(SCHEDULE)


def test_parts_that_training_needs_are_kept(published: tuple[str, DictConfig]) -> None:
    name, config = published
    tree = published_configs()[official_keys(name)["config"]]
    if "data" not in tree:
        assert "task" not in config
        return
    rate = tree["model"]["base_learning_rate"] * tree["data"]["params"]["batch_size"]
    rate *= tree.get("lightning", {}).get("trainer", {}).get("accumulate_grad_batches", 1)
    task = config.task.params
    assert task.optimizer.params.lr == pytest.approx(rate)
    if "lr_schedule" in task:
        assert instantiate(task.lr_schedule)(10_000) == pytest.approx(1.0)
    if "objective" in task:
        objective = instantiate(task.objective)
        assert objective.perceptual_weight == 1.0
        want = below("loss.", published_shapes(name))
        assert list(shapes(objective.state_dict()).items()) == list(want.items())


@pytest.mark.parametrize(
    "name", [n for n in official_names() if "autoencoder" in n or "first" in n]
)
def test_a_whole_training_state_of_an_autoencoder_has_the_published_keys(
    name: str, tmp_path: Path
) -> None:
    """The model and its objective, LPIPS and discriminator included."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(published_configs()[official_keys(name)["config"]]))
    with torch.device("meta"):
        task = instantiate(load_config(file).task)
    state = {key.removeprefix("model."): value for key, value in task.state_dict().items()}
    theirs, want = shapes(to_compvis(state)), published_shapes(name)
    assert theirs == want
    for part in ("encoder.", "decoder.", "loss."):
        assert list(below(part, theirs)) == list(below(part, want))
    assert from_compvis(to_compvis(state)).keys() == state.keys()
