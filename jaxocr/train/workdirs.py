"""A run's folder: whose it is, whether it may be resumed, and clearing it."""

import json
import os
import pathlib
import shutil
from typing import Any

from jaxocr import files
from jaxocr.train import configs
from jaxocr.train import distributed

CONFIG_FILE = "config.json"
REPORT_FILE = "report.json"
# What runs write, as glob patterns: all that `restart` may delete.
CONTENTS = (
  CONFIG_FILE,
  REPORT_FILE,
  "report.html",
  "metrics.jsonl",
  "events.out.tfevents.*",
  "checkpoints",
  "rejected_checkpoints",
  "atlas.npz",
  "model.safetensors",
  "*.part",
)


class WorkdirError(ValueError):
  """A folder that this run may not use as asked."""


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
      or is to be cleared without holding a run.
  """
  workdir = pathlib.Path(workdir)
  if workdir.exists() and not workdir.is_dir():
    raise WorkdirError(f"workdir={workdir} is a file; give a folder")
  if restart and workdir.exists():
    _clear(workdir)
  given = {"experiment": experiment, **configs.as_dict(config)}
  stored = _read(workdir / CONFIG_FILE)
  if stored is not None:
    differing = configs.differences(stored, given)
    if differing:
      raise WorkdirError(
        f"{workdir} holds a run of another config:\n  "
        + "\n  ".join(differing)
        + "\nGive the stored values to go on, another --workdir, or --restart "
        "to delete that run"
      )
    report = _read(workdir / REPORT_FILE)
    return report if report and report.get("finished") else None
  distributed.barrier("workdir read")
  if distributed.is_writer():
    workdir.mkdir(parents=True, exist_ok=True)
    with files.aside(workdir / CONFIG_FILE) as part:
      part.write_text(json.dumps(given, indent=2, ensure_ascii=False) + "\n")
  return None


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
  if not any(workdir.iterdir()):
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
  flat = configs.flatten({k: v for k, v in report.items() if k != "config"})
  rows = []
  for name, value in flat.items():
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    rows.append(f"  {name:20} {text}")
  return "\n".join(rows)
