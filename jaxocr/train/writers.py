"""Where a run's numbers go while it trains: metrics.jsonl and TensorBoard.

metrics.jsonl is the record (one JSON object a line, `step` first, then what was
measured at it); `read_history` gives it back for the report. TensorBoard events
are a convenience and are left out, with one warning, when tensorboardX is not
installed.
"""

from collections.abc import Mapping
import json
import logging
import math
import os
import pathlib

import numpy as np

from jaxocr import files

METRICS_FILE = "metrics.jsonl"

_log = logging.getLogger(__name__)


class MetricWriter:
  """Appends scalars and sample images of one run to its workdir.

  A resumed run repeats the steps after its checkpoint. So that none of them is
  recorded twice, entries past `start_step` are dropped when the writer opens,
  and so is a last line cut short by a kill. A run that starts anew has
  `start_step=0` and clears what an earlier one left. Of several processes only
  one may hold a writer.
  """

  def __init__(self, workdir: str | os.PathLike, *, start_step: int = 0):
    """Opens the files, creating `workdir` where it does not exist.

    Args:
      workdir: The run's folder.
      start_step: Updates done so far, the step of the restored checkpoint.
    """
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / METRICS_FILE
    if path.exists():
      _keep_until(path, start_step)
    self._file = path.open("a", encoding="utf-8")
    self._events = _open_events(workdir, start_step)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Records `values` (name -> number) at `step`; on disk when it returns.

    A value that is not finite is null in metrics.jsonl, since JSON has no NaN.
    """
    numbers = {name: float(value) for name, value in values.items()}
    entry = {"step": int(step)}
    for name, number in numbers.items():
      entry[name] = number if math.isfinite(number) else None
    self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    self._file.flush()
    if self._events is not None:
      for name, number in numbers.items():
        self._events.add_scalar(name, number, int(step))

  def images(self, step: int, name: str, images) -> None:
    """Shows `images` [N, H, W, 1] in [0, 1] in TensorBoard, one below another.

    Raises:
      ValueError: The array is not [N, H, W, 1].
    """
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or images.shape[-1] != 1:
      raise ValueError(
        f"images of {name!r} have shape {images.shape}; they must be"
        " [N, H, W, 1]; add the missing axes with [..., None] or [None]"
      )
    if self._events is not None and len(images):
      column = np.clip(images[..., 0], 0.0, 1.0).reshape(-1, images.shape[2])
      self._events.add_image(name, column, int(step), dataformats="HW")

  def close(self) -> None:
    """Flushes and closes both files; a second call does nothing."""
    self._file.close()
    if self._events is not None:
      self._events.close()
      self._events = None


def read_history(workdir: str | os.PathLike) -> list[dict]:
  """The entries of a run's metrics.jsonl in the order written.

  A run writes several entries at one step, each with names of its own. A line
  that a kill cut short is left out; no file gives no entries.
  """
  path = pathlib.Path(workdir) / METRICS_FILE
  if not path.exists():
    return []
  return [entry for _, entry in _entries(path)]


def _entries(path: pathlib.Path) -> list[tuple[str, dict]]:
  """(line, parsed) for each whole line of a metrics file."""
  found = []
  text = path.read_text(encoding="utf-8", errors="replace")
  for line in text.split("\n"):
    try:
      entry = json.loads(line)
    except json.JSONDecodeError:
      continue
    if isinstance(entry, dict) and isinstance(entry.get("step"), int):
      found.append((line, entry))
  return found


def _keep_until(path: pathlib.Path, last_step: int) -> None:
  """Rewrites a metrics file without what comes after `last_step`."""
  # An entry at step 0 is kept only by a run that had got past it.
  entries = _entries(path) if last_step else []
  kept = [line for line, entry in entries if entry["step"] <= last_step]
  text = "".join(f"{line}\n" for line in kept)
  with files.aside(path) as part:
    part.write_text(text, encoding="utf-8")


def _open_events(workdir: pathlib.Path, start_step: int):
  """A tensorboardX writer, or None where the package is not installed."""
  try:
    import tensorboardX
  except ImportError:
    _log.warning(
      "tensorboardX is not installed: no TensorBoard events are written"
      " (pip install tensorboardX); metrics.jsonl has the same numbers"
    )
    return None
  # purge_step hides the steps that a resumed run is about to repeat.
  return tensorboardX.SummaryWriter(
    logdir=str(workdir), purge_step=start_step + 1 if start_step else None
  )
