"""Which part of the binary CRNN's recipe gives what: one factor at a time.

  python launch.py --experiment=bnn_ablation

Two cores: 2 min a cell and seed. Features are most of what a teacher gives.

Every cell starts from the shipped float teacher and changes one thing of the
base: weights alpha * sign(w), features ApproxSign (W1A1) that start soft, logit
distillation, one stage, float BiLSTM. Seeds differ in the lines seen; cells of
one seed see the same lines in the same order, so that they can be compared in
pairs. Done cells are kept, so that the command goes on where it stopped;
--cfg.only=REGEX picks cells. The curves of each are in cells/NAME-SEED.
"""

from collections.abc import Mapping
import dataclasses
import itertools
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
  # Runs of a cell; they see different lines. The same folder may be gone on
  # with for more of them.
  seeds: int = 3
  # Cells whose whole name matches this regex; empty: all. It may be another
  # one each time the same folder is gone on with.
  only: str = ""

  # Fields that say what to do now, not what the results are.
  SELECTIONS: ClassVar[tuple[str, ...]] = ("only", "seeds")

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
  todo = {
    cell: seeds
    for cell in chosen(config)
    if (seeds := [s for s in _seeds(config) if _kept(cell, s, run) is None])
  }
  for now, later in itertools.zip_longest(todo, [*todo][1:]):
    for seed in todo[now]:
      _train(now, later, seed, config, run, student, (twin, teacher))
    run.say(row({"name": now.name, **spread(_results(now, config, run))}))
  rows = [
    {"name": cell.name, **spread(results)}
    for cell in GRID
    if (results := _results(cell, config, run))
  ]
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


def _seeds(config):
  return range(config.seed, config.seed + config.seeds)


def _series(cell, seed) -> str:
  return f"{CELLS}/{cell.name}-{seed}"


def _kept(cell, seed, run) -> dict | None:
  """What a cell gave with a seed; None: it is not done."""
  series = _series(cell, seed)
  kept = run.workdir / f"{series}.json"
  if not kept.exists():
    return None
  _clear(run, series)  # A kill may have come between.
  return json.loads(kept.read_text(encoding="utf-8"))


def _results(cell, config, run) -> list[dict]:
  """Of all seeds; none where one is not done."""
  results = [_kept(cell, seed, run) for seed in _seeds(config)]
  return [] if None in results else results


def _architecture(cell, config, student) -> dict:
  return {
    **student,
    "binary_activations": cell.binary_activations,
    "sign": cell.sign,
    "activation_bits": cell.activation_bits,
    "freeze_after": config.steps // 2,
  }


def _train(cell, later, seed, config, run, student, teacher) -> None:
  """Trains and judges a cell; what comes after it is compiled meanwhile."""
  series = _series(cell, seed)
  architecture = _architecture(cell, config, student)
  plan = [(stage, architecture) for stage in make_stages(cell, config)]
  after = []
  if later:
    next_one = _architecture(later, config, student)
    after = [(make_stages(later, config)[0], next_one)]
  weights = teacher[1]
  for now, following in itertools.zip_longest(plan, [*plan[1:], *after]):
    if following:
      run.expect(*following, teacher=teacher)
    weights = run.train(
      *now, start=weights, teacher=teacher, seed=seed, series=series
    )
  _, scores = run.judge(weights, architecture, make_rules(cell))
  found = {"cell": cell.name, "seed": seed, **scores}
  if "real" in scores:
    found["real"] = scores["real"]["line_accuracy"]
  _write(run.workdir / f"{series}.json", json.dumps(found) + "\n")
  _clear(run, series)


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
