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
    assert OmegaConf.select(saved, PLACE) == "run://vocab.txt"
    assert saved.data.params.train.params.tokenizer.params.vocab == "run://vocab.txt"
    assert OmegaConf.is_interpolation(saved.task.params, "model")
    assert (run / "files" / "vocab.txt").read_bytes() == VOCAB.read_bytes()
    assert RunFolder(run).status()["files"] == {"words/vocab.txt": "vocab.txt"}
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
    assert status["files"] == {"words/vocab.txt": "vocab.txt"}
    saved: Any = OmegaConf.load(run / "config.yaml")
    assert OmegaConf.select(saved, PLACE) == "run://vocab.txt"


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
    assert OmegaConf.select(OmegaConf.load(run.config), PLACE) == "run://vocab.txt"


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
    others = {"path": "clip", "weights": "clip/model.safetensors", "key": "image", "name": "bert"}
    data = {"root": "${missing}", "vocab": "${model.params.one}", "list": "a/vocab.txt"}
    return OmegaConf.create(
        {"root": "b", "model": {"target": "some.Model", "params": parts | others}, "data": data}
    )


def test_files_are_copied_and_weights_linked(config: DictConfig) -> None:
    Path("run").mkdir()
    packed, brought = pack(config, Path("run"))
    assert brought == {
        "a/vocab.txt": "vocab.txt",
        "b/vocab.txt": "vocab-1.txt",
        "clip": "clip",
        "clip/model.safetensors": "model.safetensors",
    }
    params: Any = OmegaConf.to_container(packed.model.params)
    assert params == {
        "one": "run://vocab.txt",
        "two": "run://vocab-1.txt",
        "again": "run://vocab.txt",
        "path": "run://clip",
        "weights": "run://model.safetensors",
        "key": "image",
        "name": "bert",
    }
    assert OmegaConf.to_container(packed.data) == {
        "root": "${missing}",
        "vocab": "${model.params.one}",
        "list": "run://vocab.txt",
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


def test_equal_files_are_brought_once_and_found_by_their_own_paths(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.txt").write_text("the same")
    run = tmp_path / "run"
    run.mkdir()
    one, two = (str(tmp_path / name / "vocab.txt") for name in ("a", "b"))
    config = OmegaConf.create({"model": {"one": one, "two": two}})
    packed, brought = pack(config, run)
    assert brought == {one: "vocab.txt", two: "vocab.txt"}
    assert packed.model == {"one": "run://vocab.txt", "two": "run://vocab.txt"}
    (run / "files" / ".vocab.txt.tmp").write_text("the same")  # of a writer that was killed
    own = str(run / "files" / "vocab.txt")
    assert with_own_files(config, run, brought).model == {"one": own, "two": own}


def test_encoders_with_the_same_settings_and_other_weights_are_others(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_text(name)
    run = tmp_path / "run"
    run.mkdir()
    config = OmegaConf.create({"model": {"path": str(tmp_path / "a")}})
    _, brought = pack(config, run)
    assert with_own_files(config, run, brought).model.path == str(run / "files" / "a")
    other = OmegaConf.create({"model": {"path": str(tmp_path / "b")}})
    assert with_own_files(other, run, brought) == other


def test_a_word_is_no_path_and_a_name_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("clip", "tokens"):
        Path(name).mkdir()
        Path(name, "vocab.txt").touch()
    Path("run").mkdir()
    model = {"path": "clip", "key": "tokens", "user": "~nobodyhere"}
    config = OmegaConf.create({"name": "clip", "model": model, "data": {"caption": "tokens"}})
    packed, _ = pack(config, Path("run"))
    assert packed == {
        "name": "clip",
        "model": model | {"path": "run://clip"},
        "data": {"caption": "tokens"},
    }


def test_packing_by_another_name_of_the_folder_keeps_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text("{}")
    (tmp_path / "clip" / "model.safetensors").write_text("weights")
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    config = OmegaConf.create({"model": {"path": str(tmp_path / "clip")}})
    pack(config, tmp_path / "runs")
    again = OmegaConf.create({"model": {"path": str(tmp_path / "runs" / "files" / "clip")}})
    packed, brought = pack(again, tmp_path / "link")
    assert (packed.model.path, brought) == ("run://clip", {})
    assert (tmp_path / "runs" / "files" / "clip" / "model.safetensors").read_text() == "weights"


def test_the_value_of_a_resolver_is_brought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words.txt").touch()
    monkeypatch.setenv("WORDS", str(tmp_path / "words.txt"))
    config = OmegaConf.create({"model": {"vocab": "${oc.env:WORDS}", "same": "${model.vocab}"}})
    packed, _ = pack(config, tmp_path)
    raw = OmegaConf.to_container(packed, resolve=False)
    assert raw == {"model": {"vocab": "run://words.txt", "same": "${model.vocab}"}}
