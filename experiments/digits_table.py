"""All digit networks side by side: accuracy, size in three forms, work, time.

  python launch.py --experiment=digits_table --cfg.mnist_dir=FOLDER

Three seeds of each network, in the settings of --experiment=lenet5. About an
hour on one core without AlexNet, which takes hours: --cfg.only chooses, and
what is done is kept, so that a table can grow. Leaves table.md.
"""

import dataclasses
import json
import os
import re
import shutil
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxocr import files
from jaxocr.models import digit_zoo
from jaxocr.models import macs
from jaxocr.train import digit_config
from jaxocr.train import digit_figures
from jaxocr.train import digit_run
from jaxocr.train import distributed
from jaxocr.train import evaluate

CELLS = "cells"
PHOTOS = "alexnet at 227x227x3, 1,000 classes"


@dataclasses.dataclass(frozen=True)
class Config(digit_config.DigitConfig):
  """Everything that a run depends on."""

  # Networks to train whose whole name matches this regex; empty: all but
  # alexnet. It may be another one each time the same folder is gone on with.
  only: str = ""

  # Fields that say what to do now, not what the results are.
  SELECTIONS: ClassVar[tuple[str, ...]] = ("only",)

  def validate(self) -> None:
    """Raises ValueError for the first thing that cannot work."""
    super().validate()
    chosen(self)
    if self.form != "float":
      raise ValueError(
        f"form={self.form}; the table trains float networks and counts the "
        "others, so it must be float"
      )


def chosen(config: Config) -> list[str]:
  """The networks to train.

  Raises:
    ValueError: `only` is no regex or matches none.
  """
  pattern = config.only or "(?!alexnet).*"
  try:
    found = [n for n in digit_zoo.NETWORKS if re.fullmatch(pattern, n)]
  except re.error as error:
    raise ValueError(f"only={config.only!r} is no regex: {error}") from error
  if not found:
    raise ValueError(
      f"only={config.only!r} matches no network; there are "
      f"{', '.join(digit_zoo.NETWORKS)}"
    )
  return found


def run(config: Config, workdir: str | os.PathLike) -> dict:
  """Trains what is not done, counts all; returns what report.json holds."""
  run = digit_run.DigitRun(config, workdir)
  rows = []
  for network in digit_zoo.NETWORKS:
    fields = {"norm": False} if network == "lenet5_1998" else {}
    network = digit_run.architecture(
      config, network, len(run.set.classes), **fields
    )
    rows.append(_row(run, network))
    run.say(told(rows[-1]))
  rows.append(_photos())
  text = "\n".join([_HEAD, _RULE, *map(told, rows)]) + "\n"
  if distributed.is_writer():
    with files.aside(run.workdir / "table.md") as part:
      part.write_text(text, encoding="utf-8")
  best = max(rows, key=lambda row: row.get("test_accuracy", 0))
  figures = {
    **{k: best[k] for k in ("test_accuracy", "test_accuracy_std", "seeds")},
    "best": best["network"],
    "parameters": best["parameters"],
    "bytes": best["bytes_of"]["float"],
    "test_images": len(run.set.test.labels),
    "epochs": config.epochs,
    "steps": run.steps,
    "networks": rows,
  }
  return run.report(figures, [])


_HEAD = (
  "| network | accuracy | seeds | parameters | float32 | int8 | 1 bit | MACs "
  "| step, ms |"
)
_RULE = "|---|---|---|---|---|---|---|---|---|"


def told(row) -> str:
  """One line of the table, in Markdown."""
  sizes = [f"{row['bytes_of'][k]:,}" for k in ("float", "int8", "binary")]
  cells = [
    row["network"],
    f"{row['test_accuracy']:.4f} +- {row['test_accuracy_std']:.4f}"
    if "test_accuracy" in row
    else "-",
    str(row.get("seeds", "-")),
    f"{row['parameters']:,}",
    *sizes,
    f"{row['macs']:,}",
    f"{row['step_ms']:.0f}" if "step_ms" in row else "-",
  ]
  return f"| {' | '.join(cells)} |"


def _row(run, architecture) -> dict:
  """Of one network; trained where it is chosen or was trained before."""
  config, name = run.config, architecture["network"]
  row = {"network": name, **_counted(architecture, (28, 28, 1))}
  accuracies = []
  for seed in range(config.seed, config.seed + config.seeds):
    kept = run.workdir / CELLS / f"{name}-{seed}.json"
    if not kept.exists() and name not in chosen(config):
      run.skip()
      continue
    found = _cell(run, architecture, kept, seed)
    accuracies.append(found["test_accuracy"])
    if "step_ms" in found:
      row["step_ms"] = found["step_ms"]
  if accuracies:
    row |= digit_figures.spread(accuracies)
  return row


def _cell(run, architecture, kept, seed) -> dict:
  """Of a seed: kept, or trained now."""
  if kept.exists():
    run.skip()
    return json.loads(kept.read_text(encoding="utf-8"))
  weights = run.train(architecture, seed, name=kept.stem)
  lines = run.judge(weights, architecture)
  found = {"test_accuracy": evaluate.score(lines)["line_accuracy"]}
  if seed == run.config.seed:
    found["step_ms"] = run.step_ms(architecture)
  if distributed.is_writer():
    kept.parent.mkdir(exist_ok=True)
    with files.aside(kept) as part:
      part.write_text(json.dumps(found) + "\n", encoding="utf-8")
    checkpoints = run.workdir / "checkpoints" / kept.stem
    shutil.rmtree(checkpoints, ignore_errors=True)
  return found


def _photos() -> dict:
  """AlexNet as published, which is only counted."""
  fields = {"network": "alexnet", "classes": 1000, "photos": True}
  return {"network": PHOTOS, **_counted(fields, (227, 227, 3))}


def _counted(architecture, size) -> dict:
  """Parameters, bytes and multiply-accumulates; nothing is computed."""
  model = digit_zoo.make(**architecture)
  image = jax.ShapeDtypeStruct((1, *size), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  work = macs.count_macs(model.apply, variables, image)
  params = variables["params"]
  collections = {k: v for k, v in variables.items() if k != "params"}
  return {
    **digit_figures.form_sizes(params, collections),
    "macs": sum(sum(forms.values()) for forms in work.values()),
  }
