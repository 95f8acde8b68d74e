"""`jaxocr render`: contact sheets of training lines."""

import inspect
import os

import numpy as np
import PIL.Image
import pytest

from experiments import bnn_crnn
from jaxocr import cli
from jaxocr.data import corpus as corpus_lib
from jaxocr.data import render


@pytest.mark.slow
def test_render_writes_a_sheet(tmp_path, capsys):
  out = tmp_path / "sheet.png"
  argv = ["render", "--out", str(out), "--rows", "2", "--columns", "3"]
  argv += ["--width", "64", "--seed", "7"]
  assert cli.main(argv) == 0
  assert capsys.readouterr().out == f"{out}: 6 lines\n"
  with PIL.Image.open(out) as image:
    assert image.format == "PNG"
    assert image.size == (6 + 3 * 70, 6 + 2 * 54)
    assert len(np.unique(np.asarray(image))) > 20  # Not blank.
  assert os.listdir(tmp_path) == ["sheet.png"]  # Nothing left aside.


def test_render_draws_as_the_experiment_does():
  config = bnn_crnn.Config()
  args = cli._make_parser().parse_args(["render", "--out", "sheet.png"])
  assert args.width == config.width
  assert args.width // cli._CHARACTER_PX == config.max_length
  assert args.alphabet == config.alphabet
  parameters = inspect.signature(corpus_lib.make_corpus).parameters
  assert parameters["random_share"].default == config.random_share
  assert config.strengths == render.RenderStrengths()


def test_render_errors(tmp_path, capsys):
  def fails(*argv):
    code = cli.main(["render", "--width", "64", "--rows", "1", *argv])
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line

  out = str(tmp_path / "sheet.png")
  assert "not a directory" in fails("--out", out, "--fonts", "/none")
  assert "alphabet 'frob'" in fails("--out", out, "--alphabet", "frob")
  assert os.listdir(tmp_path) == []


def test_render_to_a_missing_folder(tmp_path, capsys, monkeypatch):
  lines = np.zeros((1, 32, 64)), ["1"]
  monkeypatch.setattr(cli, "_rendered_lines", lambda args: lines)
  out = str(tmp_path / "none" / "sheet.png")
  assert cli.main(["render", "--out", out]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "No such file or directory" in line and out in line
