"""Training that begins with the weights of another model, from every format, and what is said."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ldm.checkpoint import LoadedCheckpoint, load_training_checkpoint, save
from ldm.config import instantiate
from ldm.errors import CheckpointError, ConfigError
from ldm.export import export
from ldm.load.init_from import InitFrom, Report, initialise
from ldm.training.run import train
from ldm.training.run_folder import RunFolder
from tests import stable_diffusion as sd
from tests.conditioners.clips import OPEN
from tests.scripts.conftest import Outcome
from tests.scripts.conftest import script as script
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("_without_curves")

Script = Callable[..., Outcome]
VOCAB = Path(__file__).parents[1] / "data" / "scenes" / "vocab.txt"


def assert_equal(model: Any, want: dict[str, Tensor]) -> None:
    got = model.state_dict()
    assert got.keys() == want.keys()
    for key, value in want.items():
        assert torch.equal(got[key], value), key


def begin(model: Any, path: Path, partial: bool = False) -> Report:
    return initialise(model, InitFrom(str(path), partial).read(), partial)


# -- formats ----------------------------------------------------------------------------------


def test_stable_diffusion_1(tmp_path: Path) -> None:
    source, model = sd.build(), sd.build(seed=1)
    file = sd.write_checkpoint(tmp_path / "sd.ckpt", source, shift=1.0)
    report = begin(model, file)
    assert_equal(model, source.state_dict() | {"scale_factor": torch.tensor(0.18215)})
    assert report.complete
    assert set(report.loaded) == model.state_dict().keys() - {"scale_factor"}
    assert "betas" in report.ignored
    lines = report.lines()
    count = len(model.denoiser.state_dict())
    assert lines[0].startswith(f"loaded {len(report.loaded)} (denoiser {count}, autoencoder ")
    assert ", conditioners.0 " in lines[0]
    assert "M values" in lines[0]
    assert lines[1].startswith("ignored 13 (betas 1, ")


def test_stable_diffusion_2(tmp_path: Path) -> None:
    """Linear projections, 64 channels a head (here 8), the names of OpenCLIP."""
    node = copy.deepcopy(sd.MODEL)
    node["params"]["denoiser"]["params"] |= {
        "num_heads": -1,
        "num_head_channels": 8,
        "use_linear_in_transformer": True,
    }
    text = {"arch": OPEN, "length": 8}
    clip = {"target": "ldm.conditioners.OpenCLIPText", "params": text}
    node["params"]["conditioners"] = [clip]
    source, model = sd.build(node), sd.build(node, seed=1)
    state = {
        f"model.diffusion_model.{key}": value for key, value in source.denoiser.state_dict().items()
    }
    key = "model.diffusion_model.middle_block.1.proj_in.weight"
    assert state[key].shape == (32, 32)
    state |= {f"first_stage_model.{k}": v for k, v in source.autoencoder.state_dict().items()}
    state |= {f"cond_stage_model.{k}": v for k, v in source.conditioners[0].state_dict().items()}
    assert "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight" in state
    save(state, tmp_path / "v2.safetensors")
    assert begin(model, tmp_path / "v2.safetensors").complete
    assert_equal(model, source.state_dict())


def test_pipeline_and_networks_of_diffusers(tmp_path: Path) -> None:
    source = sd.build()
    export(source, OmegaConf.create({"model": sd.MODEL}), tmp_path, "diffusers")
    model = sd.build(seed=1)
    model.set_scale_factor(3.0)
    assert begin(model, tmp_path).complete
    assert_equal(model, source.state_dict())
    assert len(InitFrom(str(tmp_path)).record()["sha256"]) == 3
    for part, network in (("unet", "denoiser"), ("vae", "autoencoder")):
        for path in (tmp_path / part, tmp_path / part / "diffusion_pytorch_model.safetensors"):
            model = getattr(sd.build(seed=1), network)
            assert begin(model, path).complete
            assert_equal(model, getattr(source, network).state_dict())
            assert len(InitFrom(str(path)).record()["sha256"]) == 1


def test_a_part_of_a_whole_model(tmp_path: Path) -> None:
    source = sd.build()
    file = sd.write_checkpoint(tmp_path / "sd.ckpt", source)
    model = sd.build(seed=1).autoencoder
    report = begin(model, file)
    assert_equal(model, source.autoencoder.state_dict())
    count = len(source.denoiser.state_dict())
    assert f"denoiser {count}, conditioners.0 " in report.lines()[-1]


def test_exported_folders_and_other_checkpoints_of_this_library(tmp_path: Path) -> None:
    source = sd.build()
    config = OmegaConf.create({"model": sd.MODEL})
    export(source, config, tmp_path / "native", "native")
    save(source.state_dict(), tmp_path / "alone.safetensors")
    average = {f"denoiser.{k}": v + 1 for k, v in source.denoiser.named_parameters()}
    content = {
        "state_dict": {f"model.{key}": value for key, value in source.state_dict().items()}
        | {"objective.logvar": torch.zeros(())},
        "ema": {"num_updates": 3, "shadow": average},
    }
    save(content, tmp_path / "training.ckpt")
    for name in ("native", "alone.safetensors", "training.ckpt"):
        model = sd.build(seed=1)
        report = begin(model, tmp_path / name)
        assert report.complete
        assert report.ignored == (["objective.logvar"] if name == "training.ckpt" else [])
        want = source.state_dict() | (average if name == "training.ckpt" else {})
        assert_equal(model, want)


def test_on_the_meta_device_only_the_report_is_made(tmp_path: Path) -> None:
    file = sd.write_checkpoint(tmp_path / "sd.ckpt", sd.build())
    with torch.device("meta"):
        model: Any = instantiate(sd.MODEL)
    assert begin(model, file).complete


# -- strictness -------------------------------------------------------------------------------


def misfits(tmp_path: Path) -> Path:
    """One weight missing, one of another shape, twelve surplus."""
    state = dict(sd.build().state_dict())
    del state["denoiser.out.2.bias"]
    state["denoiser.input_blocks.0.0.weight"] = torch.zeros(16, 9, 3, 3)
    state |= {f"conditioners.1.x{i}": torch.zeros(1) for i in range(12)}
    save(state, tmp_path / "odd.ckpt")
    return tmp_path / "odd.ckpt"


def test_strict_by_default(tmp_path: Path) -> None:
    file, model = misfits(tmp_path), sd.build(seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        begin(model, file)
    listed = ", ".join(f"conditioners.1.x{i}" for i in range(10))
    assert str(error.value) == (
        f"{file} does not fit the model: new 1 (denoiser 1): denoiser.out.2.bias; new, of another "
        "shape in the file 1 (denoiser 1): denoiser.input_blocks.0.0.weight (16, 9, 3, 3) for "
        f"(16, 4, 3, 3); not used, unknown to the model 12 (conditioners.1 12): {listed}, ... - "
        "use a config that fits, or load what fits with --init-partial"
    )
    assert_equal(model, before)


def test_partial_only_on_request(tmp_path: Path) -> None:
    file, model, source = misfits(tmp_path), sd.build(seed=1), sd.build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = begin(model, file, partial=True)
    assert not report.complete
    assert report.new == ["denoiser.out.2.bias"]
    kept = ("denoiser.out.2.bias", "denoiser.input_blocks.0.0.weight")
    assert_equal(model, source.state_dict() | {key: before[key] for key in kept})


def test_another_noise_schedule(tmp_path: Path) -> None:
    node = copy.deepcopy(sd.MODEL)
    node["params"]["schedule"]["params"]["end"] = 0.02
    file = sd.write_checkpoint(tmp_path / "sd.ckpt", sd.build())
    with pytest.raises(CheckpointError, match="its noise schedule differs from the config's"):
        begin(sd.build(node), file)
    assert begin(sd.build(node), file, partial=True).complete


def test_nothing_in_common(tmp_path: Path) -> None:
    save({"bert.x": torch.ones(1)}, tmp_path / "bert.bin")
    for partial in (False, True):
        with pytest.raises(CheckpointError, match=r"bert\.bin has no weight of this model"):
            begin(sd.build(), tmp_path / "bert.bin", partial)
    with pytest.raises(CheckpointError, match="nowhere: no such checkpoint file"):
        begin(sd.build(), tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="has no checkpoints"):
        begin(sd.build(), tmp_path)


def test_the_other_order_of_attention_is_refused() -> None:
    node = copy.deepcopy(sd.UNCONDITIONAL)
    node["params"]["denoiser"]["params"]["use_new_attention_order"] = True
    state = dict(sd.build(sd.UNCONDITIONAL).state_dict())
    checkpoint = LoadedCheckpoint(
        Path("unet"), state, "native", metadata={"attention_order": "by head"}
    )
    with pytest.raises(CheckpointError, match="has use_new_attention_order=True; leave that out"):
        initialise(sd.build(node), checkpoint)
    assert initialise(sd.build(sd.UNCONDITIONAL), checkpoint).complete


def test_scale_factor_to_be_measured_stays_so(tmp_path: Path) -> None:
    node = copy.deepcopy(sd.MODEL)
    node["params"]["scale_factor"] = None
    file = sd.write_checkpoint(tmp_path / "sd.ckpt", sd.build())
    model = sd.build(node)
    assert begin(model, file).complete
    assert not model.has_scale_factor


# -- train.py ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    train(tiny.autoencoder(name="ae", trainer={"max_steps": 1}), RunFolder(root / "ae"))
    train(tiny.text2img(root / "ae", VOCAB, trainer={"max_steps": 1}), RunFolder(root / "text"))
    return root


def write(config: DictConfig, path: Path) -> Path:
    path.write_text(OmegaConf.to_yaml(config))
    return path


def assert_one_line(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 2
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, outcome.err
    for part in parts:
        assert part in lines[0], f"{part!r} is not in {lines[0]!r}"


def averages(run: Path) -> dict[str, Tensor]:
    shadow: dict[str, Tensor] = load_training_checkpoint(RunFolder(run).last)["ema"]["shadow"]
    return shadow


def test_fine_tuning_a_run(script: Script, runs: Path, tmp_path: Path) -> None:
    """With a learning rate of zero a run keeps the averaged weights that it began with."""
    changes = {"name": "tuned", "trainer": {"max_steps": 2}}
    config = tiny.text2img(runs / "ae", VOCAB, **changes)
    config.task.params.optimizer.params.lr = 0.0
    config.task.params.optimizer.params.weight_decay = 0.0
    file = write(config, tmp_path / "config.yaml")
    arguments = ("train.py", file, "--runs", tmp_path)
    outcome = script(*arguments, "--init-from", runs / "text")
    assert outcome.code == 0, outcome.err
    assert f"initialised from {runs / 'text'}\n  loaded " in outcome.out
    assert "  new " not in outcome.out
    before, after = averages(runs / "text"), averages(tmp_path / "tuned")
    assert before.keys() == after.keys()
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=1e-7)
    saved = load_training_checkpoint(tmp_path / "tuned" / "checkpoints" / "last.ckpt")
    assert saved["global_step"] == 2
    status = json.loads((tmp_path / "tuned" / "status.json").read_text())
    assert status["init_from"]["checkpoint"] == str(runs / "text")
    assert not status["init_from"]["partial"]

    outcome = script("train.py", "--resume", tmp_path / "tuned", "trainer.max_steps=3")
    assert outcome.code == 0, outcome.err
    assert "initialised" not in outcome.out
    status = json.loads((tmp_path / "tuned" / "status.json").read_text())
    assert (status["step"], status["init_from"]["checkpoint"]) == (3, str(runs / "text"))

    again = (*arguments, "--if-exists", "resume", "trainer.max_steps=3")
    same = script(*again, "--init-from", runs / "text" / "checkpoints" / "last.ckpt")
    assert same.code == 0, same.err
    assert "is complete: reusing it" in same.out
    for other in ((), ("--init-from", runs / "text", "--init-partial")):
        assert_one_line(script(*again, *other), f"tuned began with those of {runs / 'text'}, not")
    outcome = script("train.py", write(tiny.autoencoder(name="ae"), tmp_path / "ae.yaml"),
                     "--runs", runs, "--if-exists", "resume", "trainer.max_steps=1",
                     "--init-from", runs / "ae")  # fmt: skip
    assert_one_line(outcome, "ae began with weights of its own, not with what --init-from says")


def test_an_autoencoder_out_of_a_whole_model(script: Script, runs: Path, tmp_path: Path) -> None:
    file = write(tiny.autoencoder(trainer={"max_steps": 1}), tmp_path / "config.yaml")
    outcome = script("train.py", file, "--runs", tmp_path, "--init-from", runs / "text")
    assert outcome.code == 0, outcome.err
    assert "ignored" in outcome.out
    assert "denoiser " in outcome.out


def test_nothing_is_written_for_a_misfit(script: Script, runs: Path, tmp_path: Path) -> None:
    config = tiny.text2img(runs / "ae", VOCAB, trainer={"max_steps": 1})
    config.model.params.denoiser.params.use_linear_in_transformer = True
    arguments = ("train.py", write(config, tmp_path / "c.yaml"), "--runs", tmp_path)
    chosen = ("--init-from", runs / "text")
    assert_one_line(script(*arguments, *chosen), "proj_in.weight (8, 8, 1, 1) for (8, 8)")
    assert_one_line(script(*arguments, *chosen, "--dry-run"), "does not fit the model: new, of ano")
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]
    outcome = script(*arguments, *chosen, "--init-partial")
    assert outcome.code == 0, outcome.err
    assert "new, of another shape in the file" in outcome.out


def test_wrong_arguments(script: Script, runs: Path, tmp_path: Path) -> None:
    file = write(tiny.autoencoder(), tmp_path / "c.yaml")
    for arguments, part in (
        ((file, "--init-partial"), "--init-partial goes with --init-from"),
        (("--resume", runs / "ae", "--init-from", runs / "ae"), "leave out --init-from"),
        ((file, "--init-from", tmp_path / "x.ckpt"), "x.ckpt: no such checkpoint file"),
        ((file, "--init-from", tmp_path), "has no checkpoints/last.ckpt"),
    ):
        assert_one_line(script("train.py", *arguments, "--runs", tmp_path), part)
    outcome = script("train.py", file, "--init-from", runs / "ae", "--dry-run", "--runs", tmp_path)
    assert outcome.code == 0
    assert "initialised from" in outcome.out
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_a_folder_without_anything_to_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    with pytest.raises((ConfigError, CheckpointError)) as error:
        InitFrom(str(tmp_path)).read()
    assert "\n" not in str(error.value)
