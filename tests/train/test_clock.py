import math

import pytest

from jaxocr.train import clock as clock_lib


@pytest.fixture(name="now")
def fixture_now(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(clock_lib.time, "monotonic", lambda: now[0])
  return now


def test_only_laps_count_for_the_speed(now):
  clock = clock_lib.Clock()
  assert math.isnan(clock.lines_per_s)
  now[0] += 30  # Compiling.
  clock.start()
  now[0] += 2
  assert clock.lap(100) == pytest.approx(50)
  now[0] += 7  # An evaluation.
  clock.start()
  now[0] += 1
  assert clock.lap(80) == pytest.approx(80)
  assert clock.lines_per_s == pytest.approx(180 / 3)
  assert clock.seconds == pytest.approx(40)


def test_sessions_add_up(now):
  first = clock_lib.Clock()
  first.start()
  now[0] += 4
  first.lap(40)
  saved = first.saved()
  now[0] += 1000  # Nothing runs.
  second = clock_lib.Clock()
  second.resume(saved)
  second.start()
  now[0] += 6
  second.lap(10)
  assert second.seconds == pytest.approx(10)
  assert second.lines_per_s == pytest.approx(5)
