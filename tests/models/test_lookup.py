"""Look-up inference: what convolutions with W = codebook[codes] give."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import codebook
from jaxocr.models import lookup
from tests.compress import qcnn


def random(shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


def coded(shape, d, codewords):
  sets, taps, outputs, d = codebook.spaces(shape, d)
  codes = np.random.default_rng(1).integers(
    codewords, size=(sets, taps, outputs)
  )
  return random((sets, codewords, d)), jnp.asarray(codes, jnp.int32)


def test_a_sum_of_entries_by_hand():
  books = jnp.array([[[1.0, 0], [0, 1]], [[2, 2], [3, 0]]])
  codes = jnp.array([[[0, 1]], [[1, 0]]])
  # 1 * 5 + 3 * 7, and 1 * 6 + 2 * 7 + 2 * 8.
  found = lookup.dense(jnp.array([[5.0, 6, 7, 8]]), books, codes)
  np.testing.assert_array_equal(found, [[26, 36]])


@pytest.mark.parametrize("channels, d", [(12, 3), (10, 4), (7, 1)])
def test_dense_layers(channels, d):
  shape = (channels, 9)
  books, codes = coded(shape, d, 6)
  x = random((4, channels), 2)
  found = jax.jit(lookup.dense)(x, books, codes)
  expected = x @ codebook.join(books, codes, shape)
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
  "strides, padding, groups, channels",
  [
    ((1, 1), (1, 1), 1, 6),
    ((2, 1), (1, 1), 1, 5),
    ((2, 2), (0, 0), 2, 8),
    ((1, 1), (2, 2), 4, 8),
  ],
)
def test_convolutions(strides, padding, groups, channels):
  shape = (3, 3, channels // groups, 8)
  books, codes = coded(shape, 2, 5)
  x = random((2, 7, 9, channels), 2)
  options = dict(strides=strides, padding=padding, groups=groups)
  found = lookup.conv(x, books, codes, size=3, **options)
  expected = lax.conv_general_dilated(
    x,
    codebook.join(books, codes, shape),
    strides,
    (padding, padding),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )
  assert found.shape == expected.shape
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_operations_by_hand():
  found = lookup.operations(
    (3, 3, 10, 16), d=4, codewords=8, places_in=20, places_out=5, groups=2
  )
  # 20 places of 2 * 10 channels by 8 codewords; 5 of 16 outputs, 9 taps, 3.
  assert found == (20 * 20 * 8, 5 * 16 * 9 * 3, 5 * 16 * 9 * 10)
  assert found.ratio == 7200 / (3200 + 2160)


@pytest.mark.parametrize("d, ratio, paper", [(3, 4.05, 4.05), (4, 4.16, 4.15)])
def test_alexnets_speed_up_by_operations_is_the_published_one(d, ratio, paper):
  """Wu et al. 2016, table 5."""
  counted = []
  for name, (shape, groups, seen, made) in qcnn.ALEXNET.items():
    place = 2 if name == "fc8" else 0 if name.startswith("conv") else 1
    spec = qcnn.rules(d)[place][1]
    counted.append(
      lookup.operations(
        shape,
        d=spec.d,
        codewords=spec.codewords,
        places_in=seen,
        places_out=made,
        groups=groups,
      )
    )
  whole = lookup.Operations(*np.sum(counted, axis=0).tolist())
  assert whole.ratio == pytest.approx(ratio, rel=2e-3)
  assert whole.ratio == pytest.approx(paper, rel=0.02)
