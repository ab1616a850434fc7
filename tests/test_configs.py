"""Every YAML file under ``configs/`` builds; those of the first stages are the published ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from ldm.config import load_config
from ldm.experiment import trainer_options
from ldm.load.model import inline_pretrained
from ldm.training.run import build
from tests.experiments import (
    CONFIGS,
    EXPERIMENTS,
    FIRST_STAGES,
    ROOT,
    before,
    make_world,
    name_of,
    outside,
    random_data,
)
from tests.parity import official_keys, published_configs

DATA = FIRST_STAGES / "data"
LAPTOP = [FIRST_STAGES / f"{kind}-f4-laptop.yaml" for kind in ("kl", "vq")]

# f, codes (None: KL), c, batch, disc_start, disc_weight, disc layers, steps; the last five of the
# rows that were not released are those of the neighbours named in their files.
TABLE_8: dict[str, tuple[int, int | None, int, int, int, float, int, int]] = {
    "kl-f2": (2, None, 2, 10, 50001, 0.5, 3, 176991),
    "kl-f4": (4, None, 3, 10, 50001, 0.5, 3, 176991),
    "kl-f8": (8, None, 4, 4, 50001, 0.5, 3, 246803),
    "kl-f16": (16, None, 16, 6, 50001, 0.5, 3, 442998),
    "kl-f16-c8": (16, None, 8, 6, 50001, 0.5, 3, 442998),
    "kl-f32": (32, None, 64, 6, 50001, 0.5, 3, 406763),
    "kl-f32-c16": (32, None, 16, 6, 50001, 0.5, 3, 406763),
    "vq-f2": (2, 2048, 2, 8, 0, 0.75, 3, 533066),
    "vq-f2-n64": (2, 64, 2, 8, 0, 0.75, 3, 533066),
    "vq-f4": (4, 8192, 3, 8, 0, 0.75, 3, 533066),
    "vq-f4-n256": (4, 256, 3, 8, 0, 0.75, 3, 533066),
    "vq-f4-noattn": (4, 8192, 3, 8, 11, 0.75, 3, 658131),
    "vq-f8": (8, 16384, 4, 10, 1, 0.6, 2, 971043),
    "vq-f8-n256": (8, 256, 4, 10, 250001, 0.75, 3, 1608649),
    "vq-f16": (16, 16384, 8, 14, 250001, 0.75, 2, 1101166),
    "vq-f32": (32, 16384, 16, 14, 250001, 0.75, 2, 1101166),
}
# Encoder and decoder with all else but the loss, in millions, as counted from the checkpoints.
RELEASED = {
    "vq-f4": 55.32,
    "vq-f4-noattn": 53.22,
    "vq-f8": 67.72,
    "vq-f8-n256": 67.65,
    "vq-f16": 69.59,
    "kl-f4": 55.31,
    "kl-f8": 83.65,
    "kl-f16": 69.61,
    "kl-f32": 103.88,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Images and arrays, and the configs of trained models without their weights."""
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # the quickstart's vocabulary is named from there
        yield root


def config_of(path: Path, world: Path, *more: str | Path) -> DictConfig:
    """A config with what it needs from outside, and with further files and overrides."""
    needed = outside(path, world) + before(path, world / "runs", small=False)
    if DATA / "folder.yaml" in more:
        needed.append(f"data_root={world / 'photos'}")
    files = random_data(path) + [item for item in more if isinstance(item, Path)]
    return load_config(path, *files, overrides=needed + [i for i in more if isinstance(i, str)])


def dry_run(config: DictConfig) -> tuple[Any, Any]:
    """What ``scripts/train.py --dry-run`` builds."""
    trainer_options(config)
    with torch.device("meta"):
        task, data = build(inline_pretrained(config))
        task.configure_optimizers()
    return task, data


def first_stage(name: str, world: Path) -> tuple[DictConfig, Any]:
    config = config_of(FIRST_STAGES / f"{name}.yaml", world)
    return config, dry_run(config)[0]


# -- all configs ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_it_builds(path: Path, world: Path) -> None:
    config = config_of(path, world)
    task, data = dry_run(config)
    assert len(data.train) > 0
    assert len(data.validation) > 0
    assert all(parameter.is_meta for parameter in task.model.parameters())


def test_names_are_unique_and_those_of_the_first_stages_are_their_files() -> None:
    names = [str(load_config(path, complete=False).name) for path in EXPERIMENTS]
    assert len(set(names)) == len(names)
    stages = [path.stem for path in EXPERIMENTS if path.parent == FIRST_STAGES]
    assert [name for name in names if name in stages] == stages
    assert set(stages) == {*TABLE_8, *(path.stem for path in LAPTOP)}


# -- the rows of Table 8 ----------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE_8)
def test_row_of_table_8(name: str, world: Path) -> None:
    f, codes, c, batch, disc_start, disc_weight, layers, steps = TABLE_8[name]
    config, task = first_stage(name, world)
    assert task.model.downsampling_factor == f
    assert task.model.latent_channels == c
    assert getattr(getattr(task.model, "quantize", None), "num_codes", None) == codes
    objective = OmegaConf.to_container(config.task.params.objective, resolve=True)["params"]
    assert objective["disc_start"] == disc_start
    assert objective["disc_weight"] == disc_weight
    assert objective["discriminator"]["params"]["num_layers"] == layers
    assert objective["perceptual_weight"] == 1
    assert objective.get("kl_weight", 1e-6) == 1e-6
    assert config.trainer.max_steps == steps
    assert config.data.params.batch_size == batch
    optimizers, _ = task.configure_optimizers()
    for optimizer in optimizers:
        assert optimizer.defaults["lr"] == pytest.approx(4.5e-6 * batch, rel=1e-9)
        assert optimizer.defaults["betas"] == (0.5, 0.9)


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_are_those_of_the_checkpoint(name: str, world: Path) -> None:
    official = official_keys(f"models__first_stage_models__{name}")
    want = [
        [key, shape, f"torch.{dtype}"]
        for key, shape, dtype in official["state_dict"]
        if not key.startswith("loss.")
    ]
    model = first_stage(name, world)[1].model
    assert [[k, list(v.shape), str(v.dtype)] for k, v in model.state_dict().items()] == want
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(
        RELEASED[name], abs=0.006
    )


@pytest.mark.parametrize("name", RELEASED)
def test_settings_are_those_of_the_published_file(name: str, world: Path) -> None:
    published = published_configs()[f"models/first_stage_models/{name}/config.yaml"]
    params = published["model"]["params"]
    loss, crop = params["lossconfig"]["params"], published["data"]["params"]["train"]["params"]
    config = config_of(FIRST_STAGES / f"{name}.yaml", world, DATA / "openimages.yaml")
    objective = config.task.params.objective.params
    assert objective.disc_start == loss["disc_start"]
    assert objective.disc_weight == loss["disc_weight"]
    assert objective.discriminator.params.num_layers == loss.get("disc_num_layers", 3)
    assert config.data.params.batch_size == published["data"]["params"]["batch_size"]
    architecture = config.model.params.architecture.params
    assert list(architecture.attn_resolutions) == params["ddconfig"]["attn_resolutions"]
    assert architecture.resolution == params["ddconfig"]["resolution"]
    assert config.data.params.train.params.resize == crop.get("size", "keep")
    assert config.data.params.train.params.size == crop["crop_size"]


@pytest.mark.parametrize("name", ["kl-f16", "vq-f8"])
def test_the_size_of_the_images_moves_no_attention(name: str, world: Path) -> None:
    path = FIRST_STAGES / f"{name}.yaml"
    keys = [
        list(dry_run(config_of(path, world, *overrides))[0].model.state_dict())
        for overrides in ((), ("image_size=64",), ("image_size=[96,160]",))
    ]
    assert keys[0] == keys[1] == keys[2]
    assert any(".attn." in key for key in keys[0])


# -- data files -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kl-f8", "vq-f4", "kl-f4-laptop", "vq-f4-laptop"])
@pytest.mark.parametrize("data", ["folder", "imagenet", "openimages", "arrays"])
def test_data_files_go_with_every_first_stage(name: str, data: str, world: Path) -> None:
    root = {"folder": "photos", "arrays": "arrays"}.get(data, "sets")
    overrides = [f"data_root={world / root}", "image_size=32"]
    overrides += ["image_channels=12", "value_range=[0,9]"] if data == "arrays" else []
    path = FIRST_STAGES / f"{name}.yaml"
    config = load_config(path, DATA / f"{data}.yaml", overrides=overrides)
    assert config.name == name
    task, module = dry_run(config)
    channels = 12 if data == "arrays" else 3
    for dataset in (module.train, module.validation):
        image = dataset[0]["image"]
        assert image.shape == (channels, 32, 32)
        assert image.device.type == "cpu"
    assert task.model.encoder.conv_in.in_channels == channels
    assert task.model.decoder.conv_out.out_channels == channels
    assert next(task.objective.discriminator.parameters()).shape[1] == channels
    if data in ("imagenet", "openimages"):
        assert len(module.train) == len(module.validation) == 2


def test_recipes(world: Path) -> None:
    """Crops of the ImageNet and OpenImages layouts; native size for the rows that have no other."""
    root = f"data_root={world / 'sets'}"

    def framing(name: str, data: str) -> Any:
        path = FIRST_STAGES / f"{name}.yaml"
        return dry_run(load_config(path, DATA / data, overrides=[root]))[1].train.framing

    imagenet = framing("kl-f8", "imagenet.yaml")
    assert (imagenet.crop, imagenet.interpolation, imagenet.flip) == ("random", "area", 0)
    assert list(imagenet.crop_scale) == [0.5, 1]
    openimages = framing("kl-f8", "openimages.yaml")
    assert (openimages.resize, openimages.crop, openimages.flip) == (384, "random", 0)
    assert framing("vq-f4", "openimages.yaml").resize == "keep"
    assert framing("vq-f4", "imagenet.yaml").resize is None


@pytest.mark.parametrize("path", [*LAPTOP, CONFIGS / "folder" / "autoencoder.yaml"])
def test_lpips_can_be_added_and_left_out(path: Path, world: Path) -> None:
    without, _ = dry_run(config_of(path, world))
    assert without.objective.perceptual_loss is None
    added, _ = dry_run(config_of(path, world, FIRST_STAGES / "_lpips.yaml"))
    assert added.objective.perceptual_loss is not None
    assert added.objective.perceptual_weight == 1
    objective = "task.params.objective.params"
    row = config_of(
        FIRST_STAGES / "kl-f8.yaml",
        world,
        f"{objective}.perceptual=null",
        f"{objective}.perceptual_weight=0",
    )
    assert dry_run(row)[0].objective.perceptual_loss is None


def test_what_the_comments_give_as_overrides(world: Path) -> None:
    path = FIRST_STAGES / "kl-f4.yaml"
    for mode, channels, shown in (("L", 1, "repeat"), ("RGBA", 4, "[0,1,2]")):
        kind = (f"image_mode={mode}", f"image_channels={channels}", f"lpips_channels={shown}")
        task, data = dry_run(config_of(path, world, *kind, "image_size=[32,48]"))
        assert data.train[0]["image"].shape == (channels, 32, 48)
        assert task.model.encoder.conv_in.in_channels == channels
        assert next(task.objective.discriminator.parameters()).shape[1] == channels
    original = ("data.params.batch_size=24", "+trainer.accumulate_grad_batches=2")
    trainer_options(config_of(path, world, *original, "learning_rate=1.08e-4"))
