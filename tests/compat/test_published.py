"""All 32 published configurations translate, and give networks with the published keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig
from torch import nn

from ldm.compat.compvis.weights import SCHEDULE, from_compvis, to_compvis
from ldm.conditioners.class_label import ClassLabel
from ldm.conditioners.embeddings import Embeddings
from ldm.conditioners.layout import LayoutTransformer
from ldm.conditioners.spatial import ConcatImage, LatentImage, ResizedMask, SpatialRescaler
from ldm.conditioners.text import TextTransformer
from ldm.config import instantiate, load_config
from tests.parity import official_keys, official_names, published_configs

CONDITIONERS = {
    "configs__latent-diffusion__cin-ldm-vq-f8": [ClassLabel],
    "configs__latent-diffusion__cin256-v2": [ClassLabel],
    "configs__latent-diffusion__txt2img-1p4B-eval": [TextTransformer],
    "configs__retrieval-augmented-diffusion__768x768": [Embeddings],
    "models__ldm__bsr_sr": [ConcatImage],
    "models__ldm__cin256": [ClassLabel],
    "models__ldm__inpainting_big": [LatentImage, ResizedMask],
    "models__ldm__layout2img-openimages256": [LayoutTransformer],
    "models__ldm__semantic_synthesis256": [SpatialRescaler],
    "models__ldm__semantic_synthesis512": [SpatialRescaler],
    "models__ldm__text2img256": [TextTransformer],
}
COUNTED = {
    "configs__latent-diffusion__celebahq-ldm-vq-4": (274.06,),
    "configs__latent-diffusion__ffhq-ldm-vq-4": (274.06,),
    "configs__latent-diffusion__lsun_bedrooms-ldm-vq-4": (274.06,),
    "configs__latent-diffusion__lsun_churches-ldm-kl-8": (294.97,),
    "configs__latent-diffusion__cin256-v2": (400.92,),
    "configs__latent-diffusion__cin-ldm-vq-f8": (394.98,),
    "configs__latent-diffusion__txt2img-1p4B-eval": (872.30, 581.99),
    "configs__retrieval-augmented-diffusion__768x768": (1335.48,),
    "models__ldm__text2img256": (403.62, 186.15),
    "models__ldm__layout2img-openimages256": (246.28, 58.86),
    "models__ldm__bsr_sr": (113.62,),
    "models__ldm__inpainting_big": (387.25,),
    "models__ldm__semantic_synthesis256": (215.23,),
    "models__ldm__semantic_synthesis512": (215.23,),
    "models__first_stage_models__vq-f4": (55.32,),
    "models__first_stage_models__vq-f8": (67.72,),
    "models__first_stage_models__kl-f8": (83.65,),
}
"""Millions of parameters by ``../shared/PAPER.md``: of the UNet, or of UNet and conditioner."""
Shapes = dict[str, tuple[int, ...]]


def shapes(state: dict[str, Any]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items()}


def published_shapes(name: str) -> Shapes:
    return {key: tuple(shape) for key, shape, _ in official_keys(name)["state_dict"]}


def below(prefix: str, keys: Shapes) -> Shapes:
    return {k.removeprefix(prefix): v for k, v in keys.items() if k.startswith(prefix)}


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def check_parts(name: str, model: Any) -> None:
    """The conditioners are those that they should be, and all parts have the counted sizes."""
    counts = official_keys(name)["counts"]
    stage = getattr(model, "autoencoder", model)
    assert size(stage) == counts["first_stage"]["total_without_loss"]
    sizes = [size(stage)]
    if stage is not model:
        assert [type(part) for part in model.conditioners] == CONDITIONERS.get(name, [])
        sizes = [size(model.denoiser), size(model.conditioners)]
        second = counts["cond_stage"]
        second = 0 if isinstance(second, str) else second  # it says: the first stage
        assert sizes == [counts["unet"], second]
    for got, millions in zip(sizes, COUNTED.get(name, ()), strict=False):
        assert got / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.fixture(params=official_names())
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, DictConfig]]:
    name: str = request.param
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(published_configs()[official_keys(name)["config"]]))
    config = load_config(file, complete=False)
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
    model = instantiate(config.model)
    check_parts(name, model)
    state = model.state_dict()
    if not hasattr(model, "denoiser"):
        without_loss = {k: v for k, v in want.items() if not k.startswith("loss.")}
        assert sorted(shapes(state).items()) == sorted(without_loss.items())
        return
    averaged = any(key.startswith("model_ema.") for key in want)
    shadow = {key: value for key, value in model.named_parameters() if value.requires_grad}
    theirs = to_compvis(
        state,
        dict(model.schedule.named_buffers()),
        shadow if averaged else None,
        first_stage_twice=name == "models__ldm__inpainting_big",
    )
    if "scale_factor" not in want:
        del theirs["scale_factor"]
    assert list(shapes(theirs).items()) == list(want.items())
    back = from_compvis(theirs)
    assert back.keys() | {"scale_factor"} == state.keys()
    assert not back.keys() & set(SCHEDULE)


def test_sums_of_the_paper() -> None:
    """Table 2 and 15: 1.45 B text-to-image, 306 M (counted: 305.1 M) layout-to-image."""
    for name, millions in (
        ("configs__latent-diffusion__txt2img-1p4B-eval", 1454.3),
        ("models__ldm__layout2img-openimages256", 305.1),
    ):
        counts = official_keys(name)["counts"]
        assert (counts["unet"] + counts["cond_stage"]) / 1e6 == pytest.approx(millions, abs=0.05)


def test_there_are_thirty_two() -> None:
    assert len(official_names()) == len(published_configs()) == 32


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
        task = instantiate(load_config(file, complete=False).task)
    state = {key.removeprefix("model."): value for key, value in task.state_dict().items()}
    theirs, want = shapes(to_compvis(state)), published_shapes(name)
    assert theirs == want
    for part in ("encoder.", "decoder.", "loss."):
        assert list(below(part, theirs)) == list(below(part, want))
    assert from_compvis(to_compvis(state)).keys() == state.keys()


def test_the_table_of_the_docs_is_complete() -> None:
    root = Path(__file__).parents[2]
    lines = (root / "docs" / "published.md").read_text().splitlines()
    rows = [re.split(r" *\| *", line)[1:-1] for line in lines if line.endswith("` |")]
    table = {row[0].strip("`"): row for row in rows if row[0].endswith(".yaml`")}
    assert table.keys() == published_configs().keys()
    for official in map(official_keys, official_names()):
        row, counts = table[official["config"]], official["counts"]
        assert (root / "configs" / f"{row[-1].strip('`')}.yaml").exists(), row
        sizes = [counts["unet"]] if "unet" in counts else []
        for millions in [*sizes, counts["first_stage"]["total_without_loss"]]:
            assert any(cell.startswith(f"{millions / 1e6:.2f}") for cell in row), row
