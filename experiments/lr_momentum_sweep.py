"""SGD's learning rate against its momentum: what trains, what dies and why.

  python launch.py --experiment=lr_momentum_sweep --cfg.mnist_dir=FOLDER

One run of LeNet-5 (ReLU, no BatchNorm) a setting, {0.1, 0.4, 0.7} squared by
default, at constant rates. Nine runs took 5 min on one core. Runs that
are done are kept, so that a sweep that was stopped goes on.

Leaves sweep.png (heat map, curves, accuracy against dead ReLUs) and table.md.
"""

import dataclasses
import json
import os
import shutil

import numpy as np
import optax

from jaxocr import files
from jaxocr.train import digit_config
from jaxocr.train import digit_figures
from jaxocr.train import digit_run
from jaxocr.train import distributed
from jaxocr.train import evaluate
from jaxocr.train import interrupt
from jaxocr.train import sweep_charts
from jaxocr.train import text_config
from jaxocr.train import workdirs
from jaxocr.train import writers

CELLS = "cells"
CHART = "sweep.png"


@dataclasses.dataclass(frozen=True)
class Config(digit_config.DigitConfig):
  """Everything that a run depends on."""

  # SGD's, comma-separated; constant over a run.
  learning_rates: str = "0.1,0.4,0.7"
  # Comma-separated.
  momenta: str = "0.1,0.4,0.7"
  seeds: int = 1
  epochs: int = 1
  ema_decay: float = 0.0
  shift_px: float = 0.0
  rotate: float = 0.0
  scale: float = 0.0
  shear: float = 0.0
  # As course work has them.
  standard: bool = False

  def validate(self) -> None:
    """Raises ValueError for the first thing that cannot work."""
    super().validate()
    for name, below in (("learning_rates", np.inf), ("momenta", 1.0)):
      _numbers(name, getattr(self, name), below)
    text_config.check_fields(
      self,
      [
        ("seeds", "1: a setting is run once", lambda v: v == 1),
        ("form", "float", lambda v: v == "float"),
      ],
    )


def _numbers(name: str, text: str, below: float) -> list[float]:
  """The numbers of a comma-separated setting.

  Raises:
    ValueError: It is none, or one is out of range.
  """
  try:
    found = [float(part) for part in text.split(",")]
  except ValueError:
    found = []
  if not found or not all(0 <= n < below for n in found):
    raise ValueError(
      f"{name}={text!r}; it must be numbers from 0 to below {below:g} with "
      "commas between them, such as 0.1,0.4,0.7"
    )
  return found


def run(config: Config, workdir: str | os.PathLike) -> dict:
  """Runs the settings that are not done; returns what report.json holds."""
  run = digit_run.DigitRun(config, workdir)
  rates = _numbers("learning_rates", config.learning_rates, np.inf)
  momenta = _numbers("momenta", config.momenta, 1.0)
  classes = len(run.set.classes)
  network = digit_run.architecture(config, "lenet5", classes, norm=False)
  cells = []
  for rate in rates:
    for momentum in momenta:
      cells.append(_cell(run, network, rate, momentum))
      run.say(_told(cells[-1]))
  living = [cell for cell in cells if cell["test_accuracy"] is not None]
  if not living:
    raise workdirs.WorkdirError(
      "no setting kept its numbers finite; give lower --cfg.learning_rates and "
      "another --workdir"
    )
  best = max(living, key=lambda cell: cell["test_accuracy"])
  chart = run.workdir / CHART
  if distributed.is_writer():
    sweep_charts.draw(chart, cells, rates, momenta)
    with files.aside(run.workdir / "table.md") as part:
      part.write_text(table(cells), encoding="utf-8")
  figures = {
    **digit_figures.spread([best["test_accuracy"]]),
    "best": {k: best[k] for k in ("learning_rate", "momentum")},
    "parameters": best["parameters"],
    "bytes": 4 * best["parameters"],
    "test_images": len(run.set.test.labels),
    "epochs": config.epochs,
    "steps": run.steps,
    "cells": [
      {k: v for k, v in cell.items() if k not in ("curve", "parameters")}
      for cell in cells
    ],
  }
  return run.report(figures, [], pictures=[("The sweep", [chart])])


def _cell(run, network, rate, momentum) -> dict:
  """Of one setting: kept, or trained now."""
  name = f"lr{rate:g}_m{momentum:g}"
  kept = run.workdir / CELLS / f"{name}.json"
  if kept.exists():
    run.skip()
    return json.loads(kept.read_text(encoding="utf-8"))
  found = {"learning_rate": rate, "momentum": momentum, "died": ""}
  start = run.done
  try:
    weights = run.train(
      network,
      run.config.seed,
      name=name,
      make_tx=lambda schedule: optax.sgd(schedule, momentum=momentum),
      schedule=optax.constant_schedule(rate),
    )
  except interrupt.Diverged as diverged:
    # Numbers that are no longer finite are a result here, of no accuracy.
    run.skip()
    found |= {"test_accuracy": None, "died": str(diverged).split(";")[0]}
    found |= {"dead_relus": None, "dead_by_layer": {}, "parameters": 0}
  else:
    lines = run.judge(weights, network)
    taps = run.look(weights, network)
    found |= {
      "test_accuracy": evaluate.score(lines)["line_accuracy"],
      "dead_relus": digit_figures.dead_total(taps),
      "dead_by_layer": digit_figures.dead_shares(taps),
      "parameters": digit_figures.form_sizes(
        weights.params, weights.collections
      )["parameters"],
    }
    if len({line.reading.text for line in lines}) == 1:
      found["died"] = "says one class for every image"
  found["curve"] = [
    (entry["step"] - start, entry["train/loss"])
    for entry in writers.read_history(run.workdir)
    if start < entry["step"] <= start + run.steps and "train/loss" in entry
  ]
  if distributed.is_writer():
    kept.parent.mkdir(exist_ok=True)
    with files.aside(kept) as part:
      part.write_text(json.dumps(found) + "\n", encoding="utf-8")
    shutil.rmtree(run.workdir / "checkpoints" / name, ignore_errors=True)
  return found


def _told(cell) -> str:
  dead = cell["dead_relus"]
  return (
    f"learning rate {cell['learning_rate']:g}, momentum "
    f"{cell['momentum']:g}: {_accuracy(cell)}, dead ReLUs "
    f"{'-' if dead is None else f'{dead:.1%}'} {cell['died']}"
  )


def _accuracy(cell) -> str:
  known = cell["test_accuracy"]
  return "-" if known is None else f"{known:.4f}"


def table(cells: list[dict]) -> str:
  """All settings, in Markdown."""
  rows = [
    "| learning rate | momentum | test accuracy | dead ReLUs | |",
    "|---|---|---|---|---|",
  ]
  for cell in cells:
    dead = cell["dead_relus"]
    rows.append(
      f"| {cell['learning_rate']:g} | {cell['momentum']:g} | "
      f"{_accuracy(cell)} | "
      f"{'-' if dead is None else f'{dead:.1%}'} | {cell['died']} |"
    )
  return "\n".join(rows) + "\n"
