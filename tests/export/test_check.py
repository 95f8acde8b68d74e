"""A file against its bundle, with engines made by hand."""

import numpy as np

from jaxocr.data import real
from jaxocr.export import check
from jaxocr.text import alphabet as alphabet_lib


class _Engine:
  """Says one class of every frame, a little more of it in larger batches."""

  alphabet = alphabet_lib.load_alphabet("numeric")

  def __init__(self, *, shift=0.0, by_batch=0.0, frames_less=0):
    self._shift, self._by_batch, self._less = shift, by_batch, frames_less

  def logits(self, image):
    batch, _, width, _ = image.shape
    found = np.zeros((batch, width // 4 - self._less, 23), np.float32)
    found[..., 3] = 1 + self._shift + self._by_batch * batch
    return found


def _lines(count):
  pixels = np.zeros((32, 64), np.uint8)
  items = (real.RealLine("a", "2", np.ones(1, np.int32), pixels),) * count
  return check.Lines("set", items)


def test_errors_are_of_each_line():
  found = check.compare(_Engine(shift=0.5), _Engine(), _lines(2))
  assert (found.lines, found.identical) == (2, 2)
  np.testing.assert_allclose(found.errors, [0.5, 0.5])
  assert check.told(found)[1].endswith(
    "median 5.0e-01, 2 above 0.0001, largest 5.0e-01"
  )


def test_other_frames_are_an_error_without_bound():
  found = check.compare(_Engine(frames_less=1), _Engine(), _lines(1))
  assert found.errors.tolist() == [np.inf]


def test_no_lines():
  found = check.compare(_Engine(), _Engine(), _lines(0))
  assert check.told(found) == ["set: no lines"]


def test_an_engine_beside_itself():
  by_batch = 0.25
  error = check.own_error(_Engine(by_batch=by_batch), _lines(1))
  assert error == by_batch * (check.LARGE_BATCH - 1)
  assert check.own_error(_Engine(), _lines(1)) == 0
