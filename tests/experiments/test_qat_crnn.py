"""A float network to 8 bits: settings, and a whole run of two steps."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import qat_crnn
from jaxocr import reader as reader_lib
from jaxocr.compress import packed
from jaxocr.compress import rules as rules_lib
from jaxocr.export import check
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.train import ship
from tests.export import tiny

NUMERIC = alphabet_lib.load_alphabet("numeric")
TINY = qat_crnn.Config(
  steps=2,
  batch_size=8,
  width=64,
  max_length=8,
  stem_channels=4,
  projection=8,
  hidden=12,
  eval_lines=8,
  progress_lines=8,
  log_every=1,
  calibration_lines=16,
)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"calibration_lines": 12}, "multiple of batch_size=8"),
    ({"freeze_share": 0.0}, r"freeze_share=0\.0"),
    ({"logit": -1.0}, r"logit=-1\.0"),
    ({"teacher": "nowhere"}, "there is no such file"),
  ],
)
def test_settings_that_cannot_work(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(TINY, **change).validate()


def test_rules_fold_and_leave_room_for_sums_of_two_products():
  assert ship.folds(qat_crnn.RULES)
  params = tiny.weights("float").params
  stored = jax.jit(lambda p: rules_lib.pack(p, qat_crnn.RULES))(params)
  block = stored["backbone"]["block0"]["spatial"]["conv"]["binary_kernel"]
  assert block.bits == 7 and stored["collapse"]["kernel"].bits == 7
  # 255 * 63 twice stays below 2^15.
  assert 2 * 255 * (2 ** (block.bits - 1) - 1) < 2**15
  assert stored["bilstm"]["forward_input_kernel"].bits == 8
  assert isinstance(stored["head"]["kernel"], packed.FloatTensor)
  assert stored["head"]["kernel"].form == "float32"


@pytest.mark.slow
def test_a_run_compares_three_networks(tmp_path, monkeypatch):
  monkeypatch.setattr(check, "TURNS", 1)
  teacher = tmp_path / "teacher.safetensors"
  # The same layers, with this alphabet's classes.
  sizes = {**tiny.SIZES, "num_classes": NUMERIC.num_classes}
  monkeypatch.setattr(tiny, "SIZES", sizes)
  ship.save(
    teacher,
    tiny.weights.__wrapped__("float"),
    {**sizes, "backbone": "binary", "binary_activations": False},
    None,
    NUMERIC,
    {"steps": 0},
  )
  config = dataclasses.replace(TINY, teacher=str(teacher))
  config.validate()
  run = tmp_path / "run"
  report = qat_crnn.run(config, run)
  assert json.loads((run / "report.json").read_text())["finished"]
  names = [variant["name"] for variant in report["variants"]]
  assert names == ["float", "post", "qat"]
  table = (run / "table.md").read_text().splitlines()
  assert len(table) == 5 and table[4].startswith("| qat |")
  model = reader_lib.load_model(run / "model.safetensors")
  ranges = model.stored.collections["ranges"]
  # Two batches looked at; of two steps, the ranges followed both.
  assert int(ranges["frames_range"]["count"]) == 4
  assert np.all(ranges["frames_range"]["high"] > ranges["frames_range"]["low"])
  float_, post, qat = report["variants"]
  assert post["bytes"] == qat["bytes"] < 0.5 * float_["bytes"]
  assert qat["macs_by_precision"] != float_["macs_by_precision"]
