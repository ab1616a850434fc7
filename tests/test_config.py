"""Every promise and every message of ldm.config."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from ldm.config import instantiate, load_config, save_config
from ldm.errors import ConfigError, DataError
from ldm.files import write_atomically

HERE = "tests.test_config"


@dataclass
class Engine:
    power: int
    cylinders: int = 4

    def __post_init__(self) -> None:
        if self.power < 0:
            raise ValueError(f"power must not be\nnegative, got {self.power}")


@dataclass
class Car:
    engine: Engine
    wheels: Any = ()


class Garage:
    def __init__(self, folder: str, **options: Any) -> None:
        raise DataError(f"no folder at {folder}")


NOT_CALLABLE = 3


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def car(**engine: Any) -> dict[str, Any]:
    return {
        "target": f"{HERE}.Car",
        "params": {"engine": {"target": f"{HERE}.Engine", "params": engine}},
    }


# -- load_config ------------------------------------------------------------------------------


def test_arguments_of_the_trainer_may_be_added_without_a_plus(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("trainer: {max_steps: 3}\nmodel: {a: 1}\n")
    config = load_config(file, overrides=["trainer.devices=2", "trainer.precision=bf16-mixed"])
    assert config.trainer == {"max_steps": 3, "devices": 2, "precision": "bf16-mixed"}
    with pytest.raises(ConfigError, match="no such key"):
        load_config(file, overrides=["model.b=2"])


def test_later_files_and_overrides_win(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", "a: 1\nb: {c: 1e-4, d: [1, 2]}\n")
    more = write(tmp_path, "more.yaml", "b: {d: [3]}\ne: x\n")
    config = load_config(base, more, overrides=["b.c=3e-4", "+f.g=[1, {h: 2}]", "e=null"])
    assert OmegaConf.to_container(config) == {
        "a": 1,
        "b": {"c": 3e-4, "d": [3]},
        "e": None,
        "f": {"g": [1, {"h": 2}]},
    }


def test_overrides_reach_into_lists_and_through_interpolations(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", "m: {x: 1}\nt: {m: '${m}', l: [{y: 1}, {y: 2}]}\n")
    config = load_config(file, overrides=["t.l.1.y=5", "t.l[0].y=4", "t.m.x=3"])
    assert config.m.x == config.t.m.x == 3
    assert [item.y for item in config.t.l] == [4, 5]


def test_a_changed_target_replaces_the_node_with_its_params(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", "m: {target: a.A, params: {x: 1, y: 2}}\n")
    same = write(tmp_path, "same.yaml", "m: {params: {y: 3}}\n")
    other = write(tmp_path, "other.yaml", "m: {target: a.B, params: {z: 3}}\n")
    assert load_config(base, same).m.params == {"x": 1, "y": 3}
    assert load_config(base, other).m.params == {"z": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1\n", "a.yaml: YAML error in line 3: did not find expected ',' or ']'"),
        ("a: 1\na: 2\n", "a.yaml: YAML error in line 2: found duplicate key a"),
        ("- 1\n", "a.yaml: the top level must be a mapping of keys, not a list"),
        (
            "a: ${\n",
            "a.yaml: a: no viable alternative at input '${'; refer to another key as ${name.of.it}"
            ", and write \\${ where these letters are meant",
        ),
        (
            "a:\n  b: ???\n",
            "a.yaml: a.b: mandatory value is missing (???); give it in a further YAML file or as "
            "a.b=VALUE",
        ),
        (
            "a: ['${nix}']\n",
            "a.yaml: a.0: cannot resolve ${nix}: Interpolation key 'nix' not found; "
            "correct the name or add that key",
        ),
    ],
)
def test_messages_about_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(write(tmp_path, "a.yaml", text))
    assert str(error.value) == f"{tmp_path}/{message}"


def test_the_message_names_the_file_that_has_the_key(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", "a: ???\nb: 1\n")
    more = write(tmp_path, "more.yaml", "b: 2\n")
    with pytest.raises(ConfigError, match=r"base\.yaml: a: mandatory"):
        load_config(base, more)
    assert load_config(base, overrides=["a=1"]).a == 1


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nix\.yaml: no such configuration file"):
        load_config(tmp_path / "nix.yaml")
    with pytest.raises(ConfigError, match="cannot be read as a YAML file"):
        load_config(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(ConfigError, match=r"binary\.yaml"):
        load_config(binary)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.chanels=3",
            "override 'model.chanels=3': no such key; nearest: model.channels, model "
            "(+model.chanels=3 adds it)",
        ),
        (
            "channels=3",
            "override 'channels=3': no such key; nearest: model.channels (+channels=3 adds it)",
        ),
        ("zzz=3", "override 'zzz=3': no such key (+zzz=3 adds it)"),
        ("model", "override 'model': expected key=value"),
        ("=3", "override '=3': expected key=value"),
        (
            "+model.channels.x=3",
            "override '+model.channels.x=3': model.channels is 64, it holds no keys",
        ),
        ("model.channels=[1", "override 'model.channels=[1': while parsing a flow sequence"),
    ],
)
def test_messages_about_overrides(tmp_path: Path, override: str, message: str) -> None:
    file = write(tmp_path, "a.yaml", "model: {channels: 64}\n")
    with pytest.raises(ConfigError) as error:
        load_config(file, overrides=[override])
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_published_files_are_named_after_their_file(tmp_path: Path) -> None:
    node = {"target": "ldm.models.autoencoder.IdentityFirstStage"}
    for name in ("cin256.yaml", "cin256/config.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        OmegaConf.save(OmegaConf.create({"model": node}), tmp_path / name)
        assert load_config(tmp_path / name).name == "cin256"
        assert load_config(tmp_path / name, overrides=["name=x"]).name == "x"


# -- save_config ------------------------------------------------------------------------------


def test_saved_configs_keep_their_links_and_are_whole(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "a.yaml", "a: 1\nb: '${a}'\n"))
    path = tmp_path / "new" / "config.yaml"
    save_config(config, path)
    assert load_config(path, overrides=["a=2"]) == {"a": 2, "b": 2}
    assert [file.name for file in path.parent.iterdir()] == ["config.yaml"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file: Any) -> None:
        file.write(b"half of the new")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# -- instantiate ------------------------------------------------------------------------------


def test_children_are_built_first_and_containers_become_plain() -> None:
    node = car(power=7)
    node["params"]["wheels"] = [1, {"spare": {"target": f"{HERE}.Engine", "params": {"power": 1}}}]
    built = instantiate(OmegaConf.create(node))
    assert built == Car(Engine(7), [1, {"spare": Engine(1)}])
    assert type(built.wheels) is list
    assert type(built.wheels[1]) is dict


def test_plain_values_pass() -> None:
    assert instantiate({"a": [1, None, "x"]}) == {"a": [1, None, "x"]}
    assert instantiate(None) is None


def test_partial() -> None:
    node = {"target": f"{HERE}.Engine", "partial": True, "params": {"cylinders": 8}}
    built = instantiate(node)
    assert isinstance(built, functools.partial)
    assert built(3) == Engine(3, 8)


def test_a_node_reached_twice_is_built_twice() -> None:
    config = OmegaConf.create(
        {"engine": {"target": f"{HERE}.Engine", "params": {"power": 1}}, "both": ["${engine}"] * 2}
    )
    first, second = instantiate(config.both)
    assert first == second
    assert first is not second


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            car(power=1, cylinder=3),
            f"model.params.engine.params.cylinder: unknown key for {HERE}.Engine; did you mean "
            "'cylinders'?; it accepts: power, cylinders",
        ),
        (car(cylinders=3), f"model.params.engine.params: missing key power for {HERE}.Engine"),
        (
            car(power=-1),
            f"model.params.engine: {HERE}.Engine: power must not be negative, got -1",
        ),
        (
            {"target": f"{HERE}.Garage", "params": {"folder": "x", "any": 1}},
            "model: no folder at x",
        ),
        (
            {"target": f"{HERE}.Engin", "params": {}},
            f"model.target: cannot find {HERE}.Engin: {HERE} has no 'Engin'; "
            "did you mean 'Engine'?",
        ),
        (
            {"target": "tests.test_confg.Engine"},
            "model.target: cannot find tests.test_confg.Engine: tests has no 'test_confg'; "
            "did you mean 'test_config'?",
        ),
        (
            {"target": "nowhere.Engine"},
            "model.target: cannot find nowhere.Engine: no module named 'nowhere'; "
            "is the package installed?",
        ),
        ({"target": "Engine"}, "model.target: 'Engine' has no module; write package.module.Engine"),
        (
            {"target": 3},
            "model.target: expected a dotted name like package.module.Class, got 3",
        ),
        (
            {"target": f"{HERE}.NOT_CALLABLE"},
            f"model.target: {HERE}.NOT_CALLABLE is not callable, it is a int",
        ),
        (
            {"target": f"{HERE}.Engine", "power": 3},
            "model.power: unknown key beside 'target'; arguments belong under 'params'",
        ),
        (
            {"target": f"{HERE}.Engine", "params": [3]},
            "model.params: expected a mapping, got [3]",
        ),
        (
            {"target": f"{HERE}.Engine", "partial": 1},
            "model.partial: expected true or false, got 1",
        ),
        ({"params": {}}, "model: 'params' without 'target'; add the dotted name to build"),
        (
            {"x": [{"target": f"{HERE}.Engine"}]},
            f"model.x[0].params: missing key power for {HERE}.Engine",
        ),
    ],
)
def test_messages_of_instantiate(node: Any, message: str) -> None:
    for given in (node, OmegaConf.create({"model": node}).model):
        with pytest.raises((ConfigError, DataError)) as error:
            instantiate(given, "model")
        assert str(error.value) == message


def test_errors_keep_their_class() -> None:
    with pytest.raises(DataError):
        instantiate({"target": f"{HERE}.Garage", "params": {"folder": "x"}})


def test_messages_name_the_place_where_an_interpolated_node_is_written() -> None:
    config = OmegaConf.create(
        {
            "model": {"target": f"{HERE}.Engine", "params": {"powr": 3}},
            "task": {"target": f"{HERE}.Car", "params": {"engine": "${model}"}},
        }
    )
    with pytest.raises(ConfigError, match=r"^model\.params\.powr: unknown key"):
        instantiate(config.task)
    with pytest.raises(ConfigError, match=r"^model\.params\.powr: unknown key"):
        instantiate(config.model)


def test_a_module_that_cannot_be_imported_names_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "broken_module_of_test.py", "import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError) as error:
        instantiate({"target": "broken_module_of_test.A"}, "model")
    assert str(error.value) == (
        "model.target: importing broken_module_of_test failed: "
        "No module named 'nothing_of_that_name'"
    )


def test_published_nodes_are_built_at_any_depth() -> None:
    foreign = {
        "target": "ldm.modules.encoders.modules.ClassEmbedder",
        "params": {"embed_dim": 3, "n_classes": 5},
    }
    built = instantiate(OmegaConf.create({"a": [{"b": foreign}]}))["a"][0]["b"]
    assert type(built).__module__ == "ldm.conditioners.class_label"
    with pytest.raises(ConfigError, match=r"^a\[0\]\.params\.n_class: unknown key of ldm\.modules"):
        instantiate({"a": [{**foreign, "params": {"embed_dim": 3, "n_class": 5}}]})


def test_a_base_file_comes_first(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.yaml").write_text("a: 1\nb: {c: 2, d: 3}\n")
    (tmp_path / "sub" / "middle.yaml").write_text("base: ../base.yaml\nb: {c: 4}\n")
    (tmp_path / "sub" / "top.yaml").write_text("base: middle.yaml\ne: 5\n")
    config = load_config(tmp_path / "sub" / "top.yaml")
    assert config == {"a": 1, "b": {"c": 4, "d": 3}, "e": 5}


def test_bases_in_a_circle_and_missing_bases(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ConfigError, match="circle"):
        load_config(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("base: nowhere.yaml\n")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such configuration file"):
        load_config(tmp_path / "c.yaml")


def test_paths_of_texts_are_found_from_elsewhere_but_not_those_of_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "..")
    for name in ("a/run/files/x.txt", "words.txt", "a/list.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "run" / "config.yaml").write_text(
        "model: {own: 'run://x.txt', absent: files/y.txt, above: words.txt, list: [list.json]}\n"
        "data: {own: 'run://x.txt', above: words.txt, root: files/x.txt}\n"
        "scalar: words.txt\n"
        "clone: {of: data/scenes/vocab.txt, hub: bert-base-uncased, some: no.txt}\n"
    )
    config = load_config(tmp_path / "a" / "run" / "config.yaml")
    own = str(tmp_path / "a" / "run" / "files" / "x.txt")
    assert config.model == {
        "own": own,
        "absent": "files/y.txt",
        "above": str(tmp_path / "words.txt"),
        "list": [str(tmp_path / "a" / "list.json")],
    }
    assert config.data == {"own": own, "above": "words.txt", "root": "files/x.txt"}
    assert config.scalar == "words.txt"
    assert (config.clone.hub, config.clone.some) == ("bert-base-uncased", "no.txt")
    assert Path(config.clone.of).is_file()


@pytest.mark.parametrize("text", ["ema_decay=null", "seed=3", "compile=true", "every.log=1e3"])
def test_keys_of_every_experiment_need_no_plus(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text("name: x\n")
    assert text.partition("=")[0].partition(".")[0] in load_config(
        tmp_path / "a.yaml", overrides=[text]
    )
