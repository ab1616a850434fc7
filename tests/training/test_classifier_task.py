from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from safetensors.torch import load_file, save_file

from ldm.checkpoint import load_training_checkpoint
from ldm.config import instantiate, load_config, save_config
from ldm.diffusion.classifier import NoisyLatentClassifier
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.errors import ConfigError
from ldm.load.model import inline_pretrained, load_model
from ldm.training.run import build, train
from ldm.training.run_folder import RunFolder
from ldm.visualization.curves import read_metrics
from tests.training import tiny

CONFIGS = Path(__file__).parents[2] / "configs"
NETWORK = {
    "target": "ldm.denoisers.EncoderUNet",
    "params": {
        "in_channels": 2,
        "model_channels": 8,
        "out_channels": 24,
        "num_res_blocks": 1,
        "attention_resolutions": [2],
        "channel_mult": [1, 1],
        "image_size": 8,
        "num_heads": 1,
        "norm_groups": 2,
    },
}


def tiny_classifier(model: dict[str, Any], max_steps: int = 2, **task: Any) -> DictConfig:
    """An experiment on scenes of 16 pixels, whose labels name the first object."""
    base = tiny.features(name="tiny-classifier", ema_decay=0.9, trainer={"max_steps": max_steps})
    base.model = model
    base.every = {"log": 1, "validation": 2, "checkpoint": 2, "images": 2}
    base.task = {
        "target": "ldm.training.ClassifierTask",
        "params": {
            "model": "${model}",
            "optimizer": {
                "target": "torch.optim.AdamW",
                "partial": True,
                "params": {"lr": 1e-3, "weight_decay": 1e-2},
            },
            "gradient_clip": 1.0,
            **task,
        },
    }
    return base


def by_hand(first_stage: Path) -> dict[str, Any]:
    return {
        "target": "ldm.diffusion.NoisyLatentClassifier",
        "params": {
            "autoencoder": {"target": "ldm.load.pretrained", "params": {"path": str(first_stage)}},
            "schedule": {
                "target": "ldm.diffusion.NoiseSchedule",
                "params": {"timesteps": 20},
            },
            "network": NETWORK,
        },
    }


def untrained(config: DictConfig, folder: Path, **values: float) -> Path:
    """A folder with a model that starts at random, but for some numbers."""
    config = inline_pretrained(config)
    torch.manual_seed(0)
    state = instantiate(config.model).state_dict()
    state |= {key: torch.tensor(value) for key, value in values.items()}
    save_config(config, folder / "config.yaml")
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tiny.autoencoder(), tmp_path_factory.mktemp("runs") / "stage1")


@pytest.fixture(scope="module")
def run(first_stage: Path) -> RunFolder:
    """Two steps, then two more."""
    folder = RunFolder(first_stage.parent / "classifier")
    config = tiny_classifier(by_hand(first_stage))
    train(config, folder)
    saved = load_config(folder.config)
    saved.trainer.max_steps = 4
    train(saved, folder, resume=True)
    return folder


def test_it_trains_and_resumes(run: RunFolder) -> None:
    assert run.complete
    state = load_training_checkpoint(run.last)
    assert state["global_step"] == 4
    assert state["ema"]["num_updates"] == 4
    assert all(int(s["step"]) == 4 for s in state["optimizer_states"][0]["state"].values())
    curves = read_metrics(run.metrics)
    assert [step for step, _ in curves["train/loss"]] == [1, 2, 3, 4]
    assert [step for step, _ in curves["train/grad_norm"]] == [1, 2, 3, 4]
    logged = {"loss", "accuracy", "accuracy_top5", *(f"accuracy_q{i}" for i in (1, 2, 3, 4))}
    assert logged <= {name.removeprefix("val/") for name in curves if name.startswith("val/")}
    assert run.last.with_name("best.ckpt").exists()  # by val/loss


def test_only_the_network_has_changed_and_is_averaged(run: RunFolder, first_stage: Path) -> None:
    state = load_training_checkpoint(run.last)
    assert all(name.startswith("network.") for name in state["ema"]["shadow"])
    groups = state["optimizer_states"][0]["param_groups"]
    assert sum(len(group["params"]) for group in groups) == len(state["ema"]["shadow"])
    for name, value in load_file(first_stage / "model.safetensors").items():
        assert torch.equal(state["state_dict"][f"model.autoencoder.{name}"], value)


def test_a_run_is_a_classifier_that_guides(run: RunFolder) -> None:
    model = load_model(run.path)
    assert isinstance(model, NoisyLatentClassifier)
    assert not model.training
    gradient = model.log_prob_gradient(
        torch.randn(2, 2, 8, 8), torch.tensor([1, 19]), torch.tensor([0, 23])
    )
    assert gradient.flatten(1).abs().amax(1).gt(0).all()


def test_it_takes_the_latents_of_a_diffusion_run(first_stage: Path, tmp_path: Path) -> None:
    """The classifier of a trained model has its scale factor, also after a resume elsewhere."""
    vocab = CONFIGS.parent / "data" / "scenes" / "vocab.txt"
    config = tiny.text2img(first_stage, vocab)
    diffusion = untrained(config, tmp_path / "diffusion", scale_factor=0.37)
    node = {
        "target": "ldm.diffusion.classifier_for",
        "params": {
            "diffusion": {
                "target": "ldm.load.pretrained",
                "params": {"path": str(diffusion)},
            },
            "network": NETWORK,
        },
    }
    folder = RunFolder(tmp_path / "classifier")
    train(tiny_classifier(node), folder)
    diffusion.rename(tmp_path / "gone")
    config = load_config(folder.config)
    config.trainer.max_steps = 3
    train(config, folder, resume=True)
    teacher, model = load_model(tmp_path / "gone"), load_model(folder.path)
    assert isinstance(teacher, LatentDiffusion)
    assert isinstance(model, NoisyLatentClassifier)
    assert model.scale_factor == teacher.scale_factor == torch.tensor(0.37)
    assert "denoiser" not in {key.split(".")[0] for key in model.state_dict()}


def test_an_unknown_scale_factor_is_refused(first_stage: Path, tmp_path: Path) -> None:
    model = by_hand(first_stage)
    model["params"]["scale_factor"] = float("nan")
    with pytest.raises(ConfigError, match=r"model\.params\.scale_factor: expected a number"):
        train(tiny_classifier(model), RunFolder(tmp_path / "run"))


# -- the configs ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of ten classes in train and val, and the configs of runs to build upon."""
    root = tmp_path_factory.mktemp("world")
    noise = np.random.default_rng(0)
    for name in [f"{split}/{i}" for split in ("train", "val") for i in range(10)]:
        (root / name).mkdir(parents=True)
        pixels = noise.integers(0, 255, (40, 48, 3), np.uint8)
        for i in range(2):
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    stages = {"vq-f8": "autoencoder/vq-f8", "cifar10-autoencoder": "cifar10/autoencoder"}
    for run, path in stages.items():
        config = load_config(CONFIGS / f"{path}.yaml", overrides=["+data_root=x"])
        save_config(config, root / run / "config.yaml")
    overrides = [f"first_stage={root / 'cifar10-autoencoder'}"]
    diffusion = load_config(CONFIGS / "cifar10" / "unconditional.yaml", overrides=overrides)
    save_config(inline_pretrained(diffusion), root / "cifar10-unconditional" / "config.yaml")
    return root


def built(name: str, *overrides: str) -> tuple[DictConfig, Any, Any]:
    config = load_config(CONFIGS / f"{name}.yaml", overrides=overrides)
    with torch.device("meta"):
        task, data = build(inline_pretrained(config))
        task.configure_optimizers()
    return config, task, data


def count(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_classifier_of_ldm_8_g(world: Path) -> None:
    """111.60 M counted: the 506 M of LDM-8-G without the 395 M of LDM-8."""
    overrides = [f"data_root={world}", f"first_stage={world / 'vq-f8'}"]
    data = "data.params.{}.params.num_classes=10"  # as many as there are folders
    overrides += [data.format(split) for split in ("train", "validation")]
    config, task, module = built("classifier/cin256-classifier", *overrides)
    assert count(task.model.network) == 111_604_200
    assert task.model.autoencoder.latent_channels == 4
    assert task.model.autoencoder.quantize.num_codes == 16384
    optimizer = task.configure_optimizers()["optimizer"]
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (3e-4, 0.01)
    sibling = load_config(CONFIGS / "class" / "cin256.yaml", overrides=overrides)
    assert config.model.params.schedule == sibling.model.params.schedule
    assert config.model.params.scale_factor == sibling.model.params.scale_factor
    ours, unet = config.model.params.network.params, sibling.model.params.denoiser.params
    shared = ("model_channels", "channel_mult", "num_res_blocks", "attention_resolutions")
    assert [ours[key] for key in shared] == [unet[key] for key in shared]
    assert module.train[0]["class_label"] in range(10)


def test_the_small_classifier(world: Path) -> None:
    overrides = [f"data_root={world / 'train'}", f"diffusion={world / 'cifar10-unconditional'}"]
    _, task, data = built("classifier/cifar10-classifier", *overrides)
    assert task.model.autoencoder.latent_channels == 8
    assert data.train[0]["class_label"] in range(10)


def test_ddpm_on_cifar10(world: Path) -> None:
    root = f"data_root={world / 'train'}"
    _, task, data = built("pixel/ddpm-cifar10", root)
    assert count(task.model) == 35_746_307  # printed: 35.7 M
    schedule = task.model.schedule.to_empty(device="cpu")
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).float()
    assert torch.allclose(schedule.betas, betas, rtol=1e-6)
    assert torch.allclose(schedule.posterior_variance, betas, rtol=1e-6)
    assert data.train[0]["image"].shape == (3, 32, 32)
    _, task, data = built("pixel/ddpm-cifar10-class", root)
    assert count(task.model) == 35_746_307 + 11 * 512
    assert task.model.conditioners[0].route == "adm"
    assert data.train[0]["class_label"] in range(10)
