"""Lines of real digits: the atlas and what is drawn of it."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxocr.data import digit_lines
from jaxocr.data import idx
from jaxocr.data import render
from jaxocr.text import alphabet as alphabet_lib


def bars(each=40):
  """Digit d is a bar 2 + d px wide and 20 high, `each` times."""
  labels = np.repeat(np.arange(10, dtype=np.uint8), each)
  images = np.zeros((len(labels), 28, 28), np.uint8)
  for image, label in zip(images, labels, strict=True):
    image[4:24, 6 : 8 + label] = 200
  return idx.Digits(images, labels)


def test_cells_are_the_digits_at_their_left_edges():
  atlas = digit_lines.build_atlas(bars(each=45))
  # 45 of each fill two drawers of 20.
  assert atlas.columns.shape == (2, 1 + 10 * 20, 28, 28)
  assert not atlas.columns[:, 0].any()
  for glyph in (1, 8, 11, 200):
    width = 2 + (glyph - 1) % 10
    cell = atlas.columns[1, glyph]  # [columns, rows]
    assert (cell[:width, 4:24] == 200).all() and cell.sum() == 200 * 20 * width
    assert atlas.ink_width[1, glyph] == width
    assert atlas.advance[1, glyph] == width + 3
  assert float(atlas.baseline) == 25


def test_too_few_digits_are_told():
  with pytest.raises(ValueError, match="the rarest digit has 19 images"):
    digit_lines.build_atlas(bars(each=19))


def test_lines_show_their_labels():
  alphabet = alphabet_lib.load_alphabet("numeric")
  train, test, sample = digit_lines.make_source(
    bars(),
    bars(20),
    alphabet,
    height=32,
    width=160,
    lengths=(2, 4),
    strengths=render.NOTHING,
    test_strengths=dataclasses.replace(render.NOTHING, inverted=1.0),
  )
  assert len(train[0].names) == 2 and len(test[0].names) == 1
  keys = jax.random.split(jax.random.key(0), 12)
  draw = jax.jit(sample)
  learnt, batch = jax.device_get([draw(lines, keys) for lines in (train, test)])
  # Each with the strengths of its part.
  assert np.median(learnt.image) > 0.9 and np.median(batch.image) < 0.1
  assert set(batch.length) == {2, 3, 4}
  for image, label, length in zip(
    batch.image[..., 0], batch.label, batch.length, strict=True
  ):
    assert not label[length:].any() and label[:length].all()
    text = alphabet.decode(label[:length])
    ink = np.abs(image - np.median(image)).max(axis=0) > 0.3
    edges = np.flatnonzero(np.diff(np.r_[0, ink, 0]))
    widths = np.diff(edges)[::2]
    wanted = np.array([2 + int(d) for d in text])
    assert len(widths) == length
    # At 28 px of cap height to the atlas' 22.
    np.testing.assert_allclose(widths, wanted * 28 / 22, atol=2)
