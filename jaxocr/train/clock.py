"""How long a run took, and how fast it learnt."""

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
