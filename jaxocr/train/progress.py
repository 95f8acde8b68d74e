"""What a person sees while a run trains: one bar, and lines above it."""

import math
import sys
import time

import tqdm

_QUIET_S = 10.0  # Between plain lines where the output is not a terminal.


class Progress:
  """A tqdm bar on a terminal; elsewhere (a log file) a plain line at times."""

  def __init__(self, *, start: int, steps: int, shown: bool = True, file=None):
    """Starts the bar.

    Args:
      start: Steps done in earlier sessions.
      steps: Steps of the whole run.
      shown: False keeps silent, for all processes but one.
      file: Text stream; standard error by default.
    """
    self._file = sys.stderr if file is None else file
    self._shown = shown
    self._start, self._steps = start, steps
    self._began: float | None = None  # When the first step was done.
    self._last = time.monotonic()
    self._bar = None
    if shown and self._file.isatty():
      self._bar = tqdm.tqdm(
        total=steps,
        initial=start,
        unit="step",
        dynamic_ncols=True,
        file=self._file,
        bar_format="{desc}{n_fmt}/{total_fmt} {bar} {remaining} left{postfix}",
        desc="step ",
      )

  def advance(self) -> None:
    """One more step is done."""
    if self._began is None:
      self._began = time.monotonic()
    if self._bar is not None:
      self._bar.update()

  def figures(
    self,
    step: int,
    loss: float,
    lines_per_s: float,
    *,
    data_wait_ms: float | None = None,
    step_ms: float = math.nan,
  ) -> None:
    """Shows how the last steps went.

    Args:
      step: Steps done.
      loss: Mean over the last steps.
      lines_per_s: NaN where it is unknown.
      data_wait_ms: Of a step, for what comes from the host; None: nothing does.
      step_ms: Of a whole step.
    """
    text = f"loss {loss:.4g}"
    if math.isfinite(lines_per_s):
      text += f", {lines_per_s:.0f} lines/s"
    if data_wait_ms is not None:
      text += f", {data_wait_ms:.1f} of {step_ms:.0f} ms waiting for data"
    if self._bar is not None:
      self._bar.set_postfix_str(text)
      return
    now = time.monotonic()
    if self._shown and (now - self._last >= _QUIET_S or step == self._steps):
      self._last = now
      timed = step - self._start - 1  # The first step compiles.
      if timed > 0:
        left = (now - self._began) / timed * (self._steps - step)
        text += f", {tqdm.tqdm.format_interval(left)} left"
      self.note(f"step {step}/{self._steps}, {text}")

  def note(self, text: str) -> None:
    """Prints lines that stay."""
    if self._bar is not None:
      self._bar.write(text, file=self._file)
    elif self._shown:
      print(text, file=self._file, flush=True)

  def close(self) -> None:
    """Leaves the bar as it stands."""
    if self._bar is not None:
      self._bar.close()
