"""A run needs nothing beside its folder: what its model needs besides weights lies in there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from ldm.config import load_config, save_config
from ldm.errors import ConfigError, DataError
from ldm.load.model import load_model, pretrained, run_config
from ldm.load.portable import pack, with_own_files
from ldm.training.run import open_run, train
from ldm.training.run_folder import RunFolder
from tests.scripts.conftest import script
from tests.training import tiny

__all__ = ["script"]
VOCAB = Path(__file__).parents[2] / "data" / "scenes" / "vocab.txt"
WORDS = 116
PLACE = "model.params.conditioners.0.params.tokenizer.params.vocab"


def text2img(vocab: str, **trainer: Any) -> DictConfig:
    """Without a first stage, which would take longer to train than all that is tested."""
    config = tiny.text2img(Path("unused"), Path(vocab))
    params: Any = config.model.params
    params.autoencoder = {"target": "ldm.autoencoders.AutoencoderIdentity", "params": {}}
    params.denoiser.params.in_channels = params.denoiser.params.out_channels = 3
    config.every.images = 0
    config.trainer = {**config.trainer, "max_steps": 2, **trainer}
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps whose vocabulary was named relative to the working directory."""
    root = tmp_path_factory.mktemp("work")
    (root / "words").mkdir()
    shutil.copy(VOCAB, root / "words" / "vocab.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        train(text2img("words/vocab.txt"), RunFolder(Path("runs/text")))
    return root


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, far from the vocabulary, seen from a third place."""
    moved = tmp_path / "far" / "away" / "moved"
    shutil.copytree(trained / "runs" / "text", moved)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return moved


def test_the_config_names_the_copy_relative_to_the_run(run: Path) -> None:
    assert "words" not in (run / "config.yaml").read_text()
    saved: Any = OmegaConf.load(run / "config.yaml")
    assert OmegaConf.select(saved, PLACE) == "files/vocab.txt"
    assert saved.data.params.train.params.tokenizer.params.vocab == "files/vocab.txt"
    assert OmegaConf.is_interpolation(saved.task.params, "model")
    assert (run / "files" / "vocab.txt").read_bytes() == VOCAB.read_bytes()
    assert RunFolder(run).status()["files"] == {"vocab.txt": "words/vocab.txt"}
    assert OmegaConf.select(run_config(run), PLACE) == str(run / "files" / "vocab.txt")


def test_a_moved_run_is_loaded_and_sampled_from(run: Path, script: Callable[..., Any]) -> None:
    model: Any = load_model(run)
    assert model.conditioners[0].tokenizer.vocab_size == WORDS
    assert torch.equal(pretrained(run).denoiser.out[-1].bias, model.denoiser.out[-1].bias)
    outcome = script(
        "txt2img.py", run, "--prompt", "a red circle", "--steps", "2", "--out", run.parent / "out"
    )
    assert outcome.code == 0, outcome.err
    assert (run.parent / "out" / "images" / "00000.png").is_file()


def test_a_moved_run_is_resumed(run: Path, script: Callable[..., Any]) -> None:
    outcome = script("train.py", "--resume", run, "trainer.max_steps=3")
    assert outcome.code == 0, outcome.err
    assert "another run than before" not in outcome.out + outcome.err
    status = RunFolder(run).status()
    assert status["step"] == 3
    assert status["resumes"][0]["changed"] == ["trainer.max_steps"]
    assert status["files"] == {"vocab.txt": "words/vocab.txt"}
    saved: Any = OmegaConf.load(run / "config.yaml")
    assert OmegaConf.select(saved, PLACE) == "files/vocab.txt"


def test_an_exported_model_takes_its_files_along(run: Path, script: Callable[..., Any]) -> None:
    out = run.parent / "exported"
    outcome = script("convert.py", run, "--to", "native", "--out", out)
    assert outcome.code == 0, outcome.err
    shutil.rmtree(run)
    moved = out.rename(out.with_name("renamed"))
    assert load_model(moved).conditioners[0].tokenizer.vocab_size == WORDS  # type: ignore[union-attr, index]


@pytest.mark.parametrize("gone", [False, True])
def test_the_same_config_reuses_the_run(
    trained: Path, tmp_path: Path, gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    if gone:
        shutil.rmtree("words")
    said: list[str] = []
    open_run(RunFolder(Path("runs/text")), text2img("words/vocab.txt"), "resume", said.append)
    assert said == ["runs/text is complete: reusing it"]


def test_another_vocabulary_is_another_config(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    with Path("words/vocab.txt").open("a") as file:
        file.write("green\n")
    with pytest.raises(ConfigError, match=r"it differs in .*tokenizer\.params\.vocab"):
        open_run(RunFolder(Path("runs/text")), text2img("words/vocab.txt"), "resume", print)


def old(run: Path) -> None:
    """Make of a run one of the time before files were copied."""
    config: Any = OmegaConf.load(run / "config.yaml")
    OmegaConf.update(config, PLACE, "words/vocab.txt")
    config.data.params.train.params.tokenizer = config.data.params.validation.params.tokenizer = (
        f"${{{PLACE.removesuffix('.params.vocab')}}}"
    )
    OmegaConf.save(config, run / "config.yaml")
    shutil.rmtree(run / "files")


def test_an_old_run_is_loaded_from_where_it_was_trained_and_from_elsewhere(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    run = tmp_path / "copy" / "runs" / "text"
    old(run)
    for place in (tmp_path / "copy", tmp_path):
        monkeypatch.chdir(place)
        assert load_model(run).conditioners[0].tokenizer.vocab_size == WORDS  # type: ignore[union-attr, index]


def test_an_old_run_gets_its_files_when_it_is_resumed(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    run = RunFolder(Path("runs/text"))
    old(run.path)
    config = load_config(run.config, overrides=["trainer.max_steps=3"])
    train(config, run, resume=True)
    assert run.status()["resumes"][0]["changed"] == ["trainer.max_steps"]
    assert OmegaConf.select(OmegaConf.load(run.config), PLACE) == "files/vocab.txt"


def test_an_error_says_where_a_file_was_looked_for(run: Path) -> None:
    old(run)
    with pytest.raises(DataError, match=r"no vocabulary at words/vocab\.txt.* was looked for in "):
        load_model(run)


# -- pack -------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    """Two files of one name, a folder with settings and weights, words that name a folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/vocab.txt", "b/vocab.txt", "clip/config.json", "clip/model.safetensors"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    Path("clip/README.md").write_text("no setting")
    Path("image").mkdir()
    parts = {"one": "a/vocab.txt", "two": "${root}/vocab.txt", "again": "a/vocab.txt"}
    others = {"clip": "clip", "weights": "clip/model.safetensors", "key": "image", "name": "bert"}
    data = {"root": "${missing}", "vocab": "${model.params.one}", "list": "a/vocab.txt"}
    return OmegaConf.create(
        {"root": "b", "model": {"target": "some.Model", "params": parts | others}, "data": data}
    )


def test_files_are_copied_and_weights_linked(config: DictConfig) -> None:
    Path("run").mkdir()
    packed, brought = pack(config, Path("run"))
    assert brought == {
        "vocab.txt": "a/vocab.txt",
        "vocab-1.txt": "b/vocab.txt",
        "clip": "clip",
        "model.safetensors": "clip/model.safetensors",
    }
    params: Any = OmegaConf.to_container(packed.model.params)
    assert params == {
        "one": "files/vocab.txt",
        "two": "files/vocab-1.txt",
        "again": "files/vocab.txt",
        "clip": "files/clip",
        "weights": "files/model.safetensors",
        "key": "image",
        "name": "bert",
    }
    assert OmegaConf.to_container(packed.data) == {
        "root": "${missing}",
        "vocab": "${model.params.one}",
        "list": "files/vocab.txt",
    }
    assert Path("run/files/vocab-1.txt").read_text() == "b/vocab.txt"
    assert sorted(file.name for file in Path("run/files/clip").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    for link in ("run/files/clip/model.safetensors", "run/files/model.safetensors"):
        assert Path(link).is_symlink()
        assert Path(link).read_text() == "clip/model.safetensors"


def test_what_is_packed_is_packed_again_without_a_change(config: DictConfig) -> None:
    Path("run").mkdir()
    packed, brought = pack(config, Path("run"))
    save_config(packed, "run/config.yaml")
    loaded = load_config("run/config.yaml", complete=False)
    again, nothing = pack(loaded, Path("run"))
    assert (again, nothing) == (packed, {})
    own: Any = with_own_files(config, Path("run"), brought)
    assert own.model == loaded.model
    assert own.data == loaded.data


def test_a_config_without_files_stays_as_it_is(tmp_path: Path) -> None:
    config = OmegaConf.create({"model": {"target": "some.Model", "params": {"key": "image"}}})
    assert pack(config, tmp_path) == (config, {})
    assert list(tmp_path.iterdir()) == []
