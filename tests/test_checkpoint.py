"""Reading files of all kinds, among them old, damaged and hostile ones; strict loading; saving."""

from __future__ import annotations

import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.checkpoint import (
    LoadedCheckpoint,
    fitting_state,
    load_training_checkpoint,
    load_weights,
    read_state,
    save,
)
from ldm.compat.compvis.weights import SCHEDULE
from ldm.compat.diffusers.autoencoder import to_diffusers
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import CheckpointError
from tests.autoencoders.build import autoencoder
from tests.compat.first_stages import KINDS, build, kl
from tests.parity import official_keys, official_names, published_configs


class Small(nn.Module):
    """Shaped like a diffusion model."""

    def __init__(self) -> None:
        super().__init__()
        self.denoiser = nn.Linear(2, 3)
        self.autoencoder = nn.Linear(2, 2).requires_grad_(False)
        self.schedule = NoiseSchedule(timesteps=10)
        self.register_buffer("scale_factor", torch.tensor(0.5))


def filled(model: nn.Module, value: float) -> dict[str, Tensor]:
    return {key: torch.full_like(tensor, value) for key, tensor in model.state_dict().items()}


def training_checkpoint(model: nn.Module) -> dict[str, Any]:
    state = {f"model.{key}": value for key, value in filled(model, 1.0).items()}
    shadow = {"denoiser.weight": torch.full((3, 2), 2.0), "denoiser.bias": torch.full((3,), 2.0)}
    return {
        "state_dict": state | {"objective.logvar": torch.zeros(())},
        "ema": {"num_updates": 3, "shadow": shadow},
        "global_step": 7,
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}],
    }


# -- formats ----------------------------------------------------------------------------------


def test_native_training_checkpoint(tmp_path: Path) -> None:
    model, path = Small(), tmp_path / "a.ckpt"
    save(training_checkpoint(model), path)
    loaded = read_state(path)
    assert loaded.format == "native"
    assert loaded.metadata == {"global_step": 7}
    load_weights(model, loaded)
    assert (model.denoiser.weight == 2).all()
    assert (model.denoiser.bias == 2).all()
    assert (model.autoencoder.bias == 1).all()
    load_weights(model, loaded, ema=False)
    assert (model.denoiser.weight == 1).all()
    content = load_training_checkpoint(path)
    assert content["optimizer_states"][0]["param_groups"][0]["lr"] == 0.1
    del content["ema"]["shadow"]["denoiser.bias"]  # averaged and raw weights do not mix
    save(content, path)
    with pytest.raises(CheckpointError, match=r"1 weights have no averaged copy, first den"):
        load_weights(model, read_state(path))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_bare_weights(tmp_path: Path, suffix: str) -> None:
    model, path = Small(), tmp_path / f"a{suffix}"
    save(filled(model, 3.0), path)
    load_weights(model, read_state(path))
    assert all((value == 3).all() for value in model.state_dict().values())


def test_compvis_checkpoint(tmp_path: Path) -> None:
    model, path = Small(), tmp_path / "a.ckpt"
    ours = filled(model, 1.0)
    state = {
        "model.diffusion_model.weight": ours["denoiser.weight"],
        "model.diffusion_model.bias": ours["denoiser.bias"],
        "model_ema.diffusion_modelweight": torch.full((3, 2), 2.0),
        "model_ema.diffusion_modelbias": torch.full((3,), 2.0),
        "model_ema.decay": torch.tensor(0.9999),
        "first_stage_model.weight": ours["autoencoder.weight"],
        "first_stage_model.bias": ours["autoencoder.bias"],
        **{key: getattr(model.schedule, key) for key in SCHEDULE},
    }
    torch.save({"state_dict": state}, path)
    loaded = read_state(path)
    assert loaded.format == "compvis"
    load_weights(model, loaded)
    assert (model.denoiser.weight == 2).all()
    assert model.scale_factor == 0.5, "a file without scale factor leaves that of the config"
    torch.save({"state_dict": state | {"scale_factor": torch.tensor([0.25])}}, path)
    load_weights(model, read_state(path), ema=False)
    assert (model.denoiser.weight == 1).all()
    assert model.scale_factor == 0.25

    autoencoder = nn.Linear(2, 2)
    load_weights(autoencoder, read_state(path))
    del state["model_ema.diffusion_modelbias"]
    torch.save({"state_dict": state}, path)
    with pytest.raises(CheckpointError, match=r"1 of 2 weights have no averaged copy"):
        load_weights(model, read_state(path))
    load_weights(model, read_state(path), ema=False)
    assert (autoencoder.weight == 1).all(), "the first stage of a whole model's file"

    torch.save(state | {"betas": model.schedule.betas * 1.001}, path)
    with pytest.raises(CheckpointError, match=r"a\.ckpt: its noise schedule differs from the con"):
        load_weights(model, read_state(path))


def test_parameters_and_numpy_scalars(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    state = nn.Linear(2, 2).state_dict(keep_vars=True)
    torch.save({"state_dict": state, "best": np.float64(0.5), "epoch": 3}, path)
    loaded = read_state(path)
    assert loaded.state_dict.keys() == {"weight", "bias"}
    assert not any(value.requires_grad for value in loaded.state_dict.values())
    assert loaded.metadata["epoch"] == 3


def test_checkpoint_of_diffusers(tmp_path: Path) -> None:
    node, path = KINDS["kl-attention"], tmp_path / "diffusion_pytorch_model.bin"
    state = build(node).state_dict()
    torch.save(to_diffusers(state), path)
    loaded = read_state(path)
    assert loaded.format == "diffusers"
    other = build(node, seed=1)
    load_weights(other, loaded)
    assert all(torch.equal(other.state_dict()[key], value) for key, value in state.items())


# -- autoencoders inside larger files, and with more or less than weights ---------------------


def stable_diffusion(first_stage: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of a full Stable Diffusion checkpoint around an autoencoder."""
    return {
        "model.diffusion_model.input_blocks.0.0.weight": torch.ones(2),
        "model_ema.diffusion_modelinput_blocks00weight": torch.ones(2),
        "model_ema.num_updates": torch.tensor(5),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(3),
        **{f"first_stage_model.{key}": value for key, value in first_stage.items()},
        **NoiseSchedule(timesteps=7).state_dict(),
        "betas": torch.linspace(0, 1, 7),
    }


@pytest.mark.parametrize("kind", ["kl-attention", "vq"])
def test_first_stage_inside_stable_diffusion(kind: str, tmp_path: Path) -> None:
    want = build(KINDS[kind]).state_dict()
    save({"state_dict": stable_diffusion(want), "global_step": 9}, tmp_path / "sd.ckpt")
    save(stable_diffusion(want), tmp_path / "sd.safetensors")
    bare = want | {"loss.logvar": torch.ones(()), "loss.discriminator.main.0.bias": torch.ones(1)}
    save({"state_dict": bare}, tmp_path / "vae.ckpt")
    with_loss = stable_diffusion(bare)
    save({"state_dict": with_loss}, tmp_path / "with_loss.ckpt")
    for file in ("sd.ckpt", "sd.safetensors", "vae.ckpt", "with_loss.ckpt"):
        model = build(KINDS[kind], seed=1)
        load_weights(model, read_state(tmp_path / file))
        assert all(torch.equal(model.state_dict()[k], v) for k, v in want.items()), file


def test_a_part_is_loaded_strictly_too(tmp_path: Path) -> None:
    """Attention that the config leaves out must not be left out of the file in silence."""
    state = stable_diffusion(build(KINDS["kl-attention"]).state_dict())
    save({"state_dict": state}, tmp_path / "sd.ckpt")
    without = build(kl(channel_mult=[1, 2, 3]))
    with pytest.raises(CheckpointError, match=r"60 unexpected \(encoder\.down\.0\.attn\.0\.norm"):
        load_weights(without, read_state(tmp_path / "sd.ckpt"))
    shallow = build(kl(channel_mult=[1, 2], attn_resolutions=[16]))
    with pytest.raises(CheckpointError, match=r"does not fit the model: .* unexpected"):
        load_weights(shallow, read_state(tmp_path / "sd.ckpt"))


@pytest.mark.parametrize("name", official_names())
def test_first_stages_of_all_published_models(name: str) -> None:
    """Every name and shape of the published files fits, none is left over; without memory."""
    official = official_keys(name)
    params = published_configs()[official["config"]]["model"]["params"]
    params = params.get("first_stage_config", {}).get("params", params)
    with torch.device("meta"):
        model = autoencoder(params)
        state = {key: torch.empty(shape) for key, shape, _ in official["state_dict"]}
    checkpoint = LoadedCheckpoint(Path("model.ckpt"), state, "compvis")
    fitting = fitting_state(model, checkpoint)
    assert {k: v.shape for k, v in fitting.items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


def test_upkeep_of_a_codebook_may_be_absent_on_either_side(tmp_path: Path) -> None:
    plain, kept = KINDS["vq"], KINDS["vq-upkeep"]
    save(build(plain).state_dict(), tmp_path / "plain.safetensors")
    model = build(kept, seed=1)
    model.quantize.idle.fill_(3)
    load_weights(model, read_state(tmp_path / "plain.safetensors"))
    assert (model.quantize.idle == 3).all(), "what the file lacks stays"
    save(model.state_dict(), tmp_path / "kept.safetensors")
    again = build(kept, seed=2)
    load_weights(again, read_state(tmp_path / "kept.safetensors"))
    assert (again.quantize.idle == 3).all()
    other = build(plain, seed=2)
    load_weights(other, read_state(tmp_path / "kept.safetensors"))
    assert torch.equal(other.quantize.embedding.weight, again.quantize.embedding.weight)
    inside = {f"autoencoder.{key}": value for key, value in model.state_dict().items()}
    save(inside | {"denoiser.weight": torch.ones(1)}, tmp_path / "whole.safetensors")
    load_weights(other, read_state(tmp_path / "whole.safetensors"))


def test_averaged_autoencoder(tmp_path: Path) -> None:
    model = build(KINDS["vq"])
    live = model.state_dict() | {"loss.discriminator.main.0.bias": torch.zeros(2)}
    shadow = {"model_ema." + key.replace(".", ""): value + 1 for key, value in live.items()}
    decay = {"model_ema.decay": torch.tensor(0.99), "model_ema.num_updates": torch.tensor(1)}
    save({"state_dict": live | shadow | decay}, tmp_path / "vq.ckpt")
    for ema, shift in ((True, 1.0), (False, 0.0)):
        other = build(KINDS["vq"], seed=1)
        load_weights(other, read_state(tmp_path / "vq.ckpt"), ema)
        for key, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[key], value + shift)


def test_gumbel_autoencoders_are_refused(tmp_path: Path) -> None:
    state = {"encoder.conv_in.weight": torch.ones(1), "quantize.embed.weight": torch.ones(1)}
    save({"state_dict": state}, tmp_path / "gumbel.ckpt")
    with pytest.raises(CheckpointError, match=r"gumbel\.ckpt: quantize\.embed\.weight: a GumbelVQ"):
        load_weights(build(KINDS["vq"]), read_state(tmp_path / "gumbel.ckpt"))


# -- strictness -------------------------------------------------------------------------------


def test_misfits_are_listed(tmp_path: Path) -> None:
    model, path = Small(), tmp_path / "a.pt"
    state = filled(model, 0.0)
    state["denoiser.weight"] = torch.zeros(4, 2)
    del state["autoencoder.bias"]
    state |= {f"extra.{i}": torch.zeros(1) for i in range(12)}
    save(state, path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_weights(model, read_state(path))
    listed = "; ".join(f"extra.{i}" for i in range(10))
    assert str(error.value) == (
        f"{path} does not fit the model: 1 missing (autoencoder.bias), 12 unexpected ({listed}, "
        "...), 1 of another shape (denoiser.weight: (4, 2) in the file, (3, 2) in the model); use "
        "the config that belongs to the checkpoint"
    )
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), "a misfit must not change the model"


# -- old and hostile files --------------------------------------------------------------------


def foreign_class(name: str) -> type:
    """A class in a module that exists while writing only, like callbacks of an old Lightning."""
    module = types.ModuleType("gone_lightning")
    cls = type(name, (), {"__module__": "gone_lightning"})
    setattr(module, name, cls)
    sys.modules["gone_lightning"] = module
    return cls


@pytest.mark.parametrize("zipped", [True, False])
def test_old_lightning_files(tmp_path: Path, zipped: bool) -> None:
    path, callback = tmp_path / "a.ckpt", foreign_class("ModelCheckpoint")
    instance = callback()
    instance.best = torch.ones(2)
    instance.items = OrderedDict(a=[callback()])
    content = {
        "state_dict": OrderedDict(weight=torch.ones(3), bias=nn.Parameter(torch.zeros(3))),
        "callbacks": {callback: {"best_model_path": "x", "object": instance}},
        "hyper_parameters": {"score": np.float32(3), "array": np.arange(3), "path": path},
        "global_step": 9,
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    del sys.modules["gone_lightning"]
    loaded = read_state(path)
    assert loaded.metadata["global_step"] == 9
    torch.testing.assert_close(loaded.state_dict["weight"], torch.ones(3))
    torch.testing.assert_close(loaded.state_dict["bias"], torch.zeros(3))
    assert "gone_lightning" not in sys.modules
    with pytest.raises(CheckpointError, match="holds more than tensors and plain values"):
        load_training_checkpoint(path)


class Hostile:
    """Calls a function when it is unpickled; ``inert``: one that old files may have too."""

    def __init__(self, function: Any, *arguments: Any, inert: bool = False) -> None:
        self.call = (function, arguments)
        self.inert = inert

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["beside", "weights", "key", "all"])
def test_hostile_files_execute_nothing(tmp_path: Path, zipped: bool, place: str) -> None:
    import os

    path, mark = tmp_path / "a.ckpt", tmp_path / "executed"
    for hostile in (
        Hostile(os.system, f"touch {mark}"),
        Hostile(eval, f"open({str(mark)!r}, 'w')"),
        Hostile(exec, f"open({str(mark)!r}, 'w')"),
        Hostile(getattr, Hostile(__import__, "os"), "system"),
        Hostile(open, str(mark), "w"),
        Hostile(Path.touch, mark, inert=True),
        Hostile(torch.load, str(mark)),
    ):
        weights: Any = {"weight": torch.ones(2)}
        content: Any = {
            "beside": {"state_dict": weights, "callbacks": hostile},
            "weights": {"state_dict": weights | {"bias": hostile}},
            "key": {"state_dict": weights, hostile: 1},
            "all": hostile,
        }[place]
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        if not hostile.inert:
            with pytest.raises(CheckpointError, match=r"tries to run code \(.*nothing of it was"):
                read_state(path)
        elif place == "all":
            with pytest.raises(CheckpointError, match="holds no dict of weights"):
                read_state(path)
        else:
            assert read_state(path).state_dict.keys() == {"weight"}
        with pytest.raises(CheckpointError):
            load_training_checkpoint(path)
        assert not mark.exists()


def test_a_pickle_cannot_change_what_it_may_use(tmp_path: Path) -> None:
    """BUILD on an allowed function sets attributes; they must land on a copy of it."""
    from torch._utils import _rebuild_tensor_v2

    class Builds:
        def __reduce__(self) -> Any:
            return "_rebuild_tensor_v2"

    path = tmp_path / "a.pt"
    code = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"  # the function
        b"}X\x05\x00\x00\x00spoilK\x01sb."  # BUILD with {"spoil": 1}
    )
    path.write_bytes(code)
    with pytest.raises(CheckpointError):
        read_state(path)
    assert not hasattr(_rebuild_tensor_v2, "spoil")


def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.jit.script(nn.Linear(1, 1)).save(str(path))
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        read_state(path)


# -- damaged files ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "text", "pickle"])
def test_damaged_files(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    save({"weight": torch.ones(300)}, path)
    content = {
        "truncated": path.read_bytes()[:400],
        "garbage": bytes(range(256)) * 8,
        "empty": b"",
        "text": b"<html>Not found</html>",
        "pickle": pickle.dumps([1, 2]),
    }[damage]
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_state(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files(tmp_path: Path) -> None:
    for read in (read_state, load_training_checkpoint):
        with pytest.raises(CheckpointError, match=r"nix\.ckpt: no such checkpoint file"):
            read(tmp_path / "nix.ckpt")
        with pytest.raises(CheckpointError, match="is a folder; give the checkpoint file in it"):
            read(tmp_path)


def test_files_without_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    for content, message in (
        ([torch.ones(1)], "holds no dict of weights"),
        ({"epoch": 1}, "holds no weights"),
        ({"state_dict": 3}, "its entry 'state_dict' is no dict of weights"),
    ):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=message):
            read_state(path)
    save_file({}, str(tmp_path / "a.safetensors"))
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_state(tmp_path / "a.safetensors")


# -- saving -----------------------------------------------------------------------------------


def test_saving_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "a.ckpt"
    save({"weight": torch.ones(2)}, path)

    def fail(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(CheckpointError, match="disk full"):
        save({"weight": torch.zeros(2)}, path)
    monkeypatch.undo()
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]
    assert (read_state(path).state_dict["weight"] == 1).all()


class Named(OrderedDict[str, Any]):
    """A dict as other libraries have."""


@pytest.mark.parametrize("wrap", [Named, lambda state: {"state_dict": Named(state)}])
def test_a_dict_of_another_class_holds_weights_too(wrap: Any, tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0), "b": torch.ones(())}
    torch.save(wrap(state), tmp_path / "x.ckpt")
    found = read_state(tmp_path / "x.ckpt").state_dict
    assert {name: value.tolist() for name, value in found.items()} == {"a": [0, 1, 2], "b": 1}


def test_a_layout_is_no_code(tmp_path: Path) -> None:
    content = {"state_dict": {"a": torch.ones(2)}, "layout": torch.strided, "n": Named()}
    torch.save(content, tmp_path / "x.ckpt")
    assert set(read_state(tmp_path / "x.ckpt").state_dict) == {"a"}


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 4\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n<?xml version='1.0'?><Error/>", "web page"),
    ],
)
def test_what_stands_in_for_a_file_is_named(
    content: bytes, said: str, suffix: str, tmp_path: Path
) -> None:
    file = tmp_path / f"x{suffix}"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        read_state(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (nn.Linear(2, 2), "save the state_dict"),
        ({"model": {"a": torch.ones(2)}, "step": 3}, "its entries are model, step"),
    ],
)
def test_a_file_without_weights_says_what_it_holds(content: Any, said: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=said):
        read_state(tmp_path / "x.ckpt")
