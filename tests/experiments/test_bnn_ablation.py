"""The grid, its stages, its table; training is that of bnn_crnn."""

import dataclasses

import pytest

from experiments import bnn_ablation
from jaxocr.compress import specs

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
