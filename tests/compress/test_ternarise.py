"""Ternary kernels by hand, and against the paper's formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import binarise
from jaxocr.compress import ternarise


def _kernel(dtype=jnp.float32):
  return jax.random.normal(jax.random.key(0), (3, 3, 7, 5), dtype)


def test_fixed_threshold_by_hand():
  bound = np.float32(0.05)
  kernel = jnp.array(
    [[1.0, bound], [-0.5, -0.0625], [0.04, np.nextafter(-bound, -1)]]
  )
  codes, scale = ternarise.ternary_codes(kernel, threshold=0.05)
  # The bound itself is dropped.
  np.testing.assert_array_equal(codes, [[1, 0], [-1, -1], [0, -1]])
  assert codes.dtype == jnp.int8 and scale.dtype == jnp.float32
  # (1 + 0.5) / 2, and (0.0625 + 0.05) / 2 as float16 has it.
  np.testing.assert_array_equal(scale, [0.75, np.float32(np.float16(0.05625))])


def test_mean_threshold_against_numpy():
  kernel = np.asarray(_kernel())
  wide = kernel.astype(np.float64)
  # One threshold for the whole kernel, one scale for each channel.
  keep = np.abs(wide) > 0.7 * np.abs(wide).mean()
  codes, scale = ternarise.ternary_codes(kernel)
  np.testing.assert_array_equal(codes, np.where(keep, np.sign(wide), 0))
  means = np.where(keep, np.abs(wide), 0).sum((0, 1, 2)) / keep.sum((0, 1, 2))
  np.testing.assert_array_equal(scale, means.astype(np.float16))


def test_a_channel_that_keeps_nothing_is_zero():
  kernel = jnp.array([[1.0, 0.01], [-1.0, 0.0]])
  codes, scale = ternarise.ternary_codes(kernel)
  np.testing.assert_array_equal(codes, [[1, 0], [-1, 0]])
  np.testing.assert_array_equal(scale, [1, 0])
  np.testing.assert_array_equal(
    ternarise.ternarise_kernel(jnp.zeros((2, 3))), jnp.zeros((2, 3))
  )


def test_gradient_reaches_dropped_weights_up_to_one():
  above = np.nextafter(np.float32(1), np.float32(2))
  kernel = jnp.array([[0.0], [0.01], [-1.0], [1.0], [above], [-3.0]])
  gradient = jax.grad(lambda k: 2 * ternarise.ternarise_kernel(k).sum())(kernel)
  np.testing.assert_array_equal(gradient[:, 0], [2, 2, 2, 2, 0, 0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("threshold", [None, 0.05])
def test_training_computes_with_the_codes(dtype, threshold):
  kernel = _kernel(dtype)

  def fake(k):
    return ternarise.ternarise_kernel(k, threshold=threshold)

  codes, scale = ternarise.ternary_codes(kernel, threshold=threshold)
  expected = binarise.dequantise(codes, scale, dtype)
  assert fake(kernel).dtype == dtype
  np.testing.assert_array_equal(fake(kernel), expected)
  np.testing.assert_array_equal(jax.jit(fake)(kernel), expected)
  assert jax.grad(lambda k: fake(k).sum())(kernel).dtype == dtype


def test_a_negative_threshold_is_refused():
  with pytest.raises(ValueError, match=r"threshold=-0\.1; must not be neg"):
    ternarise.ternarise_kernel(jnp.ones((2, 2)), threshold=-0.1)
