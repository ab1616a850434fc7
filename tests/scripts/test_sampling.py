"""sample.py: counts, labels, npz, processes, kills; what all sampling scripts share."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.scripts.conftest import SCRIPTS
from tests.scripts.small_runs import small_run

FAST = ("--steps", "3", "--batch-size", "4")
ROOT = SCRIPTS.parent


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run("class/cin256", tmp_path_factory.mktemp("class"), "num_classes=3")


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run("unconditional/celebahq-ldm-4", tmp_path_factory.mktemp("free"))


def pictures(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((out / "images").glob("*.png"))}


def arrays(out: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(f)) for f in sorted((out / "images").glob("*.png"))])


def record(out: Path) -> dict:
    return json.loads((out / "samples.json").read_text())


def test_exactly_as_many_and_all_in_an_npz(script, classes: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out, npz = tmp_path / "out", tmp_path / "all.npz"
    options = (*FAST, "--num-images", "7", "--npz", npz, "--out", out)
    assert script("sample.py", classes, *options).code == 0
    made = arrays(out)
    assert len(made) == 7
    with np.load(npz) as stored:
        assert stored["arr_0"].dtype == np.uint8
        assert (stored["arr_0"] == made).all()
        assert stored["arr_1"].tolist() == [0, 1, 2, 0, 1, 2, 0]  # uniform
    assert [e["seed"] for e in record(out)["samples"]] == list(range(7))
    assert len({made[k].tobytes() for k in range(7)}) == 7
    settings = record(out)["settings"]
    assert (
        settings["sampler"] | {"steps": 3, "eta": 0.0, "spacing": "uniform"}
        == (settings["sampler"])
    )
    assert len(settings["checkpoint_sha256"]) == 64


def test_bytes_without_the_fraction(script, free: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """PNG and npz alike; many values are one less, none anything else; and it is recorded."""
    made = {}
    for how in ("round", "truncate"):
        out, npz = tmp_path / how, tmp_path / f"{how}.npz"
        options = (*FAST, "--num-images", "4", "--bytes", how, "--npz", npz, "--out", out)
        assert script("sample.py", free, *options).code == 0
        made[how] = arrays(out).astype(int)
        with np.load(npz) as stored:
            assert (stored["arr_0"] == made[how]).all()
        assert record(out)["settings"].get("bytes") == (None if how == "round" else how)
    less = made["round"] - made["truncate"]
    assert set(np.unique(less)) == {0, 1}
    assert 0.2 < less.mean() < 0.6
    again = script("sample.py", free, *FAST, "--num-images", "4", "--out", tmp_path / "truncate")
    assert again.code == 2
    assert "other settings (bytes" in again.err


def test_labels(script, classes: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    chosen = {}
    for policy in ("random", "2,0"):
        out = tmp_path / policy
        options = (*FAST, "--num-images", "5", "--labels", policy, "--out", out)
        assert script("sample.py", classes, *options).code == 0
        chosen[policy] = [entry["label"] for entry in record(out)["samples"]]
    assert chosen["2,0"] == [2, 0, 2, 0, 2]
    assert set(chosen["random"]) <= {0, 1, 2}


def test_image_k_is_the_same_whatever_else(script, free: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    runs = {
        "few": ("--num-images", "3", "--batch-size", "4"),
        "many": ("--num-images", "9", "--batch-size", "4"),
        "large": ("--num-images", "9", "--batch-size", "9"),
        "later": ("--num-images", "2", "--seed", "5"),
    }
    for name, options in runs.items():
        done = script("sample.py", free, "--steps", "3", *options, "--out", tmp_path / name)
        assert done.code == 0
    few, many, large, later = (arrays(tmp_path / name).astype(int) for name in runs)
    assert abs(few - many[:3]).max() <= 1  # batches of other sizes may round differently
    assert abs(many - large).max() <= 1
    assert abs(later - many[5:7]).max() <= 1


@pytest.mark.parametrize(
    "options",
    [
        ("--sampler", "ddim", "--eta", "1", "--spacing", "quad"),
        ("--sampler", "plms"),
        ("--sampler", "dpm++"),
        ("--sampler", "dpm++", "--spacing", "karras"),
        ("--sampler", "dpm++sde"),
        ("--sampler", "unipc"),
        ("--sampler", "euler"),
        ("--sampler", "heun"),
        ("--precision", "bf16"),
        ("--tile", "4", "--tile-overlap", "2", "--decode-tile", "4", "--size", "64", "80"),
    ],
    ids=" ".join,
)
def test_every_sampler_and_option(script, free: Path, tmp_path: Path, options) -> None:  # type: ignore[no-untyped-def]
    plain = script("sample.py", free, *FAST, "--num-images", "2", "--out", tmp_path / "plain")
    done = script(
        "sample.py", free, *FAST, "--num-images", "2", *options, "--out", tmp_path / "other"
    )
    assert plain.code == done.code == 0, done.err
    assert pictures(tmp_path / "plain") != pictures(tmp_path / "other")


def test_another_call_goes_on_and_does_not_mix(script, free: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    command = ("sample.py", free, *FAST, "--num-images", "6", "--out", tmp_path)
    assert script(*command).code == 0
    before = pictures(tmp_path)
    (tmp_path / "images" / "00002.png").unlink()
    (tmp_path / "images" / "00005.png").unlink()
    again = script(*command)
    assert again.code == 0
    assert "4 of 6 images are there already" in again.out
    assert pictures(tmp_path) == before
    other = script(*command, "--seed", "1")
    assert other.code == 2
    assert "holds images made with other settings (" in other.err
    assert "seed" in other.err
    assert pictures(tmp_path) == before


@pytest.mark.parametrize("text", [None, '{"samples":[{"file":"x"}],"settings":{},"made_by":[]}'])
def test_images_without_a_record_are_not_taken_for_its_own(
    script, free: Path, tmp_path: Path, text: str | None
) -> None:  # type: ignore[no-untyped-def]
    command = ("sample.py", free, *FAST, "--num-images", "2", "--out", tmp_path)
    assert script(*command).code == 0
    (tmp_path / "samples.json").unlink()
    if text is not None:
        (tmp_path / "samples.json").write_text(text)
    before = pictures(tmp_path)
    other = script(*command, "--seed", "1")
    assert other.code == 2
    assert "no samples.json says how it was made" in other.err
    assert pictures(tmp_path) == before


def test_a_call_without_images_does_not_block_the_next(
    script, classes: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    """cin256 has no value for "no class": guidance fails at the first batch."""
    command = ("sample.py", classes, *FAST, "--num-images", "2", "--out", tmp_path)
    failed = script(*command, "--guidance", "2")
    assert failed.code == 2
    assert "guidance needs an id for 'no class'" in failed.err
    assert script(*command).code == 0
    assert record(tmp_path)["settings"]["guidance"] == 1
    assert len(record(tmp_path)["made_by"]) == 1


def test_a_second_call_is_refused_while_the_first_runs(script, free: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        outcome = script("sample.py", free, *FAST, "--num-images", "2", "--out", tmp_path)
    finally:
        os.close(folder)
    assert outcome.code == 2
    assert f"another process is writing into {tmp_path}" in outcome.err
    assert not list(tmp_path.iterdir())


def test_guidance_by_a_classifier(
    script,  # type: ignore[no-untyped-def]
    classes: Path,
    tmp_path: Path,
) -> None:
    classifier = small_run("classifier/cin256-classifier", tmp_path, "num_classes=2")
    command = ("sample.py", classes, *FAST, "--num-images", "5")
    guided = ("--classifier", classifier, "--classifier-scale")
    for name, options in {"plain": (), "off": (*guided, "0"), "on": (*guided, "9")}.items():
        done = script(*command, "--labels", "0,1", *options, "--out", tmp_path / name)
        assert done.code == 0, done.err
    assert pictures(tmp_path / "off") == pictures(tmp_path / "plain")
    assert pictures(tmp_path / "on") != pictures(tmp_path / "plain")
    assert record(tmp_path / "on")["settings"]["classifier_scale"] == 9
    unknown = script(*command, "--labels", "2", *guided, "1", "--out", tmp_path / "unknown")
    assert "2 is not within 0 to 1" in unknown.err
    other = script(*command, "--classifier", classes, "--out", tmp_path / "unknown")
    assert "not a classifier of noisy latents" in other.err


def launch(*command: object, processes: int = 1) -> list[str]:
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*start, str(SCRIPTS / "sample.py"), *map(str, command)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the processes that are started here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_two_processes_and_a_kill_make_the_same_bytes(script, free: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The whole, by this process; by two of which all are killed, then by two again."""
    options = (free, "--steps", "60", "--batch-size", "4", "--num-images", "32", "--seed", "3")
    assert script("sample.py", *options, "--out", tmp_path / "one").code == 0
    out = tmp_path / "two"
    started = subprocess.Popen(
        launch(*options, "--out", out, processes=2), env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(30_000):  # a busy machine starts two processes slowly
        if len(list((out / "images").glob("*.png"))) >= 4 or started.poll() is not None:
            break
        time.sleep(0.01)
    assert started.poll() is None, "it was to be killed half-way"
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    left = pictures(out)
    assert 4 <= len(left) < 32
    subprocess.run(
        launch(*options, "--out", out, "--npz", tmp_path / "s.npz", processes=2),
        env=environment(), check=True, capture_output=True,
    )  # fmt: skip
    assert pictures(out) == pictures(tmp_path / "one")
    assert pictures(out).items() >= left.items()
    assert (np.load(tmp_path / "s.npz")["arr_0"] == arrays(out)).all()
    assert {path.name for path in out.iterdir()} == {"images", "grid.png", "samples.json"}
    assert all(path.suffix == ".png" for path in (out / "images").iterdir())


@pytest.mark.slow
def test_the_end_of_one_process_ends_the_other(free: Path, tmp_path: Path) -> None:
    """Without torchrun, which would kill it, too."""
    with socket.socket() as free_port:
        free_port.bind(("127.0.0.1", 0))
        port = str(free_port.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    command = launch(
        free, "--steps", "100", "--batch-size", "2", "--num-images", "40", "--out", tmp_path
    )
    first, second = (
        subprocess.Popen(
            command, env=environment() | meeting | {"RANK": rank}, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )
        for rank in "01"
    )  # fmt: skip
    while not list((tmp_path / "images").glob("*.png")) and first.poll() is None:
        time.sleep(0.1)
    second.kill()
    second.communicate()
    _, said = first.communicate(timeout=300)
    assert first.returncode == 2
    assert said.splitlines()[-1].startswith("error: another of the processes has ended too early")


def test_any_size_that_f_divides(script, free: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = script(
        "sample.py", free, *FAST, "--num-images", "1", "--size", "20", "44", "--out", tmp_path
    )
    assert done.code == 0, done.err
    assert arrays(tmp_path).shape == (1, 20, 44, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", "0"), "0 sampling steps"),
        (("--steps", "1001"), "1001 sampling steps: choose 1 to 1000"),
        (("--eta", "1.5"), "eta must lie in [0, 1]"),
        (("--sampler", "unipc", "--eta", "1"), "--eta 1.0 has no effect with --sampler unipc"),
        (("--sampler", "ddpm", "--steps", "5"), "--steps 5 has no effect with --sampler ddpm"),
        (("--sampler", "plms", "--spacing", "karras"), "PLMS takes equal steps"),
        (("--size", "33", "32"), "(33, 32) must be a multiple of 8"),
        (("--labels", "3"), "3 is not within 0 to 2"),
        (("--labels", "cat"), "--labels cat: give uniform, random, or a list"),
        (("--num-images", "0"), "--num-images 0: must be at least 1"),
        (("--batch-size", "0"), "--batch-size 0: must be at least 1"),
        (("--checkpoint", "nowhere.ckpt"), "nowhere.ckpt"),
        (("--tile-overlap", "2"), "--tile-overlap has no effect without --tile"),
        (("--tile", "4", "--tile-overlap", "4"), "--tile-overlap 4"),
        (("--classifier-scale", "2"), "--classifier-scale has no effect without --classifier"),
        (("--device", "cuda:99"), "--device cuda:99: not available"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input(script, classes: Path, tmp_path: Path, options, message: str) -> None:  # type: ignore[no-untyped-def]
    defaults = () if options[0] == "--sampler" else ("--steps", "2")
    outcome = script("sample.py", classes, *defaults, *options, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "images").exists()
