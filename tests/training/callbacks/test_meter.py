from __future__ import annotations

from ldm.training.callbacks.throughput import Meter
from tests.training.clock import Clock


def test_speed_is_that_of_training_alone() -> None:
    """10 s: 1 s of waiting and 3 s of work, twice, and 2 s of validation between."""
    clock = Clock()
    meter = Meter(clock)
    for validates in (True, False):
        meter.wait(True)
        clock.now += 1
        meter.wait(False)
        clock.now += 3
        meter.add(16)
        if validates:
            meter.stand_still()
            clock.now += 2
    speed = meter.read()
    assert speed is not None
    assert speed.images_per_second == 32 / 8
    assert speed.data_wait == 2 / 8
    assert speed.overhead == 2 / 10
    assert speed.seconds == 8


def test_a_reading_begins_where_the_last_ended_also_within_a_standstill() -> None:
    clock = Clock()
    meter = Meter(clock)
    clock.now += 4
    meter.add(8)
    meter.stand_still()
    clock.now += 1
    meter.stand_still()  # of something else, at the same time
    clock.now += 3
    first = meter.read()
    clock.now += 2  # it goes on
    meter.wait(True)
    meter.wait(False)
    clock.now += 2
    meter.add(8)
    second = meter.read()
    assert first is not None
    assert second is not None
    assert (first.images_per_second, first.overhead) == (2, 0.5)
    assert (second.images_per_second, second.overhead) == (4, 0.5)


def test_nothing_to_read_where_nothing_was_trained_on() -> None:
    clock = Clock()
    meter = Meter(clock)
    clock.now += 1
    assert meter.read() is None
    meter.add(4)
    meter.restart()
    clock.now += 1
    assert meter.read() is None
    meter.add(4)
    speed = meter.read()
    assert speed is not None
    assert speed.images_per_second == 4
