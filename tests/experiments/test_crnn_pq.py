"""Settings of the shipped recogniser: one in small, and what is said of all."""

import dataclasses
import json

import jax
import pytest

from experiments import crnn_pq
from jaxocr.compress import rules as rules_lib
from jaxocr.compress import summary
from jaxocr.export import bundle
from jaxocr.train import bytes_chart

# tensorboardX hands NumPy an array where it wants a number.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CONFIG = crnn_pq.Config(
  only="pq2_bilstm",
  batch_size=8,
  width=48,
  max_length=3,
  batches=2,
  sweeps=1,
  eval_lines=8,
  tune="pq2_bilstm",
  tune_steps=2,
)


@pytest.mark.slow
def test_a_setting_and_its_fine_tuning(tmp_path):
  CONFIG.validate()
  figures = crnn_pq.run(CONFIG, tmp_path / "run")
  rows = figures["variants"]
  assert [row["name"] for row in rows] == ["pq2_bilstm", "pq2_bilstm_tuned"]
  assert rows[0]["bytes"] == rows[1]["bytes"]
  assert "uncorrected" in rows[0]
  layers = rows[0]["layers"]
  assert {row["layer"].split("/")[0] for row in layers} == {"bilstm"}
  for row in layers:
    assert row["error_after"] < row["error_before"]
  # Nothing is done twice.
  cells = tmp_path / "run" / "cells"
  first = (cells / "pq2_bilstm.json").stat().st_mtime_ns
  assert (tmp_path / "run" / "bytes.png").stat().st_size > 5000
  assert "| `pq2_bilstm_tuned` |" in (tmp_path / "run" / "table.md").read_text()
  found = bundle.load_bundle(cells / "pq2_bilstm.safetensors")
  whole = summary.summarise(found.params)
  assert whole.nbytes == rows[0]["bytes"]
  assert (cells / "pq2_bilstm.json").stat().st_mtime_ns == first
  assert json.loads((tmp_path / "run" / "report.json").read_text()) == figures


def test_every_setting_fits_the_shipped_networks():
  for name in crnn_pq.SETTINGS:
    setting = crnn_pq.SETTINGS[name]
    source = crnn_pq.load_source(setting.source)
    if setting.rules is None or setting.source == crnn_pq.ONE_BIT:
      continue
    shapes = jax.eval_shape(lambda p: p, source.params)
    recipe, _ = rules_lib.leave_unfit(
      shapes, setting.rules, crnn_pq.specs.Affine()
    )
    found = summary.summary(shapes, recipe)
    assert found.nbytes <= found.float_nbytes, name


def test_better_is_smaller_and_no_worse():
  row = lambda name, nbytes, accuracy, real=None: {  # noqa: E731
    "name": name,
    "bytes": nbytes,
    "line_accuracy": accuracy,
    "real": real and {"line_accuracy": real},
  }
  plain = row("int8", 500, 0.970, 0.880)
  rows = [
    row("float", 2000, 0.99, 0.9),
    plain,
    row("worse", 300, 0.975, 0.87),
    row("better", 400, 0.971, 0.880),
    row("best", 450, 0.972, 0.881),
  ]
  assert crnn_pq.better_than_int8(rows)["name"] == "best"
  assert crnn_pq.better_than_int8(rows[:3]) is None
  assert crnn_pq.better_than_int8(rows[:1]) is None


def test_unknown_settings_are_named():
  for change, complaint in (
    (dict(tune="pq3"), "tune='pq3' has pq3; there are float, int8"),
    (dict(only="pq3"), "only='pq3' matches no setting"),
    (dict(alphabet="latin"), "alphabet='latin'; it must be numeric"),
  ):
    with pytest.raises(ValueError, match=complaint):
      dataclasses.replace(CONFIG, **change).validate()


def test_a_measure_that_is_unknown_is_left_out_of_its_panel(tmp_path):
  rows = [
    {"name": "a", "family": "pq", "bytes": 1000, "x": 0.5, "y": None},
    {"name": "b", "family": "int", "bytes": 9000, "x": 0.6, "y": 0.7},
  ]
  bytes_chart.draw(tmp_path / "a.png", rows, {"x": "X", "y": "Y"})
  assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
