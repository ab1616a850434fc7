"""Configs that came with weights build parts of this library, and nothing else."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import ldm
from ldm.checkpoint import save
from ldm.cli import app
from ldm.compat.moved import MOVED
from ldm.config import instantiate, load_config
from ldm.config.trust import (
    UntrustedError,
    allowed_names,
    lies_beside_weights,
    mark_foreign,
    refuse_foreign,
)
from ldm.errors import CheckpointError
from ldm.evaluation.sources.dataset import open_dataset
from ldm.load.init_from import InitFrom
from ldm.load.model import inline_pretrained, load_model, locate, pretrained, run_config
from ldm.visualization.images import save_png
from tests.experiments import CONFIGS, EXPERIMENTS

HERE = "tests.test_trust"
CALLED: list[str] = []


class Mine(nn.Module):
    """A network of somebody's own."""

    def __init__(self, inner: Any = None) -> None:
        super().__init__()
        CALLED.append("Mine")
        self.layer = nn.Linear(2, 2)


class Items:
    """A data set of somebody's own."""

    def __init__(self, **_: Any) -> None:
        CALLED.append("Items")

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": torch.zeros(3, 8, 8)}


@pytest.fixture(autouse=True)
def _nothing_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LDM_TRUST", raising=False)
    CALLED.clear()


AUTOENCODER = {
    "target": "ldm.autoencoders.AutoencoderKL",
    "params": {
        "embed_dim": 4,
        "architecture": {
            "target": "ldm.autoencoders.Architecture",
            "params": {"channels": 32, "channel_mult": [1], "num_res_blocks": 1, "z_channels": 4},
        },
    },
}
LINEAR = {"target": "torch.nn.Linear", "params": {"in_features": 2, "out_features": 2}}


def folder_with(place: Path, config: Any, weights: Any = None) -> Path:
    """A folder with a config and weights, as somebody gave it away."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config), resolve=False))
    save(weights or {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, place / "model.ckpt")
    return place


def call(target: str, **params: Any) -> dict[str, Any]:
    return {"target": target, "params": params}


TARGETS = {
    "a shell": "os.system",
    "a shell by another name": "posix.system",
    "a process": "subprocess.Popen",
    "code": "builtins.exec",
    "import": "importlib.import_module",
    "a class of one's own": f"{HERE}.Mine",
    "reading pickles": "torch.load",
    "hub": "torch.hub.load",
    "compiling": "torch.utils.cpp_extension.load",
    "partial": "functools.partial",
    "through a module of this library": "ldm.files.os.system",
    "through nodes": "ldm.config.nodes.importlib.import_module",
    "through a public package": "ldm.data.folder.os.system",
    "through a list": "torch.optim.sys.exit",
    "through a public class": "ldm.data.ImageFolder.__init__.__globals__.get",
    "a method": "ldm.denoisers.UNet.load_state_dict",
    "a hidden name": "ldm.load.model._build",
    "building": "ldm.config.instantiate",
    "writing": "ldm.config.save_config",
    "writing files": "ldm.files.write_text",
    "pictures": "ldm.visualization.save_png",
    "loading": "ldm.load.load_model",
    "a config as data": "ldm.evaluation.open_source",
    "training": "ldm.training.train",
    "starting a run": "ldm.training.open_run",
    "a program": "ldm.cli.app.start",
    "a file": "pathlib.Path",
    "an array": "numpy.load",
    "a module": "torch.optim",
    "nothing": "ldm.denoisers.",
    "another case": "LDM.denoisers.UNet",
    "no name": "not a name",
}


@pytest.mark.parametrize("kind", TARGETS)
def test_a_target_from_elsewhere_is_refused_and_named(kind: str, tmp_path: Path) -> None:
    mark = tmp_path / "called"
    node = {"target": TARGETS[kind], "params": {"command": f"touch {mark}"}}
    place = folder_with(tmp_path / "run", {"model": node})
    with pytest.raises(UntrustedError) as caught:
        load_model(place)
    said = str(caught.value)
    assert TARGETS[kind] in said
    assert "model.target" in said
    assert str(place / "config.yaml") in said
    assert "--trust" in said
    assert "trust=True" in said
    assert not mark.exists()


BAD = call(f"{HERE}.Mine")
PLACES: dict[str, Any] = {
    "deep": {"model": call("torch.nn.Sequential", a=[{"b": [[{"c": BAD}]]}])},
    "partial": {"model": {**BAD, "partial": True}},
    "through a reference": {"model": "${x.y}", "x": {"y": BAD}},
    "through a reference to a part": {"model": call("torch.nn.Identity", a="${x}"), "x": [BAD]},
    "a target by reference": {
        "model": {"target": "${x.0}${x.1}", "params": {}},
        "x": [f"{HERE}.", "Mine"],
    },
    "params by reference": {
        "model": {"target": "torch.nn.Identity", "params": "${p}"},
        "p": {"a": BAD},
    },
    "in the original code's": {
        "model": {
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": {"first_stage_config": BAD, "cond_stage_config": BAD, "unet_config": BAD},
        }
    },
    "under plain data": {"model": {"net": BAD}},
    "as the network of a pretrained one": {
        "model": call("ldm.load.pretrained", path=BAD, checkpoint="x.ckpt")
    },
    "under a key of its own": {"model": {**LINEAR, "more": BAD}},
}


@pytest.mark.parametrize("kind", PLACES)
def test_wherever_it_stands(kind: str, tmp_path: Path) -> None:
    place = folder_with(tmp_path / "run", PLACES[kind])
    for build in (
        lambda: load_model(place),
        lambda: load_model(place / "model.ckpt"),
        lambda: load_model(place / "config.yaml", place / "model.ckpt"),
        lambda: locate(place).model(),
        lambda: pretrained(place),
        lambda: instantiate(run_config(place).model),
        lambda: inline_pretrained(
            OmegaConf.create({"m": call("ldm.load.pretrained", path=str(place))})
        ),
        lambda: instantiate(OmegaConf.create(call("ldm.load.pretrained", path=str(place)))),
    ):
        with pytest.raises(UntrustedError):
            build()
    assert not CALLED


def test_with_trust_it_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {f"layer.{name}": value for name, value in nn.Linear(2, 2).state_dict().items()}
    place = folder_with(tmp_path / "run", {"model": BAD}, weights)
    assert isinstance(load_model(place, trust=True), Mine)
    assert isinstance(pretrained(place, trust=True), Mine)
    assert isinstance(locate(place, trust=True).model(), Mine)
    node = call("ldm.load.pretrained", path=str(place))
    assert isinstance(
        instantiate(OmegaConf.create({**call("ldm.load.pretrained", path=str(place), trust=True)})),
        Mine,
    )
    inlined = inline_pretrained(OmegaConf.create({"m": node}), trust=True)
    assert inlined.m.target == f"{HERE}.Mine"
    node["params"]["trust"] = True
    assert inline_pretrained(OmegaConf.create({"m": node})).m.target == f"{HERE}.Mine"
    monkeypatch.setenv("LDM_TRUST", "0")
    with pytest.raises(UntrustedError):
        load_model(place)
    monkeypatch.setenv("LDM_TRUST", "1")
    assert isinstance(load_model(place), Mine)


def test_a_foreign_config_cannot_trust_another(tmp_path: Path) -> None:
    inner = folder_with(tmp_path / "inner", {"model": BAD})
    for target in ("ldm.load.pretrained", "ldm.load.model.pretrained"):
        for trust in (True, "${yes}", 1, "yes"):
            node = call(target, path=str(inner), trust=trust)
            place = folder_with(tmp_path / "outer", {"model": node, "yes": True})
            with pytest.raises(UntrustedError):
                load_model(place)
    assert not CALLED


def test_a_config_of_ones_own_is_free(tmp_path: Path) -> None:
    weights = {f"layer.{name}": value for name, value in nn.Linear(2, 2).state_dict().items()}
    place = folder_with(tmp_path / "run", {"model": BAD}, weights)
    mine = tmp_path / "mine.yaml"
    mine.write_text(OmegaConf.to_yaml({"model": BAD}))
    assert isinstance(load_model(mine, place / "model.ckpt"), Mine)
    assert isinstance(load_model(load_config(mine), place / "model.ckpt"), Mine)


def test_what_lies_beside_weights(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "model.safetensors").touch()
    assert lies_beside_weights(run / "config.yaml")
    assert lies_beside_weights(tmp_path / "flat" / "any.yml")
    assert not lies_beside_weights(tmp_path / "mine.yaml")
    assert lies_beside_weights(tmp_path / "mine.yaml", tmp_path / "weights.x")
    assert not lies_beside_weights(tmp_path / "mine.yaml", run / "checkpoints" / "last.ckpt")
    (tmp_path / "flat" / "link.yaml").symlink_to(tmp_path / "mine.yaml")
    assert lies_beside_weights(tmp_path / "flat" / "link.yaml")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "flat")
    assert lies_beside_weights(link / "any.yml")


def test_files_that_a_foreign_config_is_based_on_are_no_way_around(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(OmegaConf.to_yaml({"model": BAD}))
    place = folder_with(tmp_path / "run", {"base": "../base.yaml"})
    with pytest.raises(UntrustedError, match=r"test_trust\.Mine"):
        load_model(place)


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:HOME}",
        "x ${oc.env:HOME,none} y",
        "${ oc.env : HOME }",
        "${oc.decode:'[1]'}",
        "${oc.create:{target: os.system}}",
        "${oc.dict.values:a}",
        "${oc.${x}:HOME}",
        "${${x}:HOME}",
        "${oc.select:${oc.env:HOME}}",
        "${mine:1}",
    ],
)
def test_references_to_the_environment_are_refused(text: str, tmp_path: Path) -> None:
    for config in (
        {"model": call("torch.nn.Identity", a=text), "x": "env"},
        {"model": call("torch.nn.Identity", a="${b.c}"), "b": {"c": text}, "x": "env"},
        {"model": call("torch.nn.Identity", a="${my-b}"), "my-b": "${c}", "c": [text], "x": "env"},
    ):
        place = folder_with(tmp_path / "run", config)
        with pytest.raises(UntrustedError, match="refers to more than other keys"):
            load_model(place)
    elsewhere = {"model": LINEAR, "data": {"root": text}, "x": "env"}
    assert load_model(folder_with(tmp_path / "other", elsewhere))  # which the model does not need


@pytest.mark.parametrize(
    "text",
    [
        "pipe:touch x",
        "{pipe:touch x,}",
        "p{ip,}e:touch x",
        "https://host/a.tar",
        "s3://bucket/{0..9}.tar",
        "file:/etc/x.tar",
        " PIPE:touch x",
    ],
)
def test_addresses_and_commands_are_no_data(text: str, tmp_path: Path) -> None:
    framing = call("ldm.data.make_framing", size=8)
    for shards in (text, ["a.tar", text]):
        for target in (
            "ldm.data.Shards",
            "ldm.data.shards.Shards",
            "ldm.data.shards.dataset.Shards",
        ):
            data = {"params": {"validation": call(target, shards=shards, framing=framing)}}
            place = folder_with(
                tmp_path / "run", {"data": {"target": "ldm.training.DataModule", **data}}
            )
            with pytest.raises(UntrustedError, match="command or an address"):
                instantiate(run_config(place).data)


def test_endless_configs_end(tmp_path: Path) -> None:
    loop: dict[str, Any] = {"model": call("torch.nn.Identity", a="${x}"), "x": {"y": "${x}"}}
    with pytest.raises(ldm.errors.ConfigError):
        load_model(folder_with(tmp_path / "loop", loop))
    laughs: dict[str, Any] = {f"k{i}": [f"${{k{i + 1}}}"] * 10 for i in range(12)}
    laughs |= {"k12": [1], "model": call("torch.nn.Identity", a="${k0}")}
    with pytest.raises(UntrustedError, match="more than"):
        load_model(folder_with(tmp_path / "laughs", laughs))


def test_texts_that_double_are_refused(tmp_path: Path) -> None:
    laughs: dict[str, Any] = {f"k{i}": f"${{k{i + 1}}}${{k{i + 1}}}" for i in range(60)}
    laughs |= {"k60": "ha", "model": call("torch.nn.Identity", a="${k0}")}
    with pytest.raises(UntrustedError, match="too long a text"):
        load_model(folder_with(tmp_path / "laughs", laughs))
    ordinary = {"model": call("torch.nn.Identity", a="${b}-${b}"), "b": "${c}/${c}", "c": "x"}
    refuse_foreign(run_config(folder_with(tmp_path / "ordinary", ordinary)))


def test_a_model_larger_than_its_weights_takes_no_memory(tmp_path: Path) -> None:
    huge = call("torch.nn.Linear", in_features=10**6, out_features=10**6)  # 4 TB
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_model(folder_with(tmp_path / "run", {"model": huge}))


@pytest.mark.parametrize("name", ["run://../../secret", "run:///etc/passwd", "run://a/../../b"])
def test_files_of_a_run_lie_in_it(name: str, tmp_path: Path) -> None:
    place = folder_with(tmp_path / "run", {"model": call("torch.nn.Identity", a=name)})
    with pytest.raises(ldm.errors.ConfigError, match="leads out of the folder"):
        load_model(place)


def test_weights_alone_are_read_without_the_config(tmp_path: Path) -> None:
    place = folder_with(tmp_path / "run", {"model": BAD})
    assert InitFrom(str(place)).read().state_dict
    assert InitFrom(str(place / "model.ckpt")).read().state_dict
    assert not CALLED


def test_data_of_a_run_is_built_only_with_trust(tmp_path: Path) -> None:
    data = {"data": {"params": {"validation": call(f"{HERE}.Items")}}}
    data["data"]["target"] = "ldm.training.DataModule"  # type: ignore[assignment]
    place = folder_with(tmp_path / "run", {"model": LINEAR, **data})
    with pytest.raises(UntrustedError, match="Items"):
        instantiate(run_config(place).data.params.validation)
    assert load_model(place)
    file = f"{place / 'config.yaml'}#validation"
    with pytest.raises(UntrustedError, match="Items"):
        open_dataset(file)
    (place / "model.ckpt").unlink()  # as of a folder that only samples name
    with pytest.raises(UntrustedError, match="Items"):
        open_dataset(file)
    assert not CALLED
    assert len(open_dataset(file, trust=True)) == 1
    mine = tmp_path / "mine.yaml"
    mine.write_text(OmegaConf.to_yaml(data))
    assert len(open_dataset(str(mine))) == 1


PROGRAMS: dict[str, Callable[[Path], list[str]]] = {
    "sample": lambda run: [str(run), "--out", str(run / "out")],
    "img2img": lambda run: [str(run), str(run.parent / "images"), "--out", str(run / "out")],
    "reconstruct": lambda run: [str(run), str(run.parent / "images"), "--out", str(run / "out")],
    "evaluate_autoencoder": lambda run: [str(run), "--out", str(run / "out")],
    "convert": lambda run: [str(run), "--to", "native", "--out", str(run / "out")],
    "evaluate": lambda run: [str(run), "--num", "1", "--features", str(run), "--real", str(run)],
    "train": lambda run: ["--resume", str(run)],
    "cache_latents": lambda run: [str(run / "config.yaml"), "--out", str(run / "out")],
    "show_data": lambda run: [str(run / "config.yaml"), "--out", str(run / "out.png")],
}
EXPERIMENT = {
    "name": "x",
    "model": BAD,
    "task": call(
        "ldm.training.AutoencoderTask",
        model="${model}",
        objective=call("torch.nn.Identity"),
        optimizer={"target": "torch.optim.SGD", "partial": True},
        discriminator_optimizer={"target": "torch.optim.SGD", "partial": True},
    ),
    "data": {
        "target": "ldm.training.DataModule",
        "params": {
            "batch_size": 1,
            "train": call(f"{HERE}.Items"),
            "validation": call(f"{HERE}.Items"),
        },
    },
    "trainer": {"max_steps": 1},
    "every": {"log": 1, "validation": 1, "checkpoint": 1, "images": 0},
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_refuse_before_anything_is_built(program: str, tmp_path: Path) -> None:
    run = folder_with(tmp_path / "run", EXPERIMENT)
    (run / "checkpoints").mkdir()
    os.rename(run / "model.ckpt", run / "checkpoints" / "last.ckpt")
    (tmp_path / "images").mkdir()
    save_png(torch.zeros(3, 8, 8), tmp_path / "images" / "0.png")
    with pytest.raises(UntrustedError, match="--trust"):
        app.call(program, PROGRAMS[program](run))
    assert not CALLED
    app.parse(program, [*PROGRAMS[program](run), "--trust"])  # which is an option of all


def test_programs_take_a_config_beside_the_weights_for_foreign(tmp_path: Path) -> None:
    run = folder_with(tmp_path / "run", {"model": BAD})
    arguments = [str(run / "model.ckpt"), "--config", str(run / "config.yaml")]
    with pytest.raises(UntrustedError):
        app.call("sample", [*arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(UntrustedError):
        app.call("convert", [*arguments, "--to", "native", "--out", str(tmp_path / "out")])
    assert not CALLED


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_all_configs_of_the_repository_are_allowed(path: Path) -> None:
    refuse_foreign(mark_foreign(load_config(path, complete=False), path))


def test_every_public_name_is_allowed_or_left_out_on_purpose() -> None:
    left_out = {
        *("ldm.training.RunFolder", "ldm.training.open_run", "ldm.training.train"),
        *(f"ldm.load.{name}" for name in ("InitFrom", "Source", "initialise", "locate")),
        *("ldm.load.inline_pretrained", "ldm.load.load_model", "ldm.load.run_config"),
    }
    closed = {"cli", "compat", "config", "evaluation", "programs", "visualization"}
    public = set()
    for file in Path(ldm.__file__).parent.glob("*/__init__.py"):
        for statement in ast.parse(file.read_text()).body:
            named = getattr(statement, "targets", [None])[0]
            if getattr(named, "id", "") == "__all__" and file.parent.name not in closed:
                names = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
                public |= {f"ldm.{file.parent.name}.{name}" for name in names}
    allowed = allowed_names()
    assert left_out == public - allowed.keys()
    assert {"ldm.evaluation.SceneFeatures", "ldm.evaluation.ClassFeatures"} <= allowed.keys()


def test_names_of_the_last_release_are_allowed() -> None:
    allowed = allowed_names()
    parts = {
        old: new
        for old, new in MOVED.items()
        if old.split(".")[1] in {"autoencoders", "conditioners", "data", "denoisers", "diffusion"}
        and not new.startswith("ldm.visualization.")
    }
    assert [new for new in parts.values() if new not in allowed] == []


def test_every_allowed_name_exists() -> None:
    for name in allowed_names():
        module, _, last = name.rpartition(".")
        if module.startswith("torch.") and last in ("Muon", "RMSNorm", "Adafactor"):
            continue  # of newer releases of PyTorch
        found = instantiate({"target": name, "partial": True})
        assert callable(found), name
