"""``convert.py`` as a user types it: every format there and back, and one clear line otherwise."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import ldm.export
from ldm.checkpoint import read_state, save
from ldm.config import instantiate, save_config
from ldm.export import differences, export
from ldm.load.model import load_model
from tests import stable_diffusion
from tests.compat.first_stages import KINDS, build, kl
from tests.scripts.conftest import Outcome
from tests.test_export import LATENT_DIFFUSION

Script = Callable[..., Outcome]
SAME = {"weights": 0.0, "latents": 0.0, "images": 0.0}
FIRST_STAGE = kl(channels=32, channel_mult=[1, 2], norm_groups=32, attn_resolutions=[8])
"""With the groups that the original code has."""
WEIGHTS = "diffusion_pytorch_model.safetensors"


def make_run(folder: Path, model: Any, config: DictConfig) -> Path:
    """A run as training leaves it; the averaged weights are all 1 larger."""
    save_config(config, folder / "config.yaml")
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    shadow = {key: value.detach() + 1 for key, value in model.named_parameters()}
    content = {
        "state_dict": state | {"objective.logvar": torch.zeros(())},
        "ema": {"num_updates": 3, "shadow": shadow},
    }
    for name in ("last", "best"):
        save(content, folder / "checkpoints" / f"{name}.ckpt")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs; tests work on copies."""
    root = tmp_path_factory.mktemp("made")
    first_stages = {"ae": FIRST_STAGE, "small": KINDS["kl"], "wide": kl(embed_dim=3)}
    for name, node in first_stages.items():
        config = OmegaConf.create({"name": name, "model": node, "task": {"model": "${model}"}})
        make_run(root / name, build(node), config)
    identity = {"target": "ldm.autoencoders.AutoencoderIdentity", "params": {}}
    torch.manual_seed(0)
    for name, node in {"ldm": LATENT_DIFFUSION, "identity": identity}.items():
        config = OmegaConf.create({"name": name, "model": node})
        make_run(root / name, instantiate(config.model), config)
    return root


@pytest.fixture
def run_ae(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "ae", tmp_path / "runs" / "ae"))


@pytest.fixture
def run_ldm(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "ldm", tmp_path / "runs" / "ldm"))


def assert_one_line(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1, outcome.err
    for part in parts:
        assert part in outcome.err


def done(outcome: Outcome) -> str:
    assert outcome.code == 0, outcome.err
    return outcome.out


def listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# -- formats ----------------------------------------------------------------------------------


def test_round_of_all_formats(script: Script, run_ae: Path, tmp_path: Path) -> None:
    source = load_model(run_ae)
    steps = [
        ("native", ["config.yaml", "model.safetensors"]),
        ("compvis", ["config.yaml", "model.ckpt"]),
        ("diffusers", ["config.json", WEIGHTS]),
        ("native", ["config.yaml", "model.safetensors"]),
    ]
    before = run_ae
    for i, (format, files) in enumerate(steps):
        out = tmp_path / f"{i}-{format}"
        text = done(script("convert.py", before, "--to", format, "--out", out))
        assert "weights differ by 0, latents differ by 0, images differ by 0" in text
        assert ("scaling_factor 1 in config.json" in text) is (format == "diffusers")
        assert listed(out) == files
        assert differences(source, load_model(out)) == SAME
        before = out
    assert read_state(out / "model.safetensors").metadata == {"format": "pt"}


def test_averages_and_chosen_checkpoints(script: Script, run_ae: Path, tmp_path: Path) -> None:
    live = load_model(run_ae, ema=False)
    arguments = ("convert.py", run_ae, "--to", "native")
    done(script(*arguments, "--out", tmp_path / "live", "--no-ema", "--checkpoint", "best"))
    assert differences(live, load_model(tmp_path / "live")) == SAME
    done(script("convert.py", run_ae / "checkpoints" / "best.ckpt", "--to", "native", "--out",
                tmp_path / "best"))  # fmt: skip
    assert differences(live, load_model(tmp_path / "best"))["weights"] == pytest.approx(1)


def test_checkpoint_file_with_a_config(script: Script, tmp_path: Path) -> None:
    """A first stage in a Stable Diffusion file, with a config that still asks for data."""
    node = KINDS["kl-attention"]
    state = {f"first_stage_model.{key}": v for key, v in build(node).state_dict().items()}
    save({"state_dict": state | {"model.diffusion_model.x": torch.ones(1)}}, tmp_path / "sd.ckpt")
    config = tmp_path / "kl.yaml"
    data = {"data_root": "???", "data": {"root": "${data_root}"}}
    save_config(OmegaConf.create({**data, "model": node}), config)
    arguments = ("convert.py", tmp_path / "sd.ckpt", "--to", "diffusers", "--out", tmp_path / "vae")
    done(script(*arguments, "--scale-factor", 0.18215, "--config", config))
    assert json.loads((tmp_path / "vae" / "config.json").read_text())["scaling_factor"] == 0.18215
    assert differences(build(node), load_model(tmp_path / "vae")) == SAME


@pytest.mark.parametrize("format", ["native", "compvis"])
def test_whole_models(script: Script, run_ldm: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    text = done(script("convert.py", run_ldm, "--to", format, "--out", out))
    config = OmegaConf.create({"model": LATENT_DIFFUSION})
    again = load_model(out) if format == "native" else load_model(config, out / "model.ckpt")
    assert differences(load_model(run_ldm), again) == SAME | {"predictions": 0.0}
    assert ("without config.yaml" in text) is (format == "compvis")


@pytest.mark.parametrize("format", ["native", "diffusers"])
def test_first_stage_of_a_model(script: Script, run_ldm: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    done(script("convert.py", run_ldm, "--to", format, "--part", "autoencoder", "--out", out))
    whole: Any = load_model(run_ldm)
    assert differences(whole.autoencoder, load_model(out)) == SAME
    outcome = script("convert.py", out, "--to", "diffusers", "--out", tmp_path / "vae")
    assert f"scaling_factor {float(whole.scale_factor):g} in config.json" in done(outcome)


@pytest.mark.parametrize(
    ("node", "folders"),
    [
        (stable_diffusion.MODEL, ["scheduler", "text_encoder", "tokenizer", "unet", "vae"]),
        (stable_diffusion.UNCONDITIONAL, ["scheduler", "unet", "vqvae"]),
    ],
)
def test_pipelines_and_their_parts(
    script: Script, tmp_path: Path, node: dict[str, Any], folders: list[str]
) -> None:
    config = OmegaConf.create({"name": "sd", "model": node})
    source = make_run(tmp_path / "run", stable_diffusion.build(node), config)
    out = tmp_path / "pipeline"
    text = done(script("convert.py", source, "--to", "diffusers", "--out", out))
    assert "weights differ by 0, latents differ by 0, images differ by 0, predictions dif" in text
    assert sorted(p.name for p in out.iterdir()) == sorted([*folders, "model_index.json"])
    whole: Any = load_model(source)
    assert differences(whole, load_model(out)) == SAME | {"predictions": 0.0}
    arguments = ("convert.py", out, "--to", "diffusers", "--overwrite", "--out", out.parent / "x")
    done(script(*arguments))
    assert_one_line(
        script(*arguments[:3], "compvis", "--part", "denoiser", "--out", "y"), "compvis"
    )
    for part, network in (("denoiser", whole.denoiser), ("autoencoder", whole.autoencoder)):
        for format in ("diffusers", "native"):
            target = tmp_path / f"{part}-{format}"
            options = ("--part", part, "--to", format, "--out", target)
            done(script("convert.py", out, *options))
            assert set(differences(network, load_model(target)).values()) == {0.0}


def test_pipelines_that_diffusers_lacks(script: Script, tmp_path: Path) -> None:
    node = copy.deepcopy(stable_diffusion.MODEL)
    text = {"vocab_size": 9, "dim": 8, "depth": 1, "length": 3}
    name = "ldm.conditioners.TextTransformer"
    node["params"]["conditioners"] = [{"target": name, "params": text}]
    config = OmegaConf.create({"name": "text", "model": node})
    source = make_run(tmp_path / "run", stable_diffusion.build(node), config)
    outcome = script("convert.py", source, "--to", "diffusers", "--out", tmp_path / "out")
    assert_one_line(outcome, "no pipeline for TextTransformer", "--part autoencoder, --part denoi")
    assert not (tmp_path / "out").exists()


def test_half_precision(script: Script, run_ae: Path, tmp_path: Path) -> None:
    out = tmp_path / "vae"
    options = ("--to", "diffusers", "--dtype", "bfloat16", "--out", out)
    text = done(script("convert.py", run_ae, *options))
    assert read_state(out / WEIGHTS).state_dict["quant_conv.weight"].dtype == torch.bfloat16
    assert "read back, at most: weights differ by 0" in text
    assert "by rounding, at most: weights differ by 0.0" in text


# -- what is never done -----------------------------------------------------------------------


def test_nothing_is_overwritten_by_accident(script: Script, run_ae: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("convert.py", run_ae, "--out", out, "--to")
    done(script(*arguments, "native"))
    assert_one_line(script(*arguments, "diffusers"), "out is there already", "--overwrite")
    assert listed(out) == ["config.yaml", "model.safetensors"]
    done(script(*arguments, "diffusers", "--overwrite"))
    assert listed(out) == ["config.json", WEIGHTS]
    (out / "thesis.txt").write_text("years of work")
    outcome = script(*arguments, "native", "--overwrite")
    assert_one_line(outcome, "is there already, with thesis.txt in it; name a new folder")
    assert listed(out) == ["config.json", WEIGHTS, "thesis.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "runs"]


def test_files_that_hold_another_model_are_not_kept(
    script: Script, run_ae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ldm.export.to_diffusers

    def spoilt(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return real(state) | {"quant_conv.bias": torch.zeros(8)}

    monkeypatch.setattr(ldm.export, "to_diffusers", spoilt)
    outcome = script("convert.py", run_ae, "--to", "diffusers", "--out", tmp_path / "out")
    assert_one_line(outcome, "do not hold the same model", "latents differ by", "nothing was kept")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_numbers_too_large_for_float16(script: Script, run_ae: Path, tmp_path: Path) -> None:
    model = load_model(run_ae)
    model.get_parameter("quant_conv.bias").data[0] = 1e6
    config = OmegaConf.create({"model": FIRST_STAGE})
    export(model, config, tmp_path / "large", "native")
    options = ("--to", "native", "--dtype", "float16", "--out", tmp_path / "out")
    assert_one_line(script("convert.py", tmp_path / "large", *options), "do not hold the same")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("{ldm}", "--to", "compvis", "--part", "denoiser"), ("--part denoiser", "native")),
        (("{ae}", "--to", "native", "--part", "denoiser"), ("there is no denoiser: the source",)),
        (("{ldm}", "--to", "diffusers", "--scale-factor", "2"), ("--scale-factor: a whole model",)),
        (("{ae}", "--to", "native", "--scale-factor", "2"), ("--scale-factor", "leave it out")),
        (("{ae}", "--to", "native", "--config", "x.yaml"), ("--config goes with a checkpoint",)),
        (("{ae}", "--to", "native", "--checkpoint", "none.ckpt"), ("none.ckpt: no such",)),
        (("nowhere", "--to", "native"), ("nowhere: no such run folder or config",)),
        (("{ae}/checkpoints/x.ckpt", "--to", "native"), ("x.ckpt: no such checkpoint file",)),
        (("{small}", "--to", "compvis"), ("norm_groups: the original code has 32 only, not 4",)),
        (("{wide}", "--to", "diffusers"), ("model.params.embed_dim: 3 with z_channels=4",)),
        (("{identity}", "--to", "diffusers"), ("AutoencoderIdentity cannot be exported",)),
    ],
)
def test_wrong_arguments(
    script: Script, made: Path, tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    runs = Path(shutil.copytree(made, tmp_path / "runs"))
    places = {folder.name: folder for folder in runs.iterdir()}
    filled = [argument.format(**places) for argument in arguments]
    outcome = script("convert.py", *filled, "--out", tmp_path / "out")
    assert_one_line(outcome, *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_places_to_write_to(script: Script, run_ae: Path, tmp_path: Path) -> None:
    for out, part in (
        (tmp_path / "x.ckpt", "name a folder, not a file"),
        (run_ae, "is where the source lies"),
        (run_ae / ".." / "ae", "is where the source lies"),
    ):
        assert_one_line(script("convert.py", run_ae, "--to", "native", "--out", out), part)
    (tmp_path / "file").write_text("")
    options = ("--to", "native", "--overwrite", "--out", tmp_path / "file")
    assert_one_line(script("convert.py", run_ae, *options), "is there already")
    (tmp_path / "empty").mkdir()
    done(script("convert.py", run_ae, "--to", "native", "--out", tmp_path / "empty"))
    here = os.getcwd()
    try:
        os.chdir(tmp_path / "empty")
        os.remove("config.yaml")
        os.remove("model.safetensors")
        done(script("convert.py", run_ae, "--to", "native", "--out", "."))
    finally:
        os.chdir(here)
    assert listed(tmp_path / "empty") == ["config.yaml", "model.safetensors"]


def test_of_two_calls_one_writes(script: Script, run_ae: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    holder = (
        "import fcntl, os, sys\n"
        f"os.makedirs({str(tmp_path / '.out.tmp')!r}, exist_ok=True)\n"
        "from pathlib import Path\n"
        "from ldm.locks import sole_writer\n"
        f"with sole_writer(Path({str(tmp_path / '.out.tmp')!r}), True):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        failed = script("convert.py", run_ae, "--to", "native", "--out", out)
        assert failed.code == 2
        assert f"{tmp_path / 'out'} is being written by process" in failed.err
        assert not out.exists()
        other.kill()
    script("convert.py", run_ae, "--to", "native", "--out", out)
    assert load_model(out)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("moment", ["writing", "between the names"])
def test_a_call_that_was_killed_leaves_nothing_half(
    script: Script, run_ae: Path, tmp_path: Path, moment: str
) -> None:
    out, place = tmp_path / "out", tmp_path / ".out.tmp"
    script("convert.py", run_ae, "--to", "compvis", "--out", out)
    (place / "new").mkdir(parents=True)
    (place / "new" / "model.safetensors").write_bytes(b"half")
    if moment == "between the names":
        out.rename(place / "old")
    said = script("convert.py", run_ae, "--to", "native", "--out", out)
    assert said.code == 2
    assert (out / "model.ckpt").exists()  # it has its name back

    script("convert.py", run_ae, "--to", "native", "--out", out, "--overwrite")
    assert sorted(path.name for path in out.iterdir()) == ["config.yaml", "model.safetensors"]
    assert not place.exists()
