"""A frozen text encoder from configuration to checkpoint and back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ldm.checkpoint import load_training_checkpoint, save
from ldm.compat.compvis.weights import to_compvis
from ldm.config import instantiate
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.errors import CheckpointError
from ldm.load.model import load_model, run_config
from ldm.training.run import build, train
from ldm.training.run_folder import RunFolder
from tests.conditioners.clips import text_model, write_folder
from tests.training import tiny

PREFIX = "conditioners.0."
NAMES = [f"{PREFIX}transformer.text_model.{name}" for name in text_model().state_dict()]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with CLIP's config and weights; tests must not change it."""
    return write_folder(tmp_path_factory.mktemp("clip"))


def _config(clip: str, in_checkpoint: bool = True, **changes: Any) -> DictConfig:
    tokenizer = {
        "target": "ldm.conditioners.ClipTokenizer",
        "params": {"length": 8},
    }
    config = tiny.text2img(Path("nowhere"), Path("nowhere"))
    config.data = tiny._data(tokenizer=tokenizer)
    params = config.model.params
    params.scale_factor = 1.0
    params.autoencoder = {"target": "ldm.autoencoders.AutoencoderIdentity"}
    params.denoiser.params |= {"in_channels": 3, "out_channels": 3}
    params.conditioners = [
        {
            "target": "ldm.conditioners.CLIPText",
            "params": {
                "path": clip,
                "length": 8,
                "tokenizer": tokenizer,
                "in_checkpoint": in_checkpoint,
                "drop_prob": 0.5,
            },
        }
    ]
    config.trainer.max_steps = 2
    return OmegaConf.merge(config, changes)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def runs(clip: str, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, RunFolder]:
    """Runs of 2 steps by whether CLIP is in the checkpoint; tests must not change them."""
    root = tmp_path_factory.mktemp("runs")
    folders = {inside: RunFolder(root / str(inside)) for inside in (True, False)}
    for inside, folder in folders.items():
        train(_config(clip, inside), folder)
    return folders


def _clip_weights(model: Any) -> list[Tensor]:
    return [model.state_dict()[name] for name in NAMES]


def _is_pretrained(model: Any) -> bool:
    own = text_model().state_dict().values()
    return all(map(torch.equal, _clip_weights(model), own))


def test_training_does_not_touch_the_encoder(
    clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not its weights, its mode, the optimiser or the average; all else learns."""
    from ldm.training.tasks.latent_diffusion import LatentDiffusionTask

    tasks = []

    def look(task: LatentDiffusionTask) -> None:
        tasks.append(task)
        assert task.model.denoiser.training
        assert not any(module.training for module in task.model.conditioners[0].modules())
        start.update({name: value.clone() for name, value in task.model.state_dict().items()})

    start: dict[str, Tensor] = {}
    monkeypatch.setattr(LatentDiffusionTask, "on_train_start", look)
    train(_config(clip), RunFolder(tmp_path / "run"))
    task = tasks[0]
    assert _is_pretrained(task.model)
    optimised = {id(p) for group in task.optimizers().param_groups for p in group["params"]}
    assert optimised == {id(p) for p in task.model.denoiser.parameters()}
    ema = load_training_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["ema"]["shadow"]
    assert set(ema) == {f"denoiser.{n}" for n, _ in task.model.denoiser.named_parameters()}
    changed = [n for n, v in task.model.state_dict().items() if not torch.equal(v, start[n])]
    assert len(changed) > len(ema) / 2
    assert all(name.startswith("denoiser.") for name in changed)


def test_all_that_learns_gets_a_gradient(clip: str) -> None:
    """Else training on several devices stops with an error."""
    model = instantiate(_config(clip)).get("model")
    batch = {"image": torch.zeros(4, 3, 16, 16), "tokens": torch.full((4, 8), 49407)}
    model.train()(batch, torch.Generator().manual_seed(0))[0].backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad is None for p in model.conditioners.parameters())


@pytest.mark.parametrize("inside", [True, False])
def test_what_checkpoints_hold(runs: dict[bool, RunFolder], inside: bool) -> None:
    weights = load_training_checkpoint(runs[inside].last)["state_dict"]
    held = [name for name in weights if name.startswith(f"model.{PREFIX}")]
    assert held == ([f"model.{name}" for name in NAMES] if inside else [])
    assert any(name.startswith("model.denoiser.") for name in weights)


@pytest.mark.parametrize("inside", [True, False])
def test_resume(runs: dict[bool, RunFolder], clip: str, tmp_path: Path, inside: bool) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(runs[inside].path, folder.path)
    before = load_training_checkpoint(folder.last)
    config = _config(clip, inside)
    task, _ = build(config)
    task.load_state_dict(before["state_dict"])
    for name, value in before["state_dict"].items():
        assert torch.equal(task.state_dict()[name], value)
    config.trainer.max_steps = 4
    train(config, folder, resume=True)
    after = load_training_checkpoint(folder.last)
    assert after["global_step"] == 4
    assert after["ema"]["num_updates"] == 4
    assert all(int(s["step"]) == 4 for s in after["optimizer_states"][0]["state"].values())
    assert after["state_dict"].keys() == before["state_dict"].keys()
    assert _is_pretrained(load_model(folder.path))


@pytest.mark.parametrize("inside", [True, False])
def test_load_model(runs: dict[bool, RunFolder], inside: bool) -> None:
    model = load_model(runs[inside].path)
    assert isinstance(model, LatentDiffusion)
    assert _is_pretrained(model)
    ema = load_training_checkpoint(runs[inside].last)["ema"]["shadow"]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in ema.items())


def test_a_checkpoint_with_the_encoder_needs_no_file_of_it(
    runs: dict[bool, RunFolder], tmp_path: Path
) -> None:
    """Nor does a dry run, whatever is in the checkpoint."""
    sizes = {key: value for key, value in text_model().config.to_dict().items() if key in _SIZES}
    changes = {"path": str(tmp_path / "gone"), "config": sizes}
    for inside, folder in runs.items():
        config = OmegaConf.load(folder.config)
        config.model.params.conditioners[0].params |= changes
        with torch.device("meta"):
            build(config)
        if inside:
            assert _is_pretrained(load_model(config, folder.last))
        else:
            with pytest.raises(CheckpointError, match=r"gone: no such folder; give as path"):
                load_model(config, folder.last)


_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "max_position_embeddings"),
)


def test_a_missing_file_stops_training_before_the_first_step(clip: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(clip, gone)
    (gone / "model.safetensors").unlink()
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors or .*: give as path"):
        train(_config(str(gone)), folder)
    assert not folder.last.exists()


def test_nothing_else_may_be_absent(runs: dict[bool, RunFolder], clip: str, tmp_path: Path) -> None:
    """A part of the encoder, the whole of one that belongs into the checkpoint, or the rest."""

    def load(inside: bool, weights: dict[str, Tensor]) -> None:
        save(weights, tmp_path / "weights.safetensors")
        load_model(_config(clip, inside), tmp_path / "weights.safetensors")

    whole = dict(load_model(runs[True].path).state_dict())
    without = {name: v for name, v in whole.items() if not name.startswith(PREFIX)}
    load(False, whole)
    load(False, without)
    with pytest.raises(CheckpointError, match=f"{len(NAMES)} missing"):
        load(True, without)
    with pytest.raises(CheckpointError, match=r"1 missing \(conditioners\.0\.transformer"):
        load(False, {name: v for name, v in whole.items() if name != NAMES[3]})
    first = next(name for name in without if name.startswith("denoiser."))
    with pytest.raises(CheckpointError, match=r"1 missing \(denoiser\."):
        load(False, {name: v for name, v in without.items() if name != first})
    with pytest.raises(CheckpointError, match=r"1 unexpected \(conditioners\.0\.other"):
        load(True, whole | {f"{PREFIX}other": torch.zeros(1)})


def test_weights_in_the_file_win_over_those_of_the_folder(
    runs: dict[bool, RunFolder], clip: str, tmp_path: Path
) -> None:
    """Some published models have an encoder that was trained further."""
    weights = dict(load_model(runs[True].path).state_dict())
    weights |= {name: weights[name] + 1 for name in NAMES}
    save(weights, tmp_path / "weights.safetensors")
    for inside in (True, False):
        model = load_model(_config(clip, inside), tmp_path / "weights.safetensors")
        model.conditioners[0](torch.full((1, 8), 49407))  # type: ignore[index]
        assert all(map(torch.equal, _clip_weights(model), [weights[name] for name in NAMES]))


def test_checkpoints_in_the_layout_of_stable_diffusion_1(
    runs: dict[bool, RunFolder], tmp_path: Path
) -> None:
    """With the position ids that its text encoder stored."""
    model: Any = load_model(runs[True].path)
    schedule = dict(model.schedule.named_buffers())
    weights = to_compvis(model.state_dict(), schedule)
    text = "cond_stage_model.transformer.text_model."
    assert f"{text}final_layer_norm.weight" in weights
    weights[f"{text}embeddings.position_ids"] = torch.arange(8)[None]
    torch.save({"state_dict": weights}, tmp_path / "sd.ckpt")
    config = run_config(runs[True].path)
    again = load_model(config, tmp_path / "sd.ckpt")
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
