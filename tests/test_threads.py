"""How many threads there are, and when they sleep."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldm import threads
from ldm.threads import Load, Patience, considerate, set_threads


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("150000 100000", "2"), ("50000 100000", "1"), ("max 100000", None), ("900000 100000", None)],
)
def test_a_container_may_use_a_share_of_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: str | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # to come back in any case
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(threads, "cores", lambda: 8)
    (tmp_path / "cpu.max").write_text(quota + "\n")
    set_threads(tmp_path / "cpu.max")
    assert threads.os.environ.get("OMP_NUM_THREADS") == expected


def test_what_the_user_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(threads, "cores", lambda: 8)
    (tmp_path / "cpu.max").write_text("100000 100000")
    set_threads(tmp_path / "cpu.max")
    assert threads.os.environ["OMP_NUM_THREADS"] == "7"


def test_without_quotas_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # to come back in any case
    monkeypatch.delenv("OMP_NUM_THREADS")
    set_threads(tmp_path / "absent")
    assert "OMP_NUM_THREADS" not in threads.os.environ


@pytest.fixture
def stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int], int], Path]:
    """Writes hundredths of seconds that cores were busy, of so many; a second of ours passes."""
    own = iter([(0.0, 0.0), (1.0, 0.0)])
    monkeypatch.setattr(threads.os, "times", lambda: next(own))
    monkeypatch.setattr(threads.os, "sysconf", lambda _: 100)

    def write(busy: list[int], of: int) -> Path:
        rows = [("", sum(busy), of * len(busy)), *((k, n, of) for k, n in enumerate(busy))]
        lines = [f"cpu{k} {n} 0 0 {whole - n} 0 0 0 0 0 0\n" for k, n, whole in rows]
        (tmp_path / "stat").write_text("".join(lines) + "intr 7 0 0\n")
        return tmp_path / "stat"

    return write


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({0, 1}, 0.25),  # of two seconds: 1.5 s were busy, 1 s of them own
        ({0, 1, 2, 3}, 2.25),  # others use the rest of the machine
        ({8, 9}, 2.25),  # a container that is shown other numbers
    ],
)
def test_the_load_of_others(
    stat: Callable[[list[int], int], Path],
    monkeypatch: pytest.MonkeyPatch,
    numbers: set[int],
    expected: float,
) -> None:
    monkeypatch.setattr(threads, "_numbers", lambda: numbers)
    load = Load(stat([0, 0, 0, 0], 0))
    stat([100, 50, 200, 200], 200)
    assert load.others() == pytest.approx(expected)


def test_a_file_without_cores_has_another_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("", "cpu 1 2 3\n", "cpu 1 0 0 1 0 0 0\ncpu0 1 0\n"):
        (tmp_path / "stat").write_text(text)
        monkeypatch.setattr(threads, "_numbers", lambda: {0})
        with pytest.raises(ValueError, match=r"argument|unpack"):
            Load(tmp_path / "stat")


class Others(Load):
    """Cores that others use, as a test says."""

    def __init__(self) -> None:
        self.used = 0.0

    def others(self) -> float:
        return self.used


def _becomes(patience: Patience, on: bool) -> bool:
    until = time.monotonic() + 5
    while patience.on is not on and time.monotonic() < until:
        time.sleep(0.005)
    return patience.on is on


@pytest.mark.usefixtures("two_cores")
def test_threads_sleep_while_others_want_the_cores() -> None:
    load = Others()
    before = threading.active_count()
    with considerate(lambda: load, period=0.01) as patience:
        for used, expected in [(1.0, True), (0.1, False), (2.0, True)]:
            load.used = used
            assert _becomes(patience, expected)
    assert _becomes(patience, False)
    until = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.005)
    assert threading.active_count() <= before


def test_one_thread_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    load = Others()
    load.used = 5.0
    with considerate(lambda: load, period=0.01) as patience:
        time.sleep(0.1)
        assert not patience.on


@pytest.mark.usefixtures("two_cores")
def test_a_system_that_counts_otherwise_is_left_alone(tmp_path: Path) -> None:
    with considerate(lambda: Load(tmp_path / "absent"), period=0.01) as patience:
        time.sleep(0.05)
        assert not patience.on


def test_a_program_may_end_as_soon_as_its_threads_sleep() -> None:
    code = (
        "import torch, ldm.threads as t\n"
        "class Crowded(t.Load):\n"
        "    def __init__(self): pass\n"
        "    def others(self): return 9.0\n"
        "torch.set_num_threads(2)\n"
        "t.cores = lambda: 1\n"
        "with t.considerate(Crowded, period=0.01) as patience:\n"
        "    while not patience.on: pass"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_needs_no_torch() -> None:
    code = (
        "import sys, ldm.threads as t\n"
        "with t.considerate(period=0.01): t.set_threads()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
