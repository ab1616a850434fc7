"""``key=value`` means what was typed: texts stay texts, and files are files."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from ldm.cli import app
from ldm.cli.options.configs import read_config, split_config
from ldm.cli.protocol import _weights
from ldm.config import load_config, save_config
from ldm.config.overrides import override
from ldm.errors import ConfigError, UserError

CONFIG = """
name: x
data_root: ???
weights: openai
size: 4
either: keep
mixed: some
seed: 0
folder:
  target: ldm.data.ImageFolder
  params: {root: "${data_root}", size: 8, resize: "${either}", captions: auto}
other: {target: ldm.data.ImageFolder, params: {root: "${data_root}/more", size: "${size}"}}
clip: {target: ldm.conditioners.OpenCLIPText, params: {arch: ViT-L-14, pretrained: "${weights}"}}
boxes: {target: ldm.data.CocoBoxes, params: {root: a, annotations: [a.json], keep: null}}
trainer: {max_steps: 4, devices: auto}
"""
TYPED = (
    *("007", "2024", "on", "off", "yes", "NO", "true", "null", "~", "1e3", "1_0", "0x10", ".nan"),
    *("12:30:45", "2024-01-05", "a=b", "=", "a: b", "a:", "#a", "a #b", "[a]", "[a", "{a: 1}", "{"),
    *("a,b", ",", "-x", "- x", "-", "~x", "*x", "&x", "&x y", "!x", "!!int 3", "? a", "|", "> x"),
    *(
        "%x",
        "@x",
        "`x",
        "'x",
        '"x',
        "x'",
        " x",
        "x ",
        "a  b",
        "",
        "é日本",
        "caf\udce9",
        "a\tb",
        ":",
    ),
)
"""What YAML reads as something else, or not at all."""
TEXTS = ("name", "data_root", "folder.params.root", "other.params.root", "boxes.params.root")
"""Keys of text: by name, through interpolations, by the annotation of the parameter."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    file = tmp_path_factory.mktemp("configs") / "config.yaml"
    file.write_text(CONFIG)
    return load_config(file, overrides=["data_root=there"])


def value(config: DictConfig, key: str, typed: str) -> Any:
    changed = copy.deepcopy(config)
    override(changed, f"{key}={typed}")
    return OmegaConf.select(changed, key.removeprefix("+"))


@pytest.mark.parametrize("key", TEXTS)
def test_text_is_taken_as_typed(config: DictConfig, key: str) -> None:
    assert [value(config, key, typed) for typed in TYPED] == list(TYPED)


def test_text_survives_the_saved_file(tmp_path: Path) -> None:
    file = tmp_path / "saved.yaml"
    save_config(OmegaConf.create({"texts": list(TYPED)}), file)
    assert list(load_config(file).texts) == list(TYPED)
    file.read_text(encoding="utf-8")  # whatever the names, the file is text


@pytest.mark.parametrize("key", TEXTS)
@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_are_not_part_of_the_text(config: DictConfig, key: str, quote: str) -> None:
    for typed in ("007", "on", "null", "a b", "a: b"):
        assert value(config, key, f"{quote}{typed}{quote}") == typed


def test_texts_that_may_be_absent_can_be_switched_off(config: DictConfig) -> None:
    for key in ("weights", "clip.params.pretrained"):
        for typed in TYPED:
            expected = None if typed in ("null", "~", "") else typed
            assert value(config, key, typed) == expected


def test_elsewhere_yaml_decides(config: DictConfig) -> None:
    for change, expected in {
        "either=128": 128,  # a number or a word
        "either=keep": "keep",
        "folder.params.resize=null": None,
        "size=16": 16,
        "seed=007": 7,
        "trainer.devices=2": 2,
        "trainer.max_steps=1e3": 1000.0,
        "clip.params.arch={width: 3}": {"width": 3},
        "mixed=[a, 1]": ["a", 1],  # nothing says that it is a text
        "mixed=null": None,
        "mixed=007": "007",
        "boxes.params.annotations=[007, 2024.json, on]": ["007", "2024.json", "on"],
        "boxes.params.annotations.0=007": "007",
        "+folder.params.classes=007": "007",
        "+more=007": 7,
    }.items():
        typed = change.partition("=")[2]
        found = value(config, change.partition("=")[0], typed)
        assert found == expected, change
        assert type(found) is type(expected) or OmegaConf.is_config(found), (change, typed)


@pytest.mark.parametrize("typed", ["007", "2024", "on", "no", "1e3", "12:30:45", ".inf"])
def test_a_file_is_told_that_quotes_are_missing(tmp_path: Path, typed: str) -> None:
    file = tmp_path / "config.yaml"
    for text, place in (
        (f"name: {typed}", "name"),
        (
            f"a: {{target: ldm.data.ImageFolder, params: {{root: {typed}, size: 8}}}}",
            "a.params.root",
        ),
        (
            f"r: {typed}\na: {{target: ldm.data.ImageFolder, params: {{root: '${{r}}', size: 8}}}}",
            "a.params.root",
        ),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=f"^{place}: expected text.*quotes"):
            load_config(file)
        file.write_text(text.replace(typed, f"'{typed}'", 1))
        load_config(file)


@pytest.mark.parametrize(
    "text",
    ["[" * 5000 + "]" * 5000, "a: &a [*a]", "a: !!python/object:os.system x", "a: \x00", "5"],
)
def test_yaml_that_cannot_be_read_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(file))) as error:
        load_config(file)
    assert "\n" not in str(error.value)


def test_a_config_is_no_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="named pipe"):
        load_config(tmp_path / "config.yaml")


# -- names of runs ----------------------------------------------------------------------------


def parsed(*arguments: str) -> Any:
    return app.parse("train", list(arguments))


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    repository = Path(__file__).parents[2]
    file = tmp_path / "mine.yaml"
    file.write_text(f"base: {repository / 'configs/quickstart/autoencoder.yaml'}\n")
    return file


@pytest.mark.parametrize(
    "name", ["007", "on", "null", "a=b", "a: b", "[a", "#a", "-x", " x", "é日本", "caf\udce9", "'x"]
)
def test_runs_may_have_odd_names(experiment: Path, name: str) -> None:
    options = parsed(str(experiment), f"name={name}", "--runs", "there")
    assert options.folder == Path("there") / name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("  ", "empty"),
        (".", "dot"),
        ("..", "dot"),
        (".hidden", "dot"),
        ("a/b", "holds a /"),
        ("/", "holds a /"),
        ("../a", "dot"),
        ("a\tb", "control"),
        ("a\nb", "control"),
        ("a\x7f", "control"),
        ("x" * 256, "255 bytes"),
        ("é" * 128, "255 bytes"),
    ],
)
def test_names_that_no_folder_can_have(experiment: Path, name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as error:
        parsed(str(experiment), f"name={name}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ['"a\\0b"', '"\\ud800"', "null", "[a]", "{a: 1}", '""'])
def test_names_of_files_that_no_folder_can_have(experiment: Path, text: str) -> None:
    experiment.write_text(experiment.read_text() + f"name: {text}\n")
    with pytest.raises(ConfigError):
        parsed(str(experiment))


# -- files and overrides ----------------------------------------------------------------------


def test_a_file_that_is_there_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("lr=0.1/config.yaml", "a=b/c=d/x.yml", "plain.yaml", "lr=1.yaml", "=.yaml", "a=b/text")
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("a: 1\n")
        for spelt in (name, f"./{name}", str(tmp_path / name)):
            assert split_config([spelt, "a=2"]) == ([spelt], ["a=2"])


@pytest.mark.parametrize(
    ("item", "file"),
    [
        ("a=1", False),
        ("a.b=1", False),
        ("a.0.b=1", False),
        ("a[0].b=1", False),
        ("+a.b=c/d.yaml", False),
        ("a=b/c.yaml", False),  # as weights=vocabulary.yaml
        ("a=" + "x" * 5000, False),
        ("größe=1", False),
        ("a-b=1", False),
        ("runs/lr=0.1/config.yaml", True),
        ("./lr=0.1/config.yaml", True),
        ("/runs/a=b", True),
        ("../a=b.yml", True),
        ("~/lr=0.1/a.yaml", True),
        ("0.1=lr.yaml", True),
        ("my file=1.yaml", True),
        ("=x", False),  # load_config says what is wrong
        ("x" * 5000, True),
        ("a.yaml", True),
        ("a", True),
    ],
)
def test_what_is_not_there_is_told_by_its_form(
    item: str, file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert split_config([item]) == (([item], []) if file else ([], [item]))


@pytest.mark.parametrize("item", ["~a", "~a.b", "~a.b=3", "++a=1", "++a.b=x.yaml"])
def test_what_other_programs_take_is_named(item: str) -> None:
    with pytest.raises(UserError, match="give"):
        split_config([item])


def test_every_program_finds_the_config_in_a_folder_with_an_equals_sign(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(experiment.parent)
    Path("lr=0.1").mkdir()
    file = "lr=0.1/config.yaml"
    experiment.rename(file)
    Path("model.ckpt").write_bytes(b"?")
    assert parsed(file, "name=a=b").folder == Path("runs/a=b")
    for name, arguments in (
        ("show_data", [file]),
        ("convert", ["model.ckpt", "--config", file, "name=x", "--to", "native", "--out", "o"]),
        ("evaluate_autoencoder", ["model.ckpt", "--config", file, "name=x"]),
        ("sample", ["model.ckpt", "--config", file, "name=x"]),
        ("reconstruct", ["model.ckpt", "model.ckpt", "--config", file]),
    ):
        app.check(name, app.parse(name, arguments))
    for name, arguments in (
        ("sample", ["model.ckpt", "--config", "runs/a=b/config.yaml"]),
        ("train", ["lr=0.2/config.yaml"]),
        ("train", [file, "lr=0.2/config.yaml"]),
    ):
        with pytest.raises(UserError, match=r"no such|give a config file"):
            app.check(name, app.parse(name, arguments))


def test_weights_of_a_network_may_lie_in_such_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=1").mkdir()
    Path("lr=1/w.pt").touch()
    assert _weights(["lr=1/w.pt"], ["inception"]) == {"inception": "lr=1/w.pt"}
    assert _weights(["runs/a=b=w.pt"], ["runs/a=b", "c"]) == {"runs/a=b": "w.pt"}
    assert _weights(["inception=lr=1/w.pt"], ["inception"]) == {"inception": "lr=1/w.pt"}
    with pytest.raises(UserError, match="the networks are"):
        _weights(["vgg=w.pt"], ["inception"])


@pytest.mark.parametrize("name", ["lr=0.1/gone.yaml", "a=b.yml", "name=x.YAML"])
def test_a_lone_file_that_is_absent_is_named(name: str) -> None:
    with pytest.raises(UserError, match=rf"{re.escape(name)}: no such file"):
        read_config([name])
