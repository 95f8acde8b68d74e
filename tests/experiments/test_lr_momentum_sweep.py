"""The sweep on a handful of digits."""

import dataclasses
import json

import pytest

from experiments import digits_table
from experiments import lr_momentum_sweep as sweep
from jaxocr.data import digits
from jaxocr.data import idx
from jaxocr.train import digit_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CONFIG = sweep.Config(
  dataset="digits",
  learning_rates="0.05,1e9",
  momenta="0.1",
  epochs=2,
  batch_size=8,
  log_every=1,
)


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
  found = digits.load("digits")
  few = digits.DigitSet(
    found.name,
    idx.Digits(found.train.images[:8], found.train.labels[:8]),
    idx.Digits(found.test.images[:11], found.test.labels[:11]),
    found.classes,
  )
  monkeypatch.setattr(digits, "load", lambda *args, **kwargs: few)


@pytest.mark.slow
def test_each_setting_is_run_once_and_a_death_is_a_result(
  tmp_path, monkeypatch
):
  CONFIG.validate()
  figures = sweep.run(CONFIG, tmp_path)
  alive, dead = figures["cells"]
  assert (alive["learning_rate"], dead["learning_rate"]) == (0.05, 1e9)
  assert not alive["died"]
  assert "not finite" in dead["died"] and dead["test_accuracy"] is None
  assert 0 <= alive["dead_relus"] <= 1
  assert figures["best"] == {"learning_rate": 0.05, "momentum": 0.1}
  assert figures["test_accuracy"] == alive["test_accuracy"]
  assert (tmp_path / "sweep.png").read_bytes()[:4] == b"\x89PNG"
  assert "data:image/png" in (tmp_path / "report.html").read_text()
  kept = json.loads((tmp_path / "cells" / "lr0.05_m0.1.json").read_text())
  assert [step for step, _ in kept["curve"]] == [1, 2]
  text = (tmp_path / "table.md").read_text()
  assert text.count("\n") == 4 and "| 1e+09 | 0.1 | - | - | the loss" in text

  # What is done is not done again.
  monkeypatch.setattr(digit_run.DigitRun, "train", None)
  again = sweep.run(CONFIG, tmp_path)
  assert again["cells"] == figures["cells"]


@pytest.mark.parametrize(
  "change, text",
  [
    ({"learning_rates": "0.1,x"}, "learning_rates='0.1,x'; it must be numbers"),
    ({"momenta": "0.1,1"}, "momenta='0.1,1'; it must be numbers from 0 to"),
    ({"momenta": ""}, "momenta=''; it must be"),
    ({"seeds": 3}, "seeds=3; it must be 1"),
    ({"form": "int8"}, "form='int8'; it must be float"),
  ],
)
def test_what_cannot_work_is_told(change, text):
  with pytest.raises(ValueError, match=text):
    dataclasses.replace(CONFIG, **change).validate()


@pytest.mark.slow
def test_the_table_trains_what_is_chosen_and_counts_all(tmp_path):
  config = digits_table.Config(
    dataset="digits", only="lenet5", epochs=1, seeds=2, batch_size=8
  )
  config.validate()
  figures = digits_table.run(config, tmp_path)
  rows = {row["network"]: row for row in figures["networks"]}
  assert figures["best"] == "lenet5" and figures["seeds"] == 2
  assert rows["lenet5"]["step_ms"] > 0
  assert "test_accuracy" not in rows["cnn"]
  # SqueezeNet is to have 50 times fewer parameters than AlexNet.
  photos = rows[digits_table.PHOTOS]
  assert photos["parameters"] == 62378344
  assert photos["parameters"] / rows["squeezenet"]["parameters"] > 50
  text = (tmp_path / "table.md").read_text()
  assert "| two_scale | - | - | 43,306 | 173,224 |" in text
  for only, told in (("x", "matches no network"), ("(", "is no regex")):
    with pytest.raises(ValueError, match=told):
      dataclasses.replace(config, only=only).validate()
