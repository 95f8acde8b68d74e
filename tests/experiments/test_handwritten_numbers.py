"""Handwritten numbers in two steps."""

import dataclasses

import pytest

from experiments import handwritten_numbers
from jaxocr.data import digits
from jaxocr.train import workdirs
from tests.data import test_digit_lines

CONFIG = handwritten_numbers.Config(
  steps=2,
  batch_size=8,
  width=64,
  max_length=3,
  min_length=1,
  warmup_steps=1,
  eval_lines=8,
  progress_lines=8,
  stem_channels=4,
  projection=8,
  hidden=8,
)


@pytest.fixture(autouse=True)
def bars(monkeypatch):
  found = digits.DigitSet(
    "mnist",
    test_digit_lines.bars(),
    test_digit_lines.bars(20),
    tuple("0123456789"),
  )
  monkeypatch.setattr(digits, "load", lambda *args, **kwargs: found)


@pytest.mark.slow
def test_two_steps_leave_a_reader(tmp_path):
  from jaxocr.reader import Reader

  CONFIG.validate()
  figures = handwritten_numbers.run(CONFIG, tmp_path)
  assert figures["finished"] and figures["lines"] == 8
  (reading,) = Reader.load(tmp_path).read([test_digit_lines.bars(20).images[0]])
  assert isinstance(reading.text, str)


def test_too_few_digits_are_told(tmp_path, monkeypatch):
  few = test_digit_lines.bars(3)
  found = digits.DigitSet("mnist", few, few, tuple("0123456789"))
  monkeypatch.setattr(digits, "load", lambda *args, **kwargs: found)
  with pytest.raises(workdirs.WorkdirError, match="the rarest digit has 3"):
    handwritten_numbers.run(CONFIG, tmp_path)


@pytest.mark.parametrize(
  "change, text",
  [
    ({"min_length": 4}, r"min_length=4; it must be in 1..max_length=3"),
    ({"steps": 1}, "steps=1; it must be above warmup_steps=1"),
  ],
)
def test_what_cannot_work_is_told(change, text):
  with pytest.raises(ValueError, match=text):
    dataclasses.replace(CONFIG, **change).validate()


def test_all_digits_must_be_known(tmp_path):
  path = tmp_path / "some.txt"
  path.write_text("0\n1\n2\n", encoding="utf-8")
  with pytest.raises(ValueError, match="lacks 3456789; it must"):
    dataclasses.replace(CONFIG, alphabet=str(path)).validate()


def test_it_draws_all_lines_itself(tmp_path):
  config = dataclasses.replace(CONFIG, train_data=str(tmp_path))
  with pytest.raises(workdirs.WorkdirError, match="draws lines of its own"):
    handwritten_numbers.run(config, tmp_path / "run")
