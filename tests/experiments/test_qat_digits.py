"""A float digit network to 8 bits: settings, and a run of a few steps."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import qat_digits
from jaxocr.compress import packed
from jaxocr.compress import rules as rules_lib
from jaxocr.data import digits
from jaxocr.data import idx
from jaxocr.export import digit_model
from jaxocr.train import digit_config
from jaxocr.train import ship
from tests.export import tiny_digits

# tensorboardX hands NumPy an array where it wants a number.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CONFIG = qat_digits.Config(
  dataset="digits",
  batch_size=8,
  qat_epochs=3,
  calibration_images=16,
  log_every=1,
)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"freeze_share": 0.0}, r"freeze_share=0\.0"),
    ({"form": "int8"}, "float: what is rounded"),
    ({"seeds": 2}, "one network is rounded"),
    ({"start": "nowhere"}, "start=nowhere: there is no nowhere"),
  ],
)
def test_settings_that_cannot_work(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **change).validate()


def test_a_start_that_is_rounded_already(tmp_path):
  path = tmp_path / "m.safetensors"
  tiny_digits.save(path, "lenet5", "int8")
  with pytest.raises(ValueError, match="is no float digit network"):
    dataclasses.replace(CONFIG, start=str(path)).validate()


def test_rules_fold_and_leave_room_for_sums_of_two_products():
  assert ship.folds(digit_config.QAT)
  kernel = jax.numpy.ones((5, 5, 6, 16))
  stored = rules_lib.pack(
    {
      "c1": {"kernel": kernel},
      "c3": {"binary_kernel": kernel},
      "out_bias": {"offset": kernel[0, 0, 0]},
    },
    digit_config.QAT,
  )
  # 255 * 63 twice stays below 2^15.
  assert 2 * 255 * (2 ** (stored["c3"]["binary_kernel"].bits - 1) - 1) < 2**15
  assert stored["c1"]["kernel"].bits == 8


@pytest.mark.slow
def test_a_run_compares_three_networks(tmp_path, monkeypatch):
  found = digits.load("digits")
  few = digits.DigitSet(
    found.name,
    idx.Digits(found.train.images[:24], found.train.labels[:24]),
    idx.Digits(found.test.images[:16], found.test.labels[:16]),
    found.classes,
  )
  monkeypatch.setattr(digits, "load", lambda *_, **__: few)
  start = tmp_path / "m.safetensors"
  exact = tiny_digits.save(start, "lenet5", "float")
  config = dataclasses.replace(CONFIG, start=str(start))
  config.validate()
  report = qat_digits.run(config, tmp_path / "run")
  assert [v["name"] for v in report["variants"]] == ["float", "post", "qat"]
  sizes = [v["bytes"] for v in report["variants"]]
  # 150 weights of 8 bits, 61,320 of 7, offsets and scales of 16.
  channels = 6 + 16 + 120 + 84 + 10
  assert sizes[0] == 4 * (150 + 61320 + channels)
  by_layer = (2400, 48000, 10080, 840)
  assert (
    sizes[1]
    == sizes[2]
    == 150 + sum(-(-7 * n // 8) for n in by_layer) + 2 * 2 * channels
  )
  assert report["bytes"] == sizes[2] and report["steps"] == 9
  table = (tmp_path / "run" / qat_digits.TABLE_NAME).read_text()
  assert [row.split(" | ")[0] for row in table.splitlines()] == [
    *("| network", "| ---", "| float", "| post", "| qat")
  ]
  shipped = digit_model.load(tmp_path / "run" / "model.safetensors")
  kernel = shipped.stored.params["c3"]["binary_kernel"]
  assert isinstance(kernel, packed.AffineTensor) and kernel.bits == 7
  # Begun from the given weights, and moved a little from them.
  before = exact.stored.params["c3"]["binary_kernel"].dequantise()
  moved = np.abs(kernel.dequantise() - before).mean() / np.abs(before).mean()
  assert 0 < moved < 0.1
  # Two batches looked at, then those of 80 % of nine steps.
  assert int(shipped.stored.collections["ranges"]["c3_range"]["count"]) == 9
  # As the file reads them.
  engine = digit_model.JaxEngine(shipped)
  read = engine.logits(digit_model.pixels(few.test.images)).argmax(-1)
  assert np.mean(read == few.test.labels) == report["test_accuracy"]
  assert json.loads((tmp_path / "run" / "report.json").read_text()) == report
