"""No wrong config ends in a traceback: one line, exit status 2, nothing written.

Configs are changed by chance (``tests/config_mutations.py``) and go the way that a user's go:
``train --dry-run``, ``show_data``, a protocol of ``evaluate``, a model folder, training itself.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from ldm.cli import app
from ldm.cli.options.evaluation import read_preset
from ldm.config import load_config
from ldm.errors import ConfigError, UserError
from ldm.evaluation.protocol import protocol_from
from ldm.load.model import load_model
from tests.compat.compvis.test_config import experiment, ldm, unet, xattn
from tests.config_mutations import (
    MALFORMED,
    Mutation,
    mutations,
    override_mutations,
    replacements,
)
from tests.experiments import (
    CONFIGS,
    EXPERIMENTS,
    before,
    make_world,
    name_of,
    outside,
    random_data,
    shrunk,
)

QUICK = ("pixel/ddpm-cifar10-class", "laptop/autoencoder", "laptop/text", "laptop/class")
PRESETS = sorted((CONFIGS / "evaluation").glob("*.yaml"))
TOY = CONFIGS / "toy" / "silhouettes.yaml"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")  # names of models that were mutated are not looked up
        yield root


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def small(path: Path, world: Path) -> dict[str, Any]:
    """The plain values of an experiment that builds in a moment."""
    changes = outside(path, world) + before(path, world / "runs", small=True) + shrunk(path)
    config = load_config(path, *random_data(path), overrides=changes)
    tree: Any = OmegaConf.to_container(config)
    return tree


def problem(program: str, arguments: list[str], rehearse: bool = False) -> str | None:
    """How a program ends that must not end so; None: well, or with one line and status 2."""
    try:
        if rehearse:
            app.parse(program, arguments)
        else:
            app.call(program, arguments)
    except UserError as error:
        line = app.one_line(error)
        return None if 5 < len(line) < 6000 else f"a message of {len(line)} letters: {line[:200]}"
    except SystemExit as error:  # of argparse
        return None if error.code == 2 else f"exit status {error.code}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def failures(
    changed: Iterator[Mutation], file: Path, program: str, *options: str, rehearse: bool = False
) -> list[str]:
    """What goes wrong with the changed configs."""
    found = []
    for mutation in changed:
        file.write_text(mutation.text, encoding="utf-8", errors="surrogatepass")
        reason = problem(program, [str(file), *options], rehearse)
        if reason is not None:
            found.append(f"{mutation.what}: {reason}")
    return found


def assert_said(error: UserError, mutation: Mutation) -> None:
    assert str(error), mutation.what


def dry(tmp_path: Path) -> list[str]:
    return ["--dry-run", "--runs", str(tmp_path / "runs")]


SHOW = ("--num", "1", "--seconds", "0")


@pytest.mark.parametrize("name", MALFORMED)
def test_files_that_are_no_config(name: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(MALFORMED[name])
    for program, options in (("train", dry(tmp_path)), ("show_data", list(SHOW))):
        assert problem(program, [str(file), *options]) is None
    with pytest.raises(UserError):
        app.call("train", [str(file), *dry(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("name", QUICK)
def test_changed_configs_are_rehearsed(name: str, world: Path, tmp_path: Path) -> None:
    tree = small(CONFIGS / f"{name}.yaml", world)
    changed = mutations(tree, 12, seed=QUICK.index(name))
    assert not failures(changed, tmp_path / "config.yaml", "train", *dry(tmp_path))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_many_changed_configs_are_rehearsed(path: Path, world: Path, tmp_path: Path) -> None:
    tree, seed = small(path, world), 100 + EXPERIMENTS.index(path)
    file = tmp_path / "config.yaml"
    assert not failures(mutations(tree, 50, seed), file, "train", *dry(tmp_path))
    assert not failures(mutations(tree, 10, seed + 1000), file, "show_data", *SHOW)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("key", ["model", "task.params.optimizer", "trainer", "name"])
def test_some_values_in_a_place(key: str, world: Path, tmp_path: Path) -> None:
    every = list(replacements(small(TOY, world), key))
    some = iter(random.Random(key).sample(every, 15))
    found = failures(some, tmp_path / "config.yaml", "train", *dry(tmp_path), rehearse=True)
    assert not found


@pytest.mark.slow
@pytest.mark.parametrize(
    "key",
    [
        *("model", "task", "data", "trainer", "every", "seed", "ema_decay", "task.target"),
        *("task.params", "task.params.model", "task.params.optimizer", "task.params.lr_schedule"),
        *("task.params.optimizer.params", "task.params.optimizer.params.lr", "trainer.max_steps"),
        *("data.params", "data.params.train", "data.params.batch_size", "model.params.denoiser"),
        *("model.params.conditioners", "model.params.conditioners.0", "model.params.schedule"),
        *("name", "model.params.schedule.params", "model.params.denoiser.target", "model.params"),
    ],
)
def test_all_values_in_all_places(key: str, world: Path, tmp_path: Path) -> None:
    tree = small(TOY, world)
    changed = replacements(tree, key)
    assert not failures(changed, tmp_path / "config.yaml", "train", *dry(tmp_path))


@pytest.mark.parametrize("name", QUICK[:2])
def test_changed_data_are_shown(name: str, world: Path, tmp_path: Path) -> None:
    tree = small(CONFIGS / f"{name}.yaml", world)
    data = {key: value for key, value in tree.items() if key not in ("model", "task", "trainer")}
    assert not failures(mutations(data, 10, 7), tmp_path / "config.yaml", "show_data", *SHOW)


@pytest.mark.parametrize("count", [30, pytest.param(600, marks=pytest.mark.slow)])
def test_command_lines(count: int, world: Path, tmp_path: Path) -> None:
    tree = small(TOY, world)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tree))
    found = []
    for text in override_mutations(tree, count, seed=count):
        reason = problem("train", [str(file), text, *dry(tmp_path)])
        if reason is not None:
            found.append(f"{text}: {reason}")
    assert not found


@pytest.mark.parametrize("count", [25, pytest.param(600, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", [ldm(), xattn(unet())], ids=["unconditional", "conditional"])
def test_changed_configs_of_the_original_code(
    model: dict[str, Any], count: int, tmp_path: Path
) -> None:
    tree = experiment(model, lightning={"trainer": {"benchmark": True}})
    changed = mutations(tree, count, seed=count)
    assert not failures(changed, tmp_path / "config.yaml", "train", *dry(tmp_path))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
@pytest.mark.parametrize("count", [20, pytest.param(400, marks=pytest.mark.slow)])
def test_changed_protocols(path: Path, count: int, tmp_path: Path) -> None:
    tree: Any = OmegaConf.to_container(load_config(path))
    file = tmp_path / "protocol.yaml"
    for mutation in mutations(tree, count, seed=count):
        file.write_text(mutation.text, encoding="utf-8", errors="surrogatepass")
        try:
            found, place = read_preset(str(file))
            protocol_from(found, str(place))
        except UserError as error:
            assert_said(error, mutation)


@pytest.mark.parametrize("count", [15, pytest.param(600, marks=pytest.mark.slow)])
def test_damaged_configs_of_runs(count: int, world: Path, tmp_path: Path) -> None:
    before(CONFIGS / "laptop" / "class.yaml", world / "runs", small=True)
    (run,) = (world / "runs").glob("laptop-autoencoder")
    tree = yaml.safe_load((run / "config.yaml").read_text())
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(run / "model.safetensors")
    for mutation in mutations(tree, count, seed=count):
        text = mutation.text
        (folder / "config.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            load_model(folder)
        except UserError as error:
            assert_said(error, mutation)


WRONG = {
    "task.params.optimizer.params.lr": [-1, float("nan"), float("inf"), "abc", None, [], True],
    "task.params.optimizer.params.betas": [[2, 2], 0.9, [0.9], [-1, 0.5], ["a", "b"], [0.9] * 3],
    "task.params.optimizer.params.eps": [-1, "abc", None, []],
    "task.params.optimizer.params.weight_decay": [-1, "abc", [1]],
    "task.params.optimizer.params.amsgrad": [1, "abc"],
    "task.params.optimizer.partial": [False, "yes", 1],
    "task.params.optimizer.target": [5, {}, "ldm", "os.getcwd", "torch.optim.Nothing", None],
    "task.params.lr_schedule": [3, "cosine", [], {}, {"target": "os.getcwd"}],
    "task.params.lr_schedule.params.warmup_steps": [-1, 1.5, "abc", None],
    "task.params.lr_schedule.params.decay_steps": [-1, "abc"],
    "task.params.lr_schedule.params.end": [-1, float("nan"), float("inf"), "abc"],
    "task.params.gradient_clip": [0, -1, "abc", True, []],
    "task.params.preview_steps": [0, -1, 1.5, "abc"],
    "task.params.scale_factor_samples": [0, -1, "abc"],
    "task.params.on_nonfinite": ["abc", 5],
    "task.params.model": [3, None, [], {"target": "os.getcwd"}, {"target": "torch.nn.Identity"}],
    "model.params.scale_factor": ["abc", 0, -1, float("nan"), float("inf"), []],
    "model.params.loss": ["abc", 5],
    "model.params.autoencoder": [[], None, "runs/x", {"target": "torch.nn.Identity"}],
    "model.params.prediction": [{"target": "torch.nn.Identity"}, "eps", 3],
    "model.params.weighting": [{"target": "builtins.dict"}, 3],
    "model.params.schedule.params.timesteps": [0, -1, 1.5, "abc", 10**30],
    "model.params.schedule.params.kind": ["abc", 5],
    "model.params.conditioners": [3, {}, [3], [{"target": "torch.nn.Identity"}], "abc"],
    "model.params.conditioners.0.params.drop_prob": [-1, 2, "abc", float("nan")],
    "model.params.denoiser.params.dim": [0, -1, "abc", 1.5, 10**30],
    "model.params.denoiser.params.depth": [-1, "abc", 10**12],
    "data.params.batch_size": [0, -1, 1.5, "abc", 10**6, 10**30, True],
    "data.params.num_workers": [-1, 0.5, "abc"],
    "data": [{"target": "builtins.dict"}, {"target": "torch.nn.Identity"}],
    "data.params.train.params.length": [0, -1, "abc", 10**12, 10**30],
    "data.params.train": [{"target": "builtins.int"}, {"target": "torch.nn.Identity"}],
    "ema_decay": [2, -1, 1, "abc", True, [], float("nan")],
    "seed": [-1, 1.5, "abc", None, 2**32, True],
    "compile": ["abc", 1, None],
    "peak_tflops": [0, -1, "abc", float("nan")],
    "profile": ["abc", 3, {"start": -1}, {"begin": 1}],
    "every": [[], 3, None, {"log": 0}, {"images": -1}, {"log": True}, {"often": 1}],
    "trainer.precision": ["nonsense", 7, [], {}],
    "trainer.strategy": ["nonsense", 5, [], {"target": "os.getcwd"}],
    "trainer.accelerator": ["nonsense", 5],
    "trainer.devices": [0, -5, "x", "", 1.5, None, {}],
    "trainer.num_nodes": [0, -1, "x"],
    "trainer.accumulate_grad_batches": [0, -1, "x", 1.5, None],
    "trainer.max_steps": ["x", 1.5, None, -2],
    "trainer.max_time": ["x", [], 1.5],
    "trainer.limit_val_batches": [-1, "x", 1.5],
    "trainer.limit_train_batches": [0, -1, "x", 1.5],
    "trainer.deterministic": ["x", 3],
    "trainer.profiler": ["x", 3],
    "name": [7, None, True, "", ".", "..", "a\nb", "x" * 300, [], {}],
}
"""Values that no run may begin with."""


@pytest.fixture(scope="module")
def toy(world: Path) -> dict[str, Any]:
    """Plain values of a run of two steps that begins at once."""
    tree = small(TOY, world)
    for part in ("train", "validation"):
        tree["data"]["params"][part]["params"]["length"] = 8
    tree["every"] = {"log": 1, "validation": 2, "checkpoint": 2, "images": 0}
    return tree


def with_value(tree: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(tree)
    *above, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    node: Any = changed
    for part in above:
        if isinstance(node, dict):
            node.setdefault(part, {})
        node = node[part]
    node[last] = value
    return changed


@pytest.mark.parametrize("key", WRONG)
def test_training_does_not_begin_with(key: str, toy: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for value in WRONG[key]:
        file.write_text(yaml.safe_dump(with_value(toy, key, value)))
        with pytest.raises(UserError) as error:
            app.call("train", [str(file), "--runs", str(tmp_path / "runs")])
        assert "\n" not in str(error.value), (key, value)
        names = [part for part in key.split(".") if part not in ("params", "target")]
        assert any(name in str(error.value) for name in names[-2:]), (value, str(error.value))
        assert not (tmp_path / "runs").exists(), value


GOOD = {
    "task.params.optimizer.params.lr": [0, 1e-4, 1],
    "task.params.optimizer.params.betas": [[0.9, 0.99], [0.0, 0.5]],
    "task.params.optimizer.params.weight_decay": [0, 0.1],
    "task.params.lr_schedule.params.decay_steps": [0, 1, 1e6],
    "task.params.gradient_clip": [None, 1, 0.5],
    "model.params.scale_factor": [None, 1, 0.2],
    "model.params.weighting": [None],
    "ema_decay": [None, 0, 0.999],
    "trainer.precision": ["32-true", 32, "32", None],
    "trainer.devices": [1, "1"],
    "trainer.max_time": ["00:01:00:00", {"minutes": 5}],
    "trainer.limit_val_batches": [1, 0, 1.0, 0.5, None],
    "trainer.deterministic": [True, "warn"],
    "compile": [False],
    "profile": [None, False],
    "name": ["a", "2024", "A-b_c.d", "caf\u00e9"],
}
"""Values that any run may begin with, some of a kind that is not the usual one."""


@pytest.mark.parametrize("key", GOOD)
def test_nothing_good_is_refused(key: str, toy: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for value in GOOD[key]:
        file.write_text(yaml.safe_dump(with_value(toy, key, value)))
        app.call("train", [str(file), *dry(tmp_path)])


def test_numbers_without_a_point_are_numbers(tmp_path: Path, toy: dict[str, Any]) -> None:
    text = yaml.safe_dump(with_value(toy, "task.params.optimizer.params.lr", "MARK"))
    file = tmp_path / "config.yaml"
    for written in ("1e-4", "1E-4", "1.e-4", ".5", "1", "0.0001"):
        file.write_text(text.replace("MARK", written))
        app.call("train", [str(file), *dry(tmp_path)])
    file.write_text(text.replace("MARK", "'1e-4'"))
    with pytest.raises(ConfigError, match=r"lr: expected a number .*, got '1e-4'"):
        app.call("train", [str(file), *dry(tmp_path)])


def test_a_mutation_is_a_function_of_its_seed(toy: dict[str, Any]) -> None:
    first, again = (list(mutations(toy, 30, seed=5)) for _ in range(2))
    assert first == again
    assert list(override_mutations(toy, 30, 5)) == list(override_mutations(toy, 30, 5))
    assert len({mutation.text for mutation in first}) > 20
    random.seed(0)
    assert first == list(mutations(toy, 30, seed=5))
