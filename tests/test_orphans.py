"""Workers that are stuck do not outlive the program that they work for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import multiprocessing, os, signal, sys, threading, time
from ldm.cli.app import end_with_status

def stuck(reader, deaf):
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(1, b"%d\\n" % os.getpid())  # in one piece: two workers speak
    os.read(reader, 1)

def work():
    reader, _ = os.pipe()
    fork = multiprocessing.get_context("fork")
    for deaf in (False, True):
        fork.Process(target=stuck, args=(reader, deaf), daemon=True).start()
    time.sleep(1e6)

end_with_status(work)
"""


def _lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no such order")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGHUP", "SIGINT"])
def test_workers_end_with_their_program(name: str) -> None:
    number = signal.Signals[name]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            workers = [int(program.stdout.readline()) for _ in range(2)]
            assert all(map(_lives, workers))
            program.send_signal(number)
            status = program.wait(20)
        finally:
            program.kill()
    until = time.monotonic() + 5
    while any(map(_lives, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(_lives, workers))
    assert status == (130 if name == "SIGINT" else -number)


def test_a_child_of_another_thread_outlives_the_thread() -> None:
    program = """
import os, threading, time
from ldm.orphans import end_children_with_their_parent

end_children_with_their_parent()
found = []

def fork():
    child = os.fork()
    if not child:
        time.sleep(0.3)
        os._exit(7)
    found.append(child)

thread = threading.Thread(target=fork)
thread.start()
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(found[0], 0)[1]))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "7\n", done.stderr
