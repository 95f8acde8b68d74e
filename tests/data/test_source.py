"""The source of rendered batches: one key, one line."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.data import atlas as atlas_lib
from jaxocr.data import corpus as corpus_lib
from jaxocr.data import render
from jaxocr.data import source
from jaxocr.text import alphabet as alphabet_lib

ALPHABET = alphabet_lib.Alphabet("0123456789.", "test")
MAX_LENGTH = 5


@functools.cache
def _source():
  fonts = [f for f in atlas_lib.default_fonts() if f.name == "DejaVuSans"]
  assets, sample = source.make_synthetic_source(
    atlas_lib.build_atlas(fonts, ALPHABET),
    corpus_lib.make_corpus(ALPHABET, max_length=MAX_LENGTH),
    width=48,
    max_length=MAX_LENGTH,
    strengths=render.RenderStrengths(),
  )
  return assets, jax.jit(sample)


def test_a_batch_has_the_shapes_and_labels_promised():
  assets, sample = _source()
  batch = jax.device_get(sample(assets, jax.random.split(jax.random.key(0), 4)))
  assert batch.image.shape == (4, 32, 48, 1)
  assert batch.image.dtype == np.float32
  assert batch.image.min() >= 0 and batch.image.max() <= 1
  assert batch.label.shape == (4, MAX_LENGTH)
  assert batch.label.dtype == batch.length.dtype == np.int32
  for label, length in zip(batch.label, batch.length, strict=True):
    assert 1 <= length <= MAX_LENGTH
    assert (label[:length] >= 1).all() and not label[length:].any()
    assert label.max() <= ALPHABET.size
  np.testing.assert_array_equal(batch.mask, np.ones(4, np.float32))


def test_a_line_depends_on_its_own_key_alone():
  assets, sample = _source()
  keys = jax.random.split(jax.random.key(1), 8)
  one = sample(assets, keys[:4])
  two = sample(assets, keys[jnp.array([6, 2, 5, 2])])
  for line in (1, 3):
    for field in dataclasses.fields(one):
      np.testing.assert_array_equal(
        getattr(two, field.name)[line], getattr(one, field.name)[2]
      )
  assert (one.image[0] != two.image[0]).any()


def test_strengths_out_of_range_are_refused():
  with pytest.raises(ValueError, match=r"strengths\.fade=2"):
    source.make_synthetic_source(
      None,
      None,
      width=48,
      max_length=MAX_LENGTH,
      strengths=render.RenderStrengths(fade=2.0),
    )
