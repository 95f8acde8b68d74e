import numpy as np
import pytest

from jaxocr.data import sheet

_LABELS = ["1", "a label much too long for its cell", "2"]


def test_places_lines_row_by_row_over_their_labels():
  images = np.full((3, 8, 20), 1.0, np.float32)
  images[1], images[2] = 0.0, 0.5
  pixels = np.asarray(sheet.contact_sheet(images, _LABELS, columns=2))
  # Margin 6, then cells of (20 + 6) by (8 + 16 + 6).
  assert pixels.shape == (6 + 2 * 30, 6 + 2 * 26)
  assert (pixels[6:14, 6:26] == 255).all()
  assert (pixels[6:14, 32:52] == 0).all()
  assert (pixels[36:44, 6:26] == 128).all()
  for x in (6, 32):
    # A caption, which stays in its cell.
    assert pixels[14:30, x : x + 20].min() < 128
    assert (pixels[:, x + 20 : x + 26] == 224).all()


def test_values_outside_0_1_are_clipped():
  images = np.array([[[-3.0]], [[7.0]]])
  pixels = np.asarray(sheet.contact_sheet(images, ["", ""], columns=2))
  assert (pixels[6, 6], pixels[6, 13]) == (0, 255)


def test_refuses_labels_that_do_not_match():
  with pytest.raises(ValueError, match="2 labels for images"):
    sheet.contact_sheet(np.zeros((3, 8, 8)), ["a", "b"], columns=1)
