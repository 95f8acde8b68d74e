"""The float recogniser's run, and its file as a teacher."""

import dataclasses
import json
import multiprocessing

import jax
import numpy as np
import PIL.Image
import pytest

from experiments import bnn_crnn
from experiments import crnn
from jaxocr import evaluation
from jaxocr import reader
from jaxocr.compress import packed
from jaxocr.data import workers
from jaxocr.export import bundle
from jaxocr.train import ship
from jaxocr.train import text_run
from jaxocr.train import workdirs
from jaxocr.train import writers

TINY = crnn.Config(
  steps=2,
  warmup_steps=1,
  batch_size=8,
  width=64,
  max_length=8,
  stem_channels=4,
  projection=8,
  hidden=8,
  eval_lines=12,
  progress_lines=8,
  log_every=1,
)


def real_lines(folder):
  """Six lines of noise with numbers, two with a letter."""
  folder.mkdir()
  rng = np.random.default_rng(0)
  rows = []
  for i in range(8):
    noise = rng.integers(0, 256, (32, 40 + 2 * i), np.uint8)
    PIL.Image.fromarray(noise).save(folder / f"{i}.png")
    rows.append(f"{i}.png\t{'x' if i % 4 == 3 else 10 + i}\n")
  (folder / "labels.tsv").write_text("".join(rows), encoding="utf-8")
  return str(folder)


@pytest.mark.slow
def test_two_steps_leave_a_teacher(tmp_path, monkeypatch, capsys):
  ends = []
  train = text_run.TextRun.train

  def watched(*args, **more):
    ends.append(train(*args, **more))
    return ends[-1]

  begun = []
  by_workers = workers._by_workers

  def counted(elements, count):
    begun.append(count)
    return by_workers(elements, count)

  monkeypatch.setattr(workers, "_by_workers", counted)
  monkeypatch.setattr(text_run.TextRun, "train", watched)
  real = real_lines(tmp_path / "real")
  config = dataclasses.replace(
    TINY, train_data=real, train_workers=1, eval_labels=real
  )
  config.validate()
  report = crnn.run(config, tmp_path)
  told = capsys.readouterr().out
  assert begun == [1]
  assert not multiprocessing.active_children()
  assert "train_data real/labels.tsv: 8 read, 6 kept, 2 dropped" in told
  assert "numeric lacks 1 characters of it: 'x' 2" in told
  history = writers.read_history(tmp_path)
  assert any(entry.get("train/data_wait_ms", -1) >= 0 for entry in history)
  # What the run says of real lines is what `jaxocr eval` says of its file.
  judged = evaluation.judge(reader.Reader.load(tmp_path), real)
  (row,) = evaluation.fields([judged], "raw")
  assert report["real"]["n"] == row["within_alphabet_n"] == 6
  assert report["real"]["line_accuracy"] == row["within_alphabet_accuracy"]
  assert report["real"]["line_accuracy_all"] == row["accuracy"]
  predictions = (tmp_path / "predictions.tsv").read_text().split("\n")[1:-1]
  assert [line.split("\t")[2] for line in predictions] == [
    line.reading.text
    for place, line in enumerate(judged.lines)
    if place not in judged.refused
  ]
  assert json.loads((tmp_path / "report.json").read_text())["finished"]
  assert report["lines"] == 12 and report["steps"] == 2
  path = tmp_path / "model.safetensors"
  assert report["bytes"] == path.stat().st_size
  assert (tmp_path / "checkpoints" / "float" / "2").is_dir()
  # With its moments and in full, so that training can go on from it.
  found = bundle.load_bundle(path)
  assert not found.meta["architecture"]["folded"]
  weights = ship.load_weights(found)
  for ours, theirs in (
    (weights.params, ends[0].params),
    (weights.collections, ends[0].collections),
  ):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  leaves = jax.tree.leaves(found.params, is_leaf=packed.is_packed)
  assert {leaf.form for leaf in leaves} == {"float32"}
  assert sum(leaf.nbytes for leaf in leaves) == 4 * report["parameters"]
  # The binary network of the same sizes may learn from it; others may not.
  student = bnn_crnn.Config(
    **{
      field.name: getattr(TINY, field.name)
      for field in dataclasses.fields(TINY)
      if field.name not in ("steps", "backbone", "start")
    },
    teacher=str(tmp_path),
  )
  student.validate()
  with pytest.raises(ValueError, match="hidden is 8, wanted 16"):
    dataclasses.replace(student, hidden=16).validate()
  # And it is read as it is.
  blank = np.full((32, 60), 200, np.uint8)
  (read,) = reader.Reader.load(tmp_path).read([blank])
  assert not isinstance(read, reader.ReadError)


def test_the_defaults_are_valid_and_so_is_the_tiny_one():
  crnn.Config().validate()
  TINY.validate()
  dataclasses.replace(TINY, backbone="mobilenet").validate()


@pytest.mark.parametrize(
  "change, text",
  [
    ({"backbone": "vgg"}, "backbone='vgg'; it must be one of"),
    ({"steps": 1}, "steps=1; it must be above 1"),
    ({"warmup_steps": 2}, "warmup_steps=2; it must be below steps=2"),
    (
      {"train_data": "none"},
      "train_data=none: there is no such",
    ),
    ({"train_widths": "64"}, "train_widths=64 without real lines; give train"),
    (
      {"train_widths": "64", "train_workers": 2},
      "train_widths=64, train_workers=2 without real lines",
    ),
    ({"train_workers": -1}, "train_workers=-1; it must be 0 or more"),
    (
      {"train_data": "tests", "train_widths": "30,64"},
      "30 must be a multiple of 4",
    ),
    ({"train_widths": "a"}, "train_widths=a; write int numbers"),
    ({"train_data": "tests", "train_weights": "1,2"}, "1,2 for 1 sets"),
    ({"train_data": "tests", "train_weights": "0"}, "each must be above 0"),
    ({"rendered_share": 1.0}, r"rendered_share=1.0; it must be in \[0, 1\)"),
    ({"start": "none"}, "start=none: there is no such file"),
    ({"width": 66}, "width=66; it must be a positive multiple of 4"),
  ],
)
def test_what_cannot_work_is_refused_up_front(change, text):
  with pytest.raises(ValueError, match=text):
    dataclasses.replace(TINY, **change).validate()


@pytest.mark.parametrize("field", ["eval_labels", "train_data"])
def test_a_set_that_cannot_be_read_ends_the_run(field, tmp_path):
  empty = tmp_path / "empty"
  empty.mkdir()
  config = dataclasses.replace(TINY, **{field: str(empty)})
  with pytest.raises(workdirs.WorkdirError, match="no known set"):
    crnn.run(config, tmp_path / "run")
