"""A run's folder: whose it is, whether it may be resumed, and clearing it."""

import json
import os
import pathlib
import shutil
from typing import Any

from jaxocr import files
from jaxocr.export import bundle
from jaxocr.train import configs
from jaxocr.train import distributed
from jaxocr.train import report as report_lib
from jaxocr.train import writers

try:
  import fcntl
except ImportError:  # Windows.
  fcntl = None

CONFIG_FILE = "config.json"
# What runs write, as glob patterns: all that `restart` may delete, first to
# last. The report, which says that the run is whole, goes before its parts, and
# the config after them: until they are gone it says whose they are.
CONTENTS = (
  report_lib.REPORT_FILE,
  report_lib.PAGE_FILE,
  report_lib.PREDICTIONS_FILE,
  bundle.BUNDLE_NAME,
  "checkpoints",
  "rejected_checkpoints",
  writers.METRICS_FILE,
  "events.out.tfevents.*",
  "projector_config.pbtxt",
  "00000",  # TensorBoard's embedding, by its step.
  "sweep.png",
  "bytes.png",
  "maps",  # What a digit network sees.
  "atlas.npz",
  "teacher.safetensors",
  "teacher.json",
  "float.*",  # Variants of an 8-bit network, and what they are exported to.
  "post.*",
  "model.onnx*",
  "model.mnn*",
  "cells",
  "table.md",
  "*.part",
  CONFIG_FILE,
)


class WorkdirError(ValueError):
  """A folder that this run may not use as asked."""


def hold(workdir: str | os.PathLike) -> None:
  """Makes `workdir` and keeps other launches out of it while this one lives.

  All processes of a run must call it; process 0 holds the folder for them.
  Where the system or the file system knows no locks, none is taken.

  Raises:
    WorkdirError: Another launch holds it, or it cannot be made.
  """
  fault = _lock(pathlib.Path(workdir)) if distributed.is_writer() else ""
  if distributed.any_process(bool(fault)):
    raise WorkdirError(fault or f"workdir={workdir}: refused to process 0")


def _lock(workdir: pathlib.Path) -> str:
  """Locks the folder until the process ends; returns what is wrong, or ""."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    return (
      f"workdir={workdir} cannot be made ({error.strerror}); give another "
      "--workdir"
    )
  if fcntl is None:
    return ""
  try:
    # The folder itself, so that no file is left; never closed on purpose.
    folder = os.open(workdir, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return (
      f"workdir={workdir} is in use by another launch; wait for its end, or "
      "give another --workdir"
    )
  except OSError:
    pass  # Some network file systems lock no folders.
  return ""


def claim(
  workdir: str | os.PathLike, experiment: str, config: Any, restart: bool
) -> dict | None:
  """Makes `workdir` the folder of this run, new or resumed.

  Args:
    workdir: Created where it does not exist.
    experiment: Name of the experiment.
    config: Its config dataclass.
    restart: Deletes what an earlier run left there, of any config.

  Returns:
    The report of a run that was finished with this very config, else None.

  Raises:
    WorkdirError: It belongs to another config or experiment, is not a folder,
      or holds parts of a run that no config names.
  """
  workdir = pathlib.Path(workdir)
  if workdir.exists() and not workdir.is_dir():
    raise WorkdirError(f"workdir={workdir} is a file; give a folder")
  if restart and workdir.exists():
    _clear(workdir)
  given = {"experiment": experiment, **configs.as_dict(config)}
  stored = _read(workdir / CONFIG_FILE)
  if stored is not None:
    free = getattr(config, "SELECTIONS", ())
    differing = configs.differences(
      _without(stored, free), _without(given, free)
    )
    if differing:
      raise WorkdirError(
        f"{workdir} holds a run of another config:\n  "
        + "\n  ".join(differing)
        + "\nGive the stored values to go on, another --workdir, or --restart "
        "to delete that run"
      )
    report = _read(workdir / report_lib.REPORT_FILE)
    # A selection of its own leaves more to be done.
    same = all(
      (report or {}).get("config", {}).get(n, given[n]) == given[n]
      for n in free
    )
    return report if report and report.get("finished") and same else None
  found = _remains(workdir)
  if found:
    raise WorkdirError(
      f"{workdir} holds {', '.join(found)} but no {CONFIG_FILE} that says of "
      "which run; delete them, or give another --workdir"
    )
  distributed.barrier("workdir read")
  if distributed.is_writer():
    workdir.mkdir(parents=True, exist_ok=True)
    with files.aside(workdir / CONFIG_FILE) as part:
      part.write_text(json.dumps(given, indent=2, ensure_ascii=False) + "\n")
  return None


def _without(config: dict, names) -> dict:
  return {k: v for k, v in config.items() if k not in names}


def _remains(workdir: pathlib.Path) -> list[str]:
  """Names of a run's files; not of unfinished ones, which nobody reads."""
  paths = [path for pattern in CONTENTS for path in workdir.glob(pattern)]
  return [path.name for path in paths if path.suffix != ".part"]


def _read(path: pathlib.Path) -> dict | None:
  if not path.exists():
    return None
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (UnicodeDecodeError, json.JSONDecodeError) as error:
    raise WorkdirError(
      f"{path} is not JSON ({error}); give another --workdir"
    ) from error
  if not isinstance(value, dict):
    raise WorkdirError(f"{path} is not of a run; give another --workdir")
  return value


def _clear(workdir: pathlib.Path) -> None:
  """Deletes what a run wrote; what else lies there is left alone."""
  if not _remains(workdir):
    return
  stored = _read(workdir / CONFIG_FILE)
  if stored is None or "experiment" not in stored:
    raise WorkdirError(
      f"{workdir} holds files but no {CONFIG_FILE} of a run, so --restart "
      "deletes nothing there; give another --workdir"
    )
  distributed.barrier("workdir seen")
  if distributed.is_writer():
    for pattern in CONTENTS:
      for path in workdir.glob(pattern):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
  distributed.barrier("workdir cleared")


def finished_message(workdir: str | os.PathLike, report: dict) -> str:
  """What to say where `claim` found a finished run."""
  return (
    f"{workdir} holds a finished run of this config:\n{figures(report)}\n"
    "--restart trains it anew, another --workdir keeps it"
  )


def figures(report: dict) -> str:
  """The figures of a report.json, one a line, without its config."""
  shown = {
    k: v
    for k, v in report.items()
    # Rows of a table were printed as they came, and are in report.html.
    if k != "config" and not (isinstance(v, list) and v)
  }
  flat = configs.flatten(shown)
  rows = []
  for name, value in flat.items():
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    rows.append(f"  {name:20} {text}")
  return "\n".join(rows)
