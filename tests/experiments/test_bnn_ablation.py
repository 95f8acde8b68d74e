"""The grid, its stages, its table; training is that of bnn_crnn."""

import dataclasses
import json
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import bnn_ablation
from jaxocr.compress import specs
from jaxocr.text import ctc
from jaxocr.train import optimiser
from jaxocr.train import report_lines
from jaxocr.train import ship
from jaxocr.train import state as state_lib
from jaxocr.train import text_run
from jaxocr.train import text_step
from jaxocr.train import workdirs
from jaxocr.train import writers

CONFIG = bnn_ablation.Config()
CELLS = {cell.name: cell for cell in bnn_ablation.GRID}


def test_the_defaults_are_valid():
  CONFIG.validate()


@pytest.mark.parametrize(
  "change, text",
  [
    ({"only": "nothing"}, "matches no cell; there are base, "),
    ({"only": "("}, "is no regex"),
    ({"steps": 9}, "steps=9"),
    ({"seeds": 0}, "seeds=0"),
    ({"hidden": 64}, "hidden is 96, wanted 64"),
    ({"teacher": "/nowhere"}, "there is no such file"),
  ],
)
def test_what_cannot_work_is_refused_up_front(change, text):
  with pytest.raises(ValueError, match=text):
    dataclasses.replace(CONFIG, **change).validate()


def test_a_cell_changes_one_thing():
  base = CELLS["base"]
  for cell in bnn_ablation.GRID[1:]:
    fields = dataclasses.fields(cell)[1:]
    changed = {
      f.name for f in fields if getattr(cell, f.name) != getattr(base, f.name)
    }
    # Hard signs are compared with each other, the first two stages of FSP with
    # FSP.
    assert len(changed) == 1 or cell.name in (
      "sign_hard_ste",
      "sign_hard_swish",
      "distil_fsp_first",
    ), cell.name


def test_stages_of_fsp_as_published():
  first, second = bnn_ablation.make_stages(CELLS["distil_fsp_first"], CONFIG)
  assert first.task == 0 and first.distillation.fsp
  assert second.task == 1 and second.distillation is None
  assert first.steps + second.steps == CONFIG.steps


def test_rules_name_the_bilstm_apart():
  rules = bnn_ablation.make_rules(CELLS["bilstm_ternary"])
  assert dict(rules)[r"bilstm/.*kernel"] == specs.Ternary()


def test_mean_and_spread_by_hand():
  found = bnn_ablation.spread(
    [{"line_accuracy": 0.5, "cer": 0.1}, {"line_accuracy": 0.7, "cer": 0.1}]
  )
  assert found["seeds"] == 2 and found["line_accuracy"] == pytest.approx(0.6)
  assert found["line_accuracy_std"] == pytest.approx(0.1 * 2**0.5)
  assert "real" not in found
  row = bnn_ablation.row({"name": "x", **found})
  assert row == "| x | 0.600 +- 0.141 | 0.100 +- 0.000 |  |"


class Lines:
  """Stands for compiled steps: which lines each cell saw, and nothing else."""

  def __init__(self, monkeypatch):
    self.seen = []
    monkeypatch.setattr(text_step, "make_step", self._make_step)

  def _make_step(self, config, stage, *args, **more):
    def begin(weights):
      weights = weights or ship.Weights({}, {})  # Compiled ahead.
      state = state_lib.TrainState(
        step=np.zeros((), np.int32),
        params=weights.params,
        collections=weights.collections,
        opt_state={},
        ema_params=weights.params,
        ema_collections=weights.collections,
      )
      return jax.tree.map(jnp.asarray, state), []

    def step(state, assets, key, at, teacher):
      data = tuple(jax.random.key_data(key).tolist())
      self.seen.append((stage.name, data, at))
      one = jnp.ones(())
      metrics = {"loss": (one, one), "finite": (one, one)}
      return state.replace(step=state.step + 1), metrics

    step.compile = lambda *args: None
    return begin, step


def _small(tmp_path, monkeypatch, **more):
  """A run of ten steps a cell, in which nothing is computed."""
  lines = Lines(monkeypatch)
  monkeypatch.setattr(text_run.TextRun, "_evaluator", lambda *_: _Nothing())
  config = dataclasses.replace(
    CONFIG, steps=10, eval_lines=4, log_every=1, **more
  )
  bnn_ablation.run(config, tmp_path)
  return lines.seen


class _Nothing:
  """Stands for an evaluator: one line, always misread."""

  def rendered(self, state, count):
    reading = ctc.Reading("", 0.5, ())
    image = np.zeros((32, 8), np.uint8)
    return [report_lines.LineResult(image, "1", reading, "rendered")]


def test_cells_of_a_seed_see_the_same_lines(tmp_path, monkeypatch):
  only = "distil_none|stages_two|base"
  seen = _small(tmp_path, monkeypatch, only=only, seeds=2)
  assert len(seen) == 3 * 2 * 10
  cells = [[line[1:] for line in seen[i : i + 10]] for i in range(0, 60, 10)]
  # base and distil_none: two seeds each, then stages_two in two stages.
  assert cells[0] == cells[2] == cells[4] and cells[1] == cells[3] == cells[5]
  assert len(set(cells[0] + cells[1])) == 20
  assert [step for _, step in cells[4]] == list(range(10))
  names = [line[0] for line in seen[40:50]]
  assert names == ["stages_two_signs"] * 5 + ["stages_two"] * 5


def test_more_seeds_of_a_done_grid_train_those_alone(tmp_path, monkeypatch):
  config = dataclasses.replace(CONFIG, steps=10, eval_lines=4, log_every=1)
  one = {"only": "base", "seeds": 1}
  workdirs.claim(
    tmp_path, "bnn_ablation", dataclasses.replace(config, **one), False
  )
  first = _small(tmp_path, monkeypatch, **one)
  more = {"only": "base", "seeds": 2}
  assert not workdirs.claim(
    tmp_path, "bnn_ablation", dataclasses.replace(config, **more), False
  )
  second = _small(tmp_path, monkeypatch, **more)
  assert len(first) == len(second) == 10
  assert not {line[1] for line in first} & {line[1] for line in second}
  report = json.loads((tmp_path / "report.json").read_text())
  assert report["cells"][0]["seeds"] == 2


def test_an_earlier_cell_leaves_the_curves_of_a_later_one(
  tmp_path, monkeypatch
):
  def curves(cell):
    return [x["step"] for x in writers.read_history(tmp_path / "cells" / cell)]

  _small(tmp_path, monkeypatch, only="stages_two", seeds=1)
  before = curves("stages_two-0")
  assert sorted(set(before)) == list(range(1, 11))
  assert _small(tmp_path, monkeypatch, only="base", seeds=1)
  assert curves("stages_two-0") == before
  assert sorted(set(curves("base-0"))) == list(range(1, 11))
  # Done cells are not run again, and keep no checkpoints.
  assert not _small(tmp_path, monkeypatch, only="base|stages_two", seeds=1)
  assert not list(tmp_path.glob("cells/*/checkpoints"))
  rows = json.loads((tmp_path / "report.json").read_text())["cells"]
  assert [row["name"] for row in rows] == ["base", "stages_two"]


def test_cells_that_learn_in_another_way():
  stages = {
    name: bnn_ablation.make_stages(CELLS[name], CONFIG)[-1] for name in CELLS
  }
  assert stages["base"].latent == optimiser.CLIPPED_ADAM
  kinds = {type(stage.latent) for stage in stages.values()}
  assert kinds == set(typing.get_args(optimiser.LatentRule))
  assert stages["features_int8"].fresh and not stages["base"].fresh
  assert dict(stages["bilstm_lsq4"].rules)[r"bilstm/.*kernel"] == specs.LSQ(4)
