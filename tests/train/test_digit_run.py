"""A digit run of two steps: what it leaves, and that it can be stopped."""

import dataclasses
import json
import os
import pathlib
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import lenet5
from jaxocr import cli
from jaxocr import inspection
from jaxocr.data import digits
from jaxocr.data import idx
from jaxocr.data import preprocess
from jaxocr.export import bundle
from jaxocr.text import ctc
from jaxocr.train import digit_board
from jaxocr.train import digit_config
from jaxocr.train import digit_figures
from jaxocr.train import digit_report
from jaxocr.train import digit_run
from jaxocr.train import interrupt
from jaxocr.train import report_lines
from jaxocr.train import workdirs
from jaxocr.train import writers

# tensorboardX hands NumPy an array where it wants a number.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CONFIG = lenet5.Config(dataset="digits", seeds=2, epochs=2, batch_size=8)


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
  """Eight digits to learn from and eleven to be judged by."""
  found = digits.load("digits")
  few = digits.DigitSet(
    found.name,
    idx.Digits(found.train.images[:8], found.train.labels[:8]),
    idx.Digits(found.test.images[:11], found.test.labels[:11]),
    found.classes,
  )
  monkeypatch.setattr(digits, "load", lambda *args, **kwargs: few)
  return few


@pytest.mark.slow
def test_two_steps_leave_all_that_a_run_leaves(tmp_path, few_digits, capsys):
  CONFIG.validate()
  figures = lenet5.run(CONFIG, tmp_path / "run")
  stored = json.loads((tmp_path / "run" / "report.json").read_text())
  assert stored == figures and stored["finished"]
  assert stored["seeds"] == 2 and stored["steps"] == 2
  first, second = stored["accuracies"]
  assert stored["test_accuracy"] == pytest.approx((first + second) / 2)
  assert stored["test_accuracy_std"] == pytest.approx(
    abs(first - second) / 2**0.5
  )
  assert stored["parameters"] == 61706 and stored["bytes"] == 4 * 61706
  # 60,480 latent weights are an eighth of a byte, the rest a byte or two.
  assert 60480 / 8 < stored["bytes_of"]["binary"] < 60480 / 8 + 3000
  assert 61706 < stored["bytes_of"]["int8"] < 64000
  assert stored["macs"] == 416520 and stored["test_images"] == 11
  assert set(stored["dead_units"]) == {"c1", "c3", "c5", "f6"}
  history = writers.read_history(tmp_path / "run")
  steps = [e["step"] for e in history if "eval/line_accuracy" in e]
  assert steps == [1, 2, 3, 4]
  page = (tmp_path / "run" / "report.html").read_text()
  for part in (
    "Confusion matrix",
    "Most wrong",
    "mean of 2 seeds",
    "What it sees of a",
    "_saliency</figcaption>",
    "_filters</figcaption>",
  ):
    assert part in page
  left = {path.name for path in (tmp_path / "run").iterdir()}
  known = {
    p.name for x in workdirs.CONTENTS for p in (tmp_path / "run").glob(x)
  }
  assert left == known  # --restart knows all of it.
  events = b"".join(
    p.read_bytes() for p in (tmp_path / "run").glob("events.out*")
  )
  for tag in (b"c3/binary_kernel", b"layers/text_summary", b"eval/lines"):
    assert tag in events
  assert (tmp_path / "run" / "projector_config.pbtxt").exists()

  # The saved network can be looked into.
  found = inspection.inspect(
    tmp_path / "run" / bundle.BUNDLE_NAME, few_digits.test.images[0]
  )
  assert [*found.pictures][:2] == ["input", "c1"]
  assert {"c3", "f6", "out", "filters", "saliency"} < set(found.pictures)
  assert found.pictures["saliency"].max() == 255
  from PIL import Image

  photo = np.full((90, 90), 220, np.uint8)
  photo[20:70, 40:50] = 30
  Image.fromarray(photo).save(tmp_path / "photo.png")
  out = tmp_path / "maps"
  arguments = [str(tmp_path / "run"), str(tmp_path / "photo.png")]
  assert cli.main(["inspect", *arguments, "--out", str(out)]) == 0
  assert len(list(out.glob("*.png"))) == len(found.pictures)
  assert capsys.readouterr().out.count("photo.png\t") == 1


@pytest.mark.slow
@pytest.mark.parametrize("form", ["binary"])
def test_an_interrupted_run_goes_on_to_the_same_end(
  form, tmp_path, monkeypatch
):
  config = dataclasses.replace(CONFIG, seeds=1, form=form)
  ends, fit = [], digit_run.loop.fit

  def watched(state, train_step, *args, **kwargs):
    def step_and_stop(state, done):
      if not ends and not (tmp_path / "b/checkpoints/seed0/1").exists():
        os.kill(os.getpid(), signal.SIGINT)
      return train_step(state, done)

    end = fit(state, step_and_stop, *args, **kwargs)
    ends.append(jax.device_get(end))
    return end

  monkeypatch.setattr(digit_run.loop, "fit", watched)
  with pytest.raises(interrupt.Interrupted, match=r"Ctrl-C.* step 1"):
    lenet5.run(config, tmp_path / "b")
  assert not (tmp_path / "b" / "report.json").exists()
  resumed = lenet5.run(config, tmp_path / "b")
  whole = lenet5.run(config, tmp_path / "a")
  assert resumed["test_accuracy"] == whole["test_accuracy"]
  assert whole["bytes"] == whole["bytes_of"]["binary"]
  chex.assert_trees_all_equal(*ends)


def line(truth, read, sure):
  seen = ctc.Character(read, sure, 0, 4)
  reading = ctc.Reading(read, sure, (seen,))
  return report_lines.LineResult(
    np.zeros((4, 4), np.uint8), truth, reading, "real"
  )


def test_confusions_and_the_most_wrong_by_hand():
  lines = [line("0", "0", 0.9), line("0", "1", 0.6), line("2", "1", 0.8)]
  matrix = digit_report.confusion_matrix(lines, "012")
  assert matrix.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 0]]
  assert digit_report.most_wrong(lines) == [lines[2], lines[1]]
  assert digit_report.most_wrong(lines, count=1) == [lines[2]]


def test_a_report_must_say_all(tmp_path):
  with pytest.raises(ValueError, match="lacks test_accuracy_std, seeds"):
    digit_report.write(
      tmp_path, {"test_accuracy": 1.0}, history=[], lines=[], classes="01"
    )
  assert not list(tmp_path.iterdir())


def test_dead_units_by_hand():
  maps = np.zeros((3, 2, 2, 4))
  maps[1, 0, 1, 0] = maps[2, 1, 1, 2] = 0.5
  taps = {"c1": maps, "f6": np.array([[0.0, 1.0], [0.0, 0.0]]), "out": maps}
  assert digit_figures.dead_shares(taps) == {"c1": 0.5, "f6": 0.5}
  taps["c3"] = np.ones((1, 2, 2, 6))
  assert digit_figures.dead_total(taps) == pytest.approx(3 / 12)


def test_the_layer_table_adds_up():
  architecture = {"network": "lenet5", "norm": False}
  params = {
    "c1": {"kernel": jnp.zeros((5, 5, 1, 6))},
    "c1_bias": {"offset": jnp.zeros(6)},
  }
  table = digit_board.layer_table(architecture, params)
  assert table.splitlines()[2:] == ["| c1 | 28x28x6 | 156 | 117,600 |"]


@pytest.mark.parametrize(
  "change, text",
  [
    ({"form": "ternary"}, "form='ternary'; it must be one of"),
    ({"epochs": 0}, "epochs=0; it must be above 0"),
    ({"shift_px": -1.0}, "shift_px=-1.0; it must be 0 or more"),
    ({"batch_size": 12}, "batch_size=12 must be a positive multiple of 8"),
    ({"mnist_dir": "x"}, "mnist_dir is for dataset=mnist"),
    ({"layout": "1989"}, "layout='1989'; it must be one of"),
    ({"layout": "1998", "form": "binary"}, "float or int8 for layout=1998"),
  ],
)
def test_what_cannot_work_is_told(change, text):
  with pytest.raises(ValueError, match=text):
    dataclasses.replace(CONFIG, **change).validate()


def test_forms_follow_the_rules_of_the_text_models():
  rules, features = digit_config.FORMS["binary"]
  assert features == {"binary_activations": True}
  assert [type(spec).__name__ for _, spec in rules] == [
    "Binary",
    "Affine",
    "Float",
  ]
  assert rules[1:] == digit_config.INT8


def test_a_broken_photo_is_named(tmp_path, monkeypatch, capsys):
  def refuse(*args):
    raise preprocess.PreprocessError("not an image")

  monkeypatch.setattr(inspection, "report", refuse)
  assert cli.main(["inspect", "RUN", "a.png", "--out", str(tmp_path)]) != 0
  assert capsys.readouterr().err == "jaxocr: a.png: not an image\n"


def test_line_models_are_not_for_inspect(tmp_path):
  from jaxocr import zoo

  with pytest.raises(ValueError, match="reads lines; `jaxocr inspect` is for"):
    inspection.inspect(zoo.path("numeric-1bit"), np.zeros((28, 28), np.uint8))


def test_tiles_by_hand():
  assert inspection.to_grey(np.array([1.0, 2.0, 3.0])).tolist() == [0, 128, 255]
  assert inspection.to_grey(np.ones(2)).tolist() == [0, 0]
  tiled = inspection.tile_features(np.arange(2.0 * 2 * 3).reshape(2, 2, 3))
  assert tiled.shape == (2 * 8 + 2, 3 * (2 * 8 + 1) + 1)
  assert tiled[1, 1] == 0 and tiled[-2, -2] == 255 and tiled[0, 0] == 96


@pytest.mark.parametrize("name", ["cnn", "two_scale", "squeezenet", "alexnet"])
def test_each_experiment_names_its_network(name, tmp_path, monkeypatch):
  import importlib

  module = importlib.import_module(f"experiments.{name}")
  seen = []
  monkeypatch.setattr(
    digit_run.DigitRun, "run_seeds", lambda self, a: seen.append(a) or a
  )
  config = module.Config(dataset="digits", batch_size=8)
  config.validate()
  assert module.run(config, tmp_path)["network"] == name
  root = pathlib.Path(module.__file__).read_text()
  assert f"--experiment={name}" in root
