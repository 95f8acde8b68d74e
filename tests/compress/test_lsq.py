"""Learned steps against the paper's equations in NumPy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import binarise
from jaxocr.compress import lsq


def _problem(shape=(5, 4, 6), dtype=jnp.float32):
  x = jax.random.normal(jax.random.key(0), shape, dtype)
  cotangent = jax.random.normal(jax.random.key(1), shape, dtype)
  return x, cotangent


def _reference(x, step, cotangent, bits):
  """Values and gradients; LSQ eq. 1, 2, 3 and 5, rounded half away."""
  limit = 2 ** (bits - 1) - 1
  x, step, cotangent = (np.asarray(a, np.float64) for a in (x, step, cotangent))
  v = x / step
  rounded = np.sign(v) * np.floor(np.abs(v) + 0.5)
  value = np.clip(rounded, -limit, limit) * step
  slope = np.where(
    v <= -limit, -limit, np.where(v >= limit, limit, rounded - v)
  )
  axes = tuple(range(x.ndim - step.ndim))
  gain = 1 / np.sqrt(x.size / step.size * limit)
  step_gradient = gain * (cotangent * slope).sum(axes)
  return value, cotangent * (np.abs(v) < limit), step_gradient


@pytest.mark.parametrize("step", [0.25, [0.5, 0.25, 2**-7, 1, 2**-5, 3]])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_against_the_paper(step, bits):
  x, cotangent = _problem()
  step = jnp.asarray(step, jnp.float32)
  value, x_gradient, step_gradient = _reference(x, step, cotangent, bits)
  out, pull = jax.vjp(lambda a, s: lsq.lsq(a, s, bits=bits), x, step)
  np.testing.assert_allclose(out, value, atol=1e-6)
  got_x, got_step = pull(cotangent)
  np.testing.assert_allclose(got_x, x_gradient, atol=1e-6)
  np.testing.assert_allclose(got_step, step_gradient, rtol=1e-5, atol=1e-5)
  assert got_step.shape == step.shape


def test_step_gradient_by_hand():
  # 4 bits, Q = 7: v is 0.5, -1.25, 7, -9, of which the first is a tie.
  x = jnp.array([0.25, -0.625, 3.5, -4.5])
  out, pull = jax.vjp(lambda a, s: lsq.lsq(a, s, bits=4), x, jnp.float32(0.5))
  np.testing.assert_array_equal(out, [0.5, -0.5, 3.5, -3.5])
  x_gradient, step_gradient = pull(jnp.array([1.0, 1, 1, 2]))
  # At the limit itself nothing passes.
  np.testing.assert_array_equal(x_gradient, [1, 1, 0, 0])
  # 0.5 + 0.25 + 7 - 2 * 7, over sqrt(4 * 7).
  np.testing.assert_allclose(step_gradient, -6.25 / np.sqrt(28), rtol=1e-6)


def test_first_step():
  x = jnp.array([[1.0, -25.4], [-12.7, 0.0]])
  np.testing.assert_allclose(lsq.init_step(x, 8), 0.2 + 1e-6, rtol=1e-6)
  np.testing.assert_allclose(
    lsq.init_step(x, 8, per_channel=True), [0.1 + 1e-6, 0.2 + 1e-6], rtol=1e-6
  )
  np.testing.assert_allclose(lsq.init_step(x, 4), 25.4 / 7 + 1e-6, rtol=1e-6)
  step = lsq.init_step(jnp.zeros((2, 2), jnp.bfloat16), 8)
  assert step.dtype == jnp.float32 and 0 < step < 2e-6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("per_channel", [True, False])
def test_training_computes_with_the_codes(dtype, per_channel):
  x, cotangent = _problem((64, 32, 6), dtype)
  step = lsq.init_step(x, 4, per_channel=per_channel)

  def fake(a, s):
    return lsq.lsq(a, s, bits=4)

  codes, scale = lsq.lsq_codes(x, step, bits=4)
  np.testing.assert_array_equal(scale, scale.astype(jnp.float16))
  assert codes.dtype == jnp.int32 and int(jnp.abs(codes).max()) == 7
  expected = binarise.dequantise(codes, scale, dtype)
  out, pull = jax.vjp(fake, x, step)
  assert out.dtype == dtype
  np.testing.assert_array_equal(out, expected)
  np.testing.assert_array_equal(jax.jit(fake)(x, step), expected)
  x_gradient, step_gradient = pull(cotangent)
  assert x_gradient.dtype == dtype and step_gradient.dtype == jnp.float32


@pytest.mark.parametrize("step", [0.0, -1.0, 1e-9])
def test_a_step_that_is_lost_comes_back(step):
  x = jnp.array([0.5, 0.0, -0.5])
  codes, scale = lsq.lsq_codes(x, jnp.float32(step), bits=2)
  np.testing.assert_array_equal(codes, [1, 0, -1])
  assert scale == 2.0**-24

  def loss(s):
    return jnp.sum((lsq.lsq(x, s, bits=2) - x) ** 2)

  value, gradient = jax.value_and_grad(loss)(jnp.float32(step))
  # Everything saturates next to zero: a larger step is the way out.
  np.testing.assert_allclose(value, 0.5, rtol=1e-5)
  assert gradient < -0.1


def test_bits_out_of_range_are_refused():
  for bits in (1, 9):
    with pytest.raises(ValueError, match=f"bits={bits}; must be 2 to 8"):
      lsq.lsq(jnp.ones(2), jnp.float32(1), bits=bits)
