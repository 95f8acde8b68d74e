"""What `jaxocr eval` says, beside what training's evaluation says."""

import csv
import json

import jax
import numpy as np
import PIL.Image
import pytest

from jaxocr import calibration
from jaxocr import cli
from jaxocr import evaluation
from jaxocr import reader as reader_lib
from jaxocr import zoo
from jaxocr.compress import rules as rules_lib
from jaxocr.data import real
from jaxocr.models import crnn
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import ctc
from jaxocr.train import evaluate
from jaxocr.train import sharding
from jaxocr.train import ship

LINES = [("12", "12"), ("3,50", "3.50"), ("1", "l"), ("777", "777")]


class _Reader:
  """Reads what LINES say, told by the level of the image."""

  alphabet = alphabet_lib.load_alphabet("numeric")

  def read(self, images):
    return [
      ctc.Reading(LINES[int(image[0, 0]) // 10][0], 0.5, ()) for image in images
    ]


@pytest.fixture(name="labels")
def fixture_labels(tmp_path):
  rows = []
  for i, (_, label) in enumerate(LINES):
    image = np.full((32, 60 + 40 * i), 10 * i, np.uint8)
    PIL.Image.fromarray(image).save(tmp_path / f"{i}.png")
    rows.append(f"{i}.png\t{label}\n")
  rows += ["gone.png\t5\n", "0.png\t%$\n"]
  (tmp_path / "l.tsv").write_text("".join(rows), encoding="utf-8")
  return tmp_path / "l.tsv"


def test_labels_outside_the_alphabet_are_misread(labels):
  judged = evaluation.judge(_Reader(), labels)
  raw = judged.figures("raw")
  # `l` cannot be written, which does not take it out.
  assert (raw.n, raw.exact, raw.empty) == (5, 2, 0)
  (row,) = evaluation.fields([judged], "raw")
  assert row["accuracy"] == pytest.approx(2 / 5)
  assert row["within_alphabet_n"] == 4
  assert row["within_alphabet_accuracy"] == pytest.approx(1 / 2)
  assert row["read"] == 6 and row["not_read"] == 1
  folded = judged.figures("str36")
  assert (folded.n, folded.exact, folded.empty) == (4, 3, 1)
  told = evaluation.report([judged, judged], "str36")
  assert "1 labels that this model cannot write count as misread" in told
  assert "1 of 6 lines were not read: 1 missing image" in told
  assert "1 labels have no character of str36 and do not count" in told
  all_lines, mean = (
    next(row for row in told.split("\n") if row.startswith(name)).split()
    for name in ("all lines", "mean of sets")
  )
  assert all_lines[2:4] == ["8", "0.7500"] and mean[3] == "0.7500"


def test_tables_by_hand(labels):
  told = evaluation.report([evaluation.judge(_Reader(), labels)], "raw")
  by_length = told.split("by length of the label\n")[1].split("\n\n")[0]
  rows = [row.split() for row in by_length.split("\n")[1:]]
  assert [row[-3:-1] for row in rows] == [
    ["1", "0.0000"],  # l
    ["2", "0.5000"],  # 12, %$
    ["1", "1.0000"],  # 777
    ["1", "0.0000"],  # 3.50
  ]
  mistakes = told.split("most frequent mistakes\n")[1].split("\n")
  assert mistakes[1].split() == ["$", "2", "1"]
  assert [".", ",", "1"] in [row.split() for row in mistakes]


def test_files_hold_every_line(labels, tmp_path):
  judged = evaluation.judge(_Reader(), labels)
  paths = evaluation.write_csv(tmp_path / "out.csv", [judged], "raw")
  assert [p.name for p in paths] == [
    "out.csv",
    "out_lines.csv",
    "out_worst.html",
  ]
  with paths[1].open(newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  assert [(row["truth"], row["read"], row["right"]) for row in rows] == [
    ("12", "12", "1"),
    ("3.50", "3,50", "0"),
    ("l", "1", "0"),
    ("777", "777", "1"),
    ("%$", "12", "0"),
  ]
  page = paths[2].read_text(encoding="utf-8")
  assert page.count("<figure") == 3 and "edits away" in page


def _drawn(folder, count, seed):
  """Lines of noise, some with labels that cannot be written."""
  folder.mkdir()
  rng = np.random.default_rng(seed)
  rows = []
  for i in range(count):
    # All of one bucket: each width is compiled twice.
    image = rng.integers(0, 256, (24, int(rng.integers(16, 24))), np.uint8)
    PIL.Image.fromarray(np.repeat(image, 2, axis=1)).save(folder / f"{i}.png")
    rows.append(f"{i}.png\t{rng.integers(0, 999) if i % 4 else 'RM'}\n")
  (folder / "l.tsv").write_text("".join(rows))
  return folder / "l.tsv"


@pytest.mark.slow
def test_figures_are_those_of_training_to_the_last_line(tmp_path):
  """The shipped recogniser on three sets, through both ways."""
  path = zoo.path()
  model = reader_lib.load_model(path)
  reader = reader_lib.Reader.load(path)
  mesh = sharding.make_mesh(jax.devices()[:1])

  class Rendered:
    batch_size = 4

  evaluator = evaluate.Evaluator(
    model.network,
    model.alphabet,
    Rendered,
    mesh,
    deploy=lambda params, collections: model.stored.variables(),
  )

  class State:
    ema_params = ema_collections = None

  for seed in range(3):
    labels = _drawn(tmp_path / str(seed), 12, seed)
    files = real.read_labels(labels, model.alphabet)
    trained = evaluator.real(State, files)
    figures = evaluate.real_figures(trained, [files])
    judged = evaluation.judge(reader, labels)
    inside = [x for i, x in enumerate(judged.lines) if i not in judged.refused]
    assert [(a.path, a.truth, a.reading.text) for a in inside] == [
      (b.path, b.truth, b.reading.text) for b in trained
    ]
    assert any(line.reading.text for line in inside)
    for a, b in zip(inside, trained, strict=True):
      assert a.reading.confidence == pytest.approx(
        b.reading.confidence, rel=1e-3
      )
    (row,) = evaluation.fields([judged], "raw")
    assert row["within_alphabet_accuracy"] == figures["line_accuracy"]
    assert row["accuracy"] == figures["line_accuracy_all"]
    assert row["n"] == figures["n_all"]


def test_a_file_with_moments_is_read_as_it_was_judged():
  """Training judges folded kernels; so does whoever reads its file."""
  architecture = dict(
    num_classes=22, stem_channels=2, projection=4, hidden=4, backbone="binary"
  )
  network = crnn.CRNN(**architecture)
  image = jax.ShapeDtypeStruct((1, 32, 16, 1), np.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), image)
  rng = np.random.default_rng(0)
  drawn = jax.tree.map(lambda s: np.float32(rng.random(s.shape)), dict(shapes))
  weights = ship.Weights(drawn.pop("params"), drawn)
  judged = ship.make_deploy(rules_lib.ALL_FLOAT)(
    weights.params, weights.collections
  )
  stored = reader_lib.bundle.Bundle(
    jax.jit(rules_lib.pack, static_argnames="rules")(
      weights.params, rules=rules_lib.ALL_FLOAT
    ),
    weights.collections,
    {},
  )
  alphabet = alphabet_lib.load_alphabet("numeric")
  model = reader_lib.Model(stored, network, alphabet, 32, 4)
  deployed, variables = model.deployed()
  assert deployed.folded
  jax.tree.map(np.testing.assert_array_equal, variables, dict(judged))


def test_the_command(labels, capsys, monkeypatch, tmp_path):
  given = {}

  def load(model, **options):
    given.update(options, model=model)
    return _Reader()

  monkeypatch.setattr(reader_lib.Reader, "load", load)
  args = ["eval", "--data", str(labels), "--protocol=str36", "--beam=4"]
  assert cli.main([*args, "--csv", str(tmp_path / "o.csv")]) == 0
  out = capsys.readouterr().out
  assert "protocol str36" in out and out.endswith("o_worst.html\n")
  assert given == {"model": None, "beam": 4}
  assert cli.main([*args, "--json"]) == 0
  assert json.loads(capsys.readouterr().out)[0]["n"] == 4
  assert cli.main(["eval", "--data", "none"]) == 2
  assert cli.main([*args, "--csv", str(tmp_path / "no" / "o.csv")]) == 2
  assert cli.main([*args[:-2], "--protocol=str37"]) == 2
  err = capsys.readouterr().err
  assert "No such file" in err and "no such folder" in err and "str37" in err


def test_reliability_is_drawn(tmp_path):
  from jaxocr.text import calibrate as calibrate_lib

  sure, right = np.linspace(0, 1, 50), np.arange(50) % 3 > 0
  before = calibrate_lib.reliability(sure, right)
  found = calibration.Calibration(1.5, 50, before, before)
  calibration.draw(found, tmp_path / "r.png")
  with PIL.Image.open(tmp_path / "r.png") as picture:
    assert picture.width > 500
  told = calibration.describe(found)
  assert "temperature 1.500, fitted to 50 lines" in told
  assert told.count("\n0.") == 10
