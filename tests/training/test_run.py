"""Runs from start to end: folders, resuming, and never mixing two runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from ldm.checkpoint import load_training_checkpoint
from ldm.config import instantiate, load_config
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.errors import CheckpointError, ConfigError
from ldm.load.model import load_model
from ldm.training.callbacks import images
from ldm.training.run import open_run, train
from ldm.training.run_folder import RunFolder
from ldm.training.tasks.autoencoder import AutoencoderTask
from ldm.visualization.curves import draw_curves, read_metrics
from tests.training import tiny

VOCAB = Path(__file__).parents[2] / "data" / "scenes" / "vocab.txt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunFolder]:
    """A finished run of stage 1 and one of stage 2; tests must not change them."""
    root = tmp_path_factory.mktemp("runs")
    first, second = RunFolder(root / "stage1"), RunFolder(root / "stage2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "draw_curves", draw_curves)  # here they are drawn, at the end
        patch.setattr(images.LossCurves, "on_validation_end", lambda *_: None)
        train(tiny.autoencoder(), first)
        train(tiny.text2img(first.path, VOCAB), second)
    return first, second


def _weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_training_checkpoint(folder.last)["state_dict"]


def test_a_run_leaves_all_its_parts(trained: tuple[RunFolder, RunFolder]) -> None:
    for folder in trained:
        assert folder.complete
        assert folder.status()["step"] == 4
        assert folder.last.exists()
        assert folder.last.with_name("best.ckpt").exists()
        assert folder.curves.stat().st_size > 1000
        assert [p.name for p in sorted(folder.samples.iterdir())] == [
            "step-0000002.png",
            "step-0000004.png",
        ]
        assert list((folder.path / "tensorboard").glob("events.*"))


def test_steps_are_counted_in_batches(trained: tuple[RunFolder, RunFolder]) -> None:
    curves = read_metrics(trained[0].metrics)
    assert [step for step, _ in curves["train/rec_loss"]] == [1, 2, 3, 4]
    assert [step for step, _ in curves["train/disc_loss"]] == [3, 4]  # disc_start is 2
    assert [step for step, _ in curves["val/rec_loss"]] == [2, 4]


def test_discriminator_learns_only_from_its_start(tmp_path: Path) -> None:
    states = {}
    for steps in (1, 2, 3):
        config = tiny.autoencoder(trainer={"max_steps": steps})
        folder = RunFolder(tmp_path / str(steps))
        train(config, folder)
        weights = _weights(folder)
        states[steps] = weights["objective.discriminator.main.0.weight"]
    assert torch.equal(states[1], states[2])
    assert not torch.equal(states[2], states[3])


def test_the_first_stage_is_frozen_and_part_of_the_checkpoint(
    trained: tuple[RunFolder, RunFolder],
) -> None:
    first, second = trained
    averaged = load_training_checkpoint(first.last)["ema"]["shadow"]
    weights = _weights(second)
    for name, value in averaged.items():
        assert torch.equal(weights[f"model.autoencoder.{name}"], value)
    assert weights["model.scale_factor"].isfinite()


def test_the_scale_factor_normalises_latents(trained: tuple[RunFolder, RunFolder]) -> None:
    model = load_model(trained[1].path)
    assert isinstance(model, LatentDiffusion)
    config = load_config(trained[1].config)
    config.data.params.train.params.length = 256
    data = instantiate(config.data)
    images = torch.stack([data.train[i]["image"] for i in range(256)])
    assert model.encode(images, torch.Generator().manual_seed(0)).std().item() == pytest.approx(
        1, abs=0.1
    )


def test_a_stage_2_run_needs_no_other_folder(
    trained: tuple[RunFolder, RunFolder], tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained[1].path, moved)
    config = load_config(moved / "config.yaml")
    assert "pretrained" not in OmegaConf.to_yaml(config)
    config.trainer.max_steps = 6
    train(config, RunFolder(moved), resume=True)
    assert RunFolder(moved).status()["step"] == 6
    assert isinstance(load_model(moved), LatentDiffusion)


@pytest.mark.parametrize("stage", [0, 1])
def test_resume_continues_weights_optimiser_and_average(
    trained: tuple[RunFolder, RunFolder], tmp_path: Path, stage: int
) -> None:
    """2 steps and 2 more end where the counters, moments and averages of 4 steps end."""
    config = load_config(trained[stage].config)
    config.trainer.max_steps = 2
    folder = RunFolder(tmp_path / "run")
    if stage == 1:
        config.model.params.autoencoder = {
            "target": "ldm.load.pretrained",
            "params": {"path": str(trained[0].path)},
        }
    train(config, folder)
    before = load_training_checkpoint(folder.last)
    config.trainer.max_steps = 4
    train(config, folder, resume=True)
    after = load_training_checkpoint(folder.last)
    assert (before["global_step"], after["global_step"]) == (2, 4)
    assert (before["ema"]["num_updates"], after["ema"]["num_updates"]) == (2, 4)
    for state in after["optimizer_states"][0]["state"].values():
        assert int(state["step"]) == 4
    steps = [step for step, _ in read_metrics(folder.metrics)["train/lr"]]
    assert steps == [1, 2, 3, 4]


def test_an_exception_leaves_a_checkpoint_to_resume_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = AutoencoderTask.training_step

    def explode(self: AutoencoderTask, batch: Any, index: int) -> None:
        if self.global_step == 3:
            raise MemoryError("no memory")
        original(self, batch, index)

    folder = RunFolder(tmp_path / "run")
    monkeypatch.setattr(AutoencoderTask, "training_step", explode)
    with pytest.raises(MemoryError):
        train(tiny.autoencoder(), folder)
    monkeypatch.undo()
    assert not folder.complete
    said: list[str] = []
    open_run(folder, tiny.autoencoder(), "resume", said.append)
    assert "continuing" in said[0]
    assert folder.complete
    open_run(folder, tiny.autoencoder(), "resume", said.append)
    assert "complete" in said[1]


def test_an_existing_run_is_never_overwritten(trained: tuple[RunFolder, RunFolder]) -> None:
    with pytest.raises(ConfigError, match=r"exists already.*--resume"):
        open_run(trained[0], tiny.autoencoder(), "error", print)


def test_a_run_with_another_config_is_refused(trained: tuple[RunFolder, RunFolder]) -> None:
    config = tiny.autoencoder(seed=7)
    with pytest.raises(ConfigError, match="differs in seed"):
        open_run(trained[0], config, "resume", print)


def test_a_run_on_another_first_stage_is_refused(
    trained: tuple[RunFolder, RunFolder], tmp_path: Path
) -> None:
    first, second = tmp_path / "stage1", RunFolder(tmp_path / "stage2")
    shutil.copytree(trained[0].path, first)
    config = tiny.text2img(first, VOCAB, trainer={"max_steps": 1})
    train(config, second)
    shutil.rmtree(first)
    train(tiny.autoencoder(trainer={"max_steps": 3}), RunFolder(first))
    with pytest.raises(ConfigError, match=r"began with (.*last\.ckpt), .* \1 holds others"):
        open_run(second, config, "resume", print)


def test_resuming_on_another_first_stage_is_refused(
    trained: tuple[RunFolder, RunFolder], tmp_path: Path
) -> None:
    """Its weights are those of the run's own checkpoint, whatever the config names."""
    same, other = tmp_path / "same", tmp_path / "other"
    shutil.copytree(trained[0].path, same)
    shutil.copytree(trained[0].path, other)
    shutil.copy(other / "checkpoints" / "previous.ckpt", other / "checkpoints" / "last.ckpt")
    config = tiny.text2img(Path("${first_stage}"), VOCAB, trainer={"max_steps": 1})
    config.first_stage = str(trained[0].path)
    folder = RunFolder(tmp_path / "run")
    train(config, folder)
    before = folder.status()
    last = Path("checkpoints") / "last.ckpt"

    def resume(**options: Any) -> list[str]:
        said: list[str] = []
        overrides = [f"{key.replace('__', '.')}={value}" for key, value in options.items()]
        train(load_config(folder.config, overrides=overrides), folder, resume=True, say=said.append)
        return said

    for place, names in ((other, trained[0].path / last), (tmp_path / "none", trained[0].path)):
        fault = "holds others" if place.exists() else f"does not exist; the run began with {names}"
        with pytest.raises(ConfigError, match=f"{place / last} .*{fault}"):
            resume(first_stage=place)
        node = f"{{target: ldm.load.pretrained, params: {{path: {place}}}}}"
        with pytest.raises((ConfigError, CheckpointError), match=str(place)):
            resume(model__params__autoencoder=node)
    assert folder.status() == before
    assert resume(first_stage=same, trainer__max_steps=2) == []
    with pytest.raises(ConfigError, match=f"began with {same / last}"):
        resume(first_stage=other)


def test_resume_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoints/last\.ckpt"):
        train(tiny.autoencoder(), RunFolder(tmp_path / "nothing"), resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainer": {"max_stepz": 3}}, r"trainer\.max_stepz"),
        ({"every": {"pictures": 3}}, r"every\.pictures"),
        ({"every": {"images": -1}}, r"every\.images: expected a number of steps"),
        ({"ema_decay": 2}, "^ema_decay: must lie in"),
        ({"ema_decay": "abc"}, "^ema_decay: must lie in"),
        ({"seed": "abc"}, "^seed: expected a whole number"),
        ({"seed": -1}, "^seed: expected a whole number"),
        ({"trainer": {"max_steps": 2.5}}, r"^trainer\.max_steps: expected a whole number"),
        ({"trainer": {"max_epochs": "abc"}}, r"^trainer\.max_epochs: expected a whole number"),
        ({"trainer": {"limit_train_batches": 0}}, r"^trainer\.limit_train_batches: 0 leaves"),
        ({"trainer": {"accumulate_grad_batches": 0}}, r"^trainer\.accumulate_grad_batches"),
        ({"data": {"params": {"num_workers": -1}}}, "num_workers: expected 0, 1"),
        ({"task": {"params": {"gradient_clip": -1}}}, "gradient_clip: expected a number above 0"),
        ({"peak_tflops": -1}, "^peak_tflops: expected a number above 0"),
        ({"profile": {"steps": 0}}, r"^profile\.steps: expected a number of steps"),
        ({"trainer": {"accelerator": "abacus"}}, "trainer: .*abacus"),
        ({"trainer": {"gradient_clip_val": 1}}, r"trainer\.gradient_clip_val"),
        ({"trainer": {"val_check_interval": 1.0}}, r"trainer\.val_check_interval: use every"),
        ({"data": {"params": {"batch_size": 64}}}, "fewer than batch_size 64"),
    ],
)
def test_bad_settings_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train(tiny.autoencoder(**change), RunFolder(tmp_path / "run"))


@pytest.mark.parametrize(
    "config",
    [
        tiny.class2img(trainer={"devices": 3}),
        tiny.autoencoder(trainer={"devices": 2, "accumulate_grad_batches": 4}),
    ],
)
def test_a_batch_that_cannot_be_shared_out_leaves_no_folder(
    tmp_path: Path, config: DictConfig
) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"batch_size 4 is .* divisible by .* = [38]$"):
        train(config, folder)
    assert not folder.path.exists()


def test_the_autoencoder_is_clipped(trained: tuple[RunFolder, RunFolder], tmp_path: Path) -> None:
    """The norm is logged before clipping; with a tiny limit plain SGD hardly moves."""
    assert len(read_metrics(trained[0].metrics)["train/grad_norm"]) == 4
    sgd = {"target": "torch.optim.SGD", "partial": True, "params": {"lr": 1.0}}
    moved = {}
    for clip in (1e-6, 1e-3):
        folder = RunFolder(tmp_path / str(clip))
        config = tiny.autoencoder(trainer={"max_steps": 1})
        config.task.params.optimizer = sgd
        config.task.params.gradient_clip = clip
        start = instantiate(config.model)  # only for its names
        train(config, folder)
        weights = _weights(folder)
        moved[clip] = {name: weights[f"model.{name}"] for name in start.state_dict()}
    distance = sum(
        float((moved[1e-6][name] - moved[1e-3][name]).square().sum()) for name in moved[1e-6]
    )
    assert distance**0.5 == pytest.approx(1e-3, rel=0.02)


def test_an_interrupted_longer_training_is_not_complete(
    trained: tuple[RunFolder, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(trained[0].path, folder.path)

    def explode(*_: Any) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr(AutoencoderTask, "training_step", explode)
    config = load_config(folder.config, overrides=["trainer.max_steps=9"])
    with pytest.raises(MemoryError):
        train(config, folder, resume=True)
    assert not folder.complete


def test_a_moved_run_keeps_its_best_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning knows the best by its old place and would forget how good it was."""
    folder, moved = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "moved")
    train(tiny.autoencoder(), folder)
    best = load_training_checkpoint(folder.checkpoints / "best.ckpt")["global_step"]
    shutil.move(folder.path, moved.path)
    monkeypatch.chdir(tmp_path)
    moved = RunFolder(Path("moved"))  # as it is given on the command line
    config = load_config(moved.config, overrides=["trainer.max_steps=6"])
    config.task.params.optimizer.params.lr = 0.5  # what comes is worse
    train(config, moved, resume=True)
    assert load_training_checkpoint(moved.last)["global_step"] == 6
    assert load_training_checkpoint(moved.checkpoints / "best.ckpt")["global_step"] == best


def test_intervals_may_be_given_to_configs_that_leave_them_out(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    config = tiny.autoencoder()
    del config["every"]
    OmegaConf.save(config, file)
    assert load_config(file, overrides=["every.keep=6", "compile=true"]).every.keep == 6


def test_a_training_that_ran_out_of_time_is_not_complete(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    config = tiny.autoencoder(trainer={"max_steps": 100_000, "max_time": "00:00:00:02"})
    with pytest.raises(KeyboardInterrupt):
        train(config, folder)
    assert folder.status()["state"] == "interrupted"
    step = load_training_checkpoint(folder.last)["global_step"]
    assert 0 < step == folder.status()["step"] < 100_000


def test_ctrl_c_is_recorded_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = AutoencoderTask.training_step

    def stop(self: AutoencoderTask, batch: Any, index: int) -> None:
        if self.global_step == 3:
            raise KeyboardInterrupt
        original(self, batch, index)

    folder = RunFolder(tmp_path / "run")
    monkeypatch.setattr(AutoencoderTask, "training_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tiny.autoencoder(), folder)
    assert folder.status()["state"] == "interrupted"
    monkeypatch.undo()
    train(tiny.autoencoder(), folder, resume=True)
    assert folder.complete


def test_a_run_that_failed_at_once_does_not_stand_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, said = RunFolder(tmp_path / "run"), []

    def explode(*_: Any) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr(AutoencoderTask, "training_step", explode)
    with pytest.raises(MemoryError):
        open_run(folder, tiny.autoencoder(), "error", said.append)
    monkeypatch.undo()
    assert folder.status()["state"] == "failed"
    open_run(folder, tiny.autoencoder(), "error", said.append)
    assert folder.complete
    assert said[-1] == f"{folder.path} failed before its first checkpoint: starting again"
    with pytest.raises(ConfigError, match="exists already"):
        open_run(folder, tiny.autoencoder(), "error", said.append)
