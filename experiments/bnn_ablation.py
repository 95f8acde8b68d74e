"""Which part of the binary CRNN's recipe gives what: one factor at a time.

  python launch.py --experiment=bnn_ablation

Two cores: 40 min at 300 steps a cell. Logits give most of what a teacher gives.

Every cell starts from the shipped float teacher and changes one thing of the
base: weights alpha * sign(w), features ApproxSign (W1A1) that start soft, logit
distillation, one stage, float BiLSTM. Seeds differ in the lines seen; cells of
one seed see the same lines in the same order, so that they can be compared in
pairs. Done cells are kept, so that the command goes on where it stopped;
--cfg.only=REGEX picks cells. The curves of each are in cells/NAME-SEED.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
import re
import shutil
from typing import Any, ClassVar

import numpy as np

from experiments import bnn_crnn
from jaxocr import files
from jaxocr import zoo
from jaxocr.compress import affine
from jaxocr.compress import distil
from jaxocr.compress import rules as rules_lib
from jaxocr.compress import specs
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.train import distributed
from jaxocr.train import optimiser
from jaxocr.train import ship
from jaxocr.train import stages
from jaxocr.train import state as state_lib
from jaxocr.train import text_config
from jaxocr.train import text_run

CELLS = "cells"


_BINARY, _FLOAT = specs.Binary(), specs.Float()
_LOGIT = distil.Distillation(logit=8.0)


@dataclasses.dataclass(frozen=True)
class Cell:
  """The base with one thing changed."""

  name: str
  # Form of the backbone's latent kernels.
  weights: specs.Spec = _BINARY
  # Whether features are signs, with which surrogate, and whether they start
  # soft.
  binary_activations: bool = True
  sign: str = "approx"
  soft_start: bool = True
  # Width of the features that enter the BiLSTM and the head; None: float.
  activation_bits: int | None = None
  # What the teacher adds.
  distillation: distil.Distillation | None = _LOGIT
  # one: everything at once; two: features first, then weights; fsp: the FSP
  # matrices alone first, then CTC alone (Yim et al. 2017).
  stages: str = "one"
  # Form of the BiLSTM's kernels.
  bilstm: specs.Spec = _FLOAT
  # How the backbone's latent kernels learn.
  latent: optimiser.LatentRule = optimiser.CLIPPED_ADAM


_FSP = dict(pairs=bnn_crnn.FSP_PAIRS, logit=0.0)
_BLOCKS = tuple(exit for _, exit in bnn_crnn.FSP_PAIRS)
_INT8 = specs.Affine(affine.Grid(bits=8))
GRID = (
  Cell("base"),
  Cell("distil_none", distillation=None),
  Cell("distil_fsp", distillation=distil.Distillation(fsp=1.0, **_FSP)),
  Cell(
    "distil_fsp_first",
    distillation=distil.Distillation(fsp=1.0, **_FSP),
    stages="fsp",
  ),
  Cell(
    "distil_attention",
    distillation=distil.Distillation(logit=0.0, attention=500.0, names=_BLOCKS),
  ),
  Cell(
    "distil_feature",
    distillation=distil.Distillation(
      logit=0.0, feature=80.0, names=bnn_crnn.FEATURE_TAPS
    ),
  ),
  # As bnn_crnn does.
  Cell(
    "distil_feature_logit",
    distillation=distil.Distillation(
      logit=24.0, feature=80.0, names=bnn_crnn.FEATURE_TAPS
    ),
  ),
  Cell(
    "distil_all",
    distillation=distil.Distillation(
      logit=8.0,
      fsp=1.0,
      attention=500.0,
      pairs=bnn_crnn.FSP_PAIRS,
      names=_BLOCKS,
    ),
  ),
  Cell("bilstm_int8", bilstm=_INT8),
  Cell("bilstm_ternary", bilstm=specs.Ternary()),
  Cell("bilstm_binary", bilstm=_BINARY),
  Cell("bilstm_int4", bilstm=specs.Affine(affine.Grid(bits=4))),
  Cell("bilstm_lsq4", bilstm=specs.LSQ(bits=4)),
  Cell("stages_two", stages="two"),
  Cell("features_float", binary_activations=False),
  Cell("features_int8", activation_bits=8),
  Cell("weights_float", weights=_FLOAT),
  Cell("weights_ternary", weights=specs.Ternary()),
  Cell("weights_dorefa2", weights=specs.DoReFa(bits=2)),
  Cell("weights_through_scale", weights=specs.Binary(through_scale=True)),
  Cell("optimiser_gated", latent=optimiser.GatedAdam(limit=0.5)),
  # Signs from the first update on. More gamma than published, as a cell has a
  # thousandth of the updates; thresholds that, by the moments of the first 25
  # updates, some hundredths of the weights can reach. Not tuned by results.
  Cell("optimiser_bop", latent=optimiser.Bop(gamma=1e-2, threshold=2e-4)),
  Cell(
    "optimiser_bop2nd",
    latent=optimiser.Bop2nd(gamma=1e-2, sigma=1e-2, threshold=0.25),
  ),
  Cell("sign_hard_approx", soft_start=False),
  Cell("sign_hard_ste", soft_start=False, sign="ste"),
  Cell("sign_hard_swish", soft_start=False, sign="swish"),
)


@dataclasses.dataclass(frozen=True)
class Config(text_config.TextConfig):
  """Everything that a run depends on."""

  # A run or file of `--experiment=crnn`; empty: the shipped one.
  teacher: str = ""
  # Updates of a cell, over its stages.
  steps: int = 300
  # Runs of a cell; they see different lines.
  seeds: int = 3
  # Cells whose whole name matches this regex; empty: all. It may be another
  # one each time the same folder is gone on with.
  only: str = ""

  # Fields that say what to do now, not what the results are.
  SELECTIONS: ClassVar[tuple[str, ...]] = ("only",)

  def validate(self) -> None:
    """Raises ValueError for the first thing that cannot work."""
    super().validate()
    text_config.check_fields(
      self,
      [
        ("steps", "10 or more", lambda v: v >= 10),
        ("seeds", "above 0", lambda v: v > 0),
      ],
    )
    chosen(self)
    alphabet = alphabet_lib.load_alphabet(self.alphabet)
    path = self.teacher or zoo.path("numeric-float")
    fault = bnn_crnn.misfit(bnn_crnn.load_teacher(path), self, alphabet)
    if fault:
      raise ValueError(
        f"teacher={path}: {fault}; train one with --experiment=crnn"
      )


def chosen(config: Config) -> list[Cell]:
  """The cells to run.

  Raises:
    ValueError: `only` is no regex or matches none.
  """
  try:
    found = [c for c in GRID if re.fullmatch(config.only or ".*", c.name)]
  except re.error as error:
    raise ValueError(f"only={config.only!r} is no regex: {error}") from error
  if not found:
    raise ValueError(
      f"only={config.only!r} matches no cell; there are "
      + ", ".join(cell.name for cell in GRID)
    )
  return found


def make_stages(cell: Cell, config: Config) -> tuple[stages.Stage, ...]:
  """What a cell trains, in order."""
  soft = 0.5 if cell.soft_start else 0.0
  whole = stages.Stage(
    cell.name,
    config.steps,
    learning_rate=config.learning_rate,
    rules=make_rules(cell),
    harden_signs=soft,
    harden_weights=soft,
    distillation=cell.distillation,
    latent=cell.latent,
    fresh=bnn_crnn.FRESH_RANGES if cell.activation_bits else (),
  )
  half = dataclasses.replace(whole, steps=config.steps // 2)
  if cell.stages == "two":
    return (
      dataclasses.replace(
        half, name=f"{cell.name}_signs", rules=rules_lib.ALL_FLOAT
      ),
      dataclasses.replace(half, harden_signs=0.0),
    )
  if cell.stages == "fsp":
    return (
      dataclasses.replace(half, name=f"{cell.name}_matrices", task=0.0),
      dataclasses.replace(
        half, distillation=None, harden_signs=0.0, harden_weights=0.0
      ),
    )
  return (whole,)


def make_rules(cell: Cell) -> rules_lib.Rules:
  """The form of every parameter."""
  return (
    (r"backbone/.*/binary_kernel", cell.weights),
    (r"bilstm/.*kernel", cell.bilstm),
    *rules_lib.ALL_FLOAT,
  )


def run(config: Config, workdir: str | os.PathLike) -> dict:
  """Runs the cells that are not done, writes the table; returns the report."""
  run = text_run.TextRun(config, workdir)
  twin, student = bnn_crnn.architectures(config, run.alphabet)
  path = config.teacher or zoo.path("numeric-float")
  found = bnn_crnn.load_teacher(path)
  origin = bnn_crnn.hold_teacher(run, path, found)
  teacher = ship.load_weights(found)
  lines, scores = run.judge(teacher, twin, rules_lib.ALL_FLOAT)
  run.say(f"teacher: line accuracy {scores['line_accuracy']:.3f}")
  rows = []
  wanted = chosen(config)
  for cell in GRID:
    results = [
      _result(cell, seed, config, run, student, (twin, teacher), cell in wanted)
      for seed in range(config.seed, config.seed + config.seeds)
    ]
    if None in results:
      continue  # Neither asked for nor done earlier.
    rows.append({"name": cell.name, **spread(results)})
    run.say(row(rows[-1]))
  figures = {
    **scores,
    "parameters": state_lib.count_parameters(teacher.params),
    "steps": config.steps,
    "bytes": bnn_crnn.sizes(teacher, rules_lib.ALL_FLOAT)["bytes"],
    "teacher": origin,
    "cells": rows,
  }
  _write(run.workdir / "table.md", table(rows, scores, config))
  return run.report(figures, lines)


def spread(results: list[Mapping[str, Any]]) -> dict:
  """Mean and sample standard deviation over the seeds, and their number."""
  found = {"seeds": len(results)}
  for name in ("line_accuracy", "cer", "real"):
    values = [r[name] for r in results if r.get(name) is not None]
    if values:
      found[name] = float(np.mean(values))
      deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
      found[f"{name}_std"] = float(deviation)
  return found


def row(found: Mapping[str, Any]) -> str:
  """One line of the table, in Markdown."""
  cells = [found["name"]]
  for name in ("line_accuracy", "cer", "real"):
    cells.append(
      f"{found[name]:.3f} +- {found[f'{name}_std']:.3f}"
      if name in found
      else ""
    )
  return f"| {' | '.join(cells)} |"


def table(rows, teacher, config) -> str:
  """All lines, in Markdown."""
  real = teacher.get("real", {}).get("line_accuracy")
  float_row = {
    "name": "teacher (float)",
    "line_accuracy": teacher["line_accuracy"],
    "line_accuracy_std": 0.0,
    "cer": teacher["cer"],
    "cer_std": 0.0,
  }
  if real is not None:
    float_row |= {"real": real, "real_std": 0.0}
  return "\n".join(
    [
      f"{config.steps} steps of {config.batch_size} lines a cell, "
      f"{config.seeds} seeds, {config.eval_lines} rendered lines; mean +- "
      "standard deviation.",
      "",
      "| cell | line accuracy | CER | real line accuracy |",
      "|---|---|---|---|",
      row(float_row),
      *map(row, rows),
      "",
    ]
  )


def _result(cell, seed, config, run, student, teacher, wanted) -> dict | None:
  """Of a cell and seed: kept, or trained now if it is wanted, or None."""
  series = f"{CELLS}/{cell.name}-{seed}"
  kept = run.workdir / f"{series}.json"
  if kept.exists():
    _clear(run, series)  # A kill may have come between.
    return json.loads(kept.read_text(encoding="utf-8"))
  if not wanted:
    return None
  architecture = {
    **student,
    "binary_activations": cell.binary_activations,
    "sign": cell.sign,
    "activation_bits": cell.activation_bits,
    "freeze_after": config.steps // 2,
  }
  weights = teacher[1]
  for stage in make_stages(cell, config):
    weights = run.train(
      stage,
      architecture,
      start=weights,
      teacher=teacher,
      seed=seed,
      series=series,
    )
  _, scores = run.judge(weights, architecture, make_rules(cell))
  found = {"cell": cell.name, "seed": seed, **scores}
  if "real" in scores:
    found["real"] = scores["real"]["line_accuracy"]
  _write(kept, json.dumps(found) + "\n")
  _clear(run, series)
  return found


def _clear(run, series) -> None:
  """Removes a done cell's checkpoints; its curves stay."""
  distributed.barrier(f"{series} done")
  if distributed.is_writer():
    shutil.rmtree(run.workdir / series / "checkpoints", ignore_errors=True)


def _write(path: pathlib.Path, text: str) -> None:
  if distributed.is_writer():
    path.parent.mkdir(exist_ok=True)
    with files.aside(path) as part:
      part.write_text(text, encoding="utf-8")
