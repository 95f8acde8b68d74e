"""How long a run took, and how fast it learnt."""

from collections.abc import Iterator
import contextlib
import time


class Clock:
  """Wall time over the sessions of a run, and its training throughput.

  The throughput is that of the laps, each from `start` or the end of the lap
  before: call `start` again after what is not training.
  """

  def __init__(self):
    self._began = time.monotonic()
    self._lap: float | None = None  # When the lap under way began.
    self._earlier_s = 0.0
    self._train_s = 0.0
    self._lines = 0
    self._waited_s: float | None = None  # In the lap; None: never.

  @property
  def seconds(self) -> float:
    """Of this session and of what earlier ones had saved."""
    return self._earlier_s + time.monotonic() - self._began

  @property
  def lines_per_s(self) -> float:
    """Training lines per second over all laps; NaN before the first."""
    return self._lines / self._train_s if self._train_s else float("nan")

  def resume(self, saved: dict) -> None:
    """Goes on from what `saved()` gave in an earlier session."""
    self._earlier_s = saved["seconds"]
    self._train_s = saved["train_seconds"]
    self._lines = saved["lines"]

  def saved(self) -> dict:
    """What a checkpoint must hold, JSON-able."""
    return {
      "seconds": self.seconds,
      "train_seconds": self._train_s,
      "lines": self._lines,
    }

  def start(self) -> None:
    """Starts a lap; what went before it, since the last lap, is not counted."""
    self._lap = time.monotonic()
    self._waited_s = self._waited_s and 0.0

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the block as time that a lap spends waiting for data."""
    began = time.monotonic()
    yield
    self._waited_s = (self._waited_s or 0.0) + time.monotonic() - began

  @property
  def waited_s(self) -> float | None:
    """Waited for data in the lap so far; None: nobody ever waits."""
    return self._waited_s

  def lap(self, lines: int) -> float:
    """Ends a lap in which `lines` were learnt from and starts the next.

    Returns:
      Lines per second in it.
    """
    before = self._lap
    self.start()
    self._train_s += self._lap - before
    self._lines += lines
    return lines / (self._lap - before)
