"""Signs and their gradients against the closed forms of the papers."""

import chex
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import binarise

ABOVE_ONE = np.nextafter(np.float32(1), np.float32(2))
GRID = np.array(
  [-2, -ABOVE_ONE, -1, -0.5, -0.0, 0, 1e-30, 0.25, 1, ABOVE_ONE, 3], np.float32
)


def _gradient(function, x):
  return jax.vmap(jax.grad(function))(x)


@pytest.mark.parametrize(
  "function",
  [
    binarise.hard_sign,
    binarise.sign_ste,
    binarise.swish_sign,
    binarise.approx_sign,
  ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_sign_has_no_zero_and_keeps_dtype(function, dtype):
  signs = function(jnp.asarray(GRID, dtype))
  expected = np.where(GRID >= 0, 1, -1)  # -0.0 >= 0: a bit has no zero.
  np.testing.assert_array_equal(np.asarray(signs, np.float32), expected)
  assert signs.dtype == dtype


def test_straight_through_gradient_includes_the_bound():
  passed = [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0]
  np.testing.assert_array_equal(_gradient(binarise.sign_ste, GRID), passed)


def test_straight_through_gradient_ends_at_another_clip():
  half = np.float32(0.5)
  x = np.array([-half, half, np.nextafter(half, 1), 1], np.float32)
  gradient = _gradient(lambda v: binarise.sign_ste(v, 0.5), x)
  np.testing.assert_array_equal(gradient, [1, 1, 0, 0])


@pytest.mark.parametrize("beta", [5.0, 2.0])
def test_swish_sign_gradient(beta):
  x = np.linspace(-4, 4, 33, dtype=np.float32)
  u = beta * x.astype(np.float64)
  expected = beta * (2 - u * np.tanh(u / 2)) / (1 + np.cosh(u))
  gradient = _gradient(lambda v: binarise.swish_sign(v, beta), x)
  np.testing.assert_allclose(gradient, expected, atol=1e-6)
  assert gradient[16] == beta


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_swish_sign_gradient_vanishes_far_out(dtype):
  x = jnp.array([-3e38, -100, 30, 1e4, jnp.inf], dtype)
  gradient = _gradient(binarise.swish_sign, x)
  assert gradient.dtype == dtype
  np.testing.assert_array_equal(np.asarray(gradient, np.float32), 0)


def test_approx_sign_gradient():
  expected = [0, 0, 0, 1, 2, 2, 2, 1.5, 0, 0, 0]
  np.testing.assert_allclose(
    _gradient(binarise.approx_sign, GRID), expected, atol=1e-6
  )


def test_binary_kernel_by_hand():
  kernel = jnp.array([[[[1.0, -0.5], [-3.0, 0.0]]]])  # [1, 1, 2, 2]
  # alpha: (1 + 3) / 2 and (0.5 + 0) / 2.
  expected = [[[[2.0, -0.25], [-2.0, 0.25]]]]
  np.testing.assert_array_equal(binarise.binarise_kernel(kernel), expected)
  gradient = jax.grad(lambda k: jnp.sum(binarise.binarise_kernel(k)))(kernel)
  # alpha is held constant; -3 lies outside the clip.
  np.testing.assert_array_equal(gradient, [[[[1.0, 1.0], [0.0, 1.0]]]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_binary_kernel_takes_two_exact_values_per_channel(dtype):
  kernel = jax.random.normal(jax.random.key(0), (3, 3, 7, 5), dtype)
  out = binarise.binarise_kernel(kernel)
  assert out.dtype == dtype
  chex.assert_equal_shape([kernel, out])
  scale = binarise.binary_codes(kernel)[1].astype(dtype)
  magnitudes = jnp.abs(out).reshape(-1, 5)
  assert bool(jnp.all(magnitudes == scale[None]))


def test_soft_start_is_the_quadratic_with_the_same_gradient():
  x = jnp.array([-2.0, -0.5, 0.0, 0.25, 3.0])
  # F(x) = x (2 - abs(x)): the curve whose slope ApproxSign takes.
  np.testing.assert_allclose(
    binarise.approx_sign(x, 0.0), [-1, -0.75, 0, 0.4375, 1]
  )
  np.testing.assert_allclose(
    binarise.approx_sign(x, 0.5), [-1, -0.875, 0.5, 0.71875, 1]
  )

  def value(v):
    return binarise.approx_sign(v, 0.0)

  def quadratic(v):
    return jnp.where(jnp.abs(v) <= 1, v * (2 - jnp.abs(v)), jnp.sign(v))

  np.testing.assert_allclose(_gradient(value, x), _gradient(quadratic, x))


@hypothesis.given(
  st.lists(
    st.floats(0, 1e5, width=32) | st.floats(0, 2.0**-13, width=32),
    min_size=8,
    max_size=8,
  )
)
@hypothesis.example(
  [0, 2**-24, 1.5 * 2**-24, 2**-25, 65504, 65520, 1e9, 2**-14]
)
@hypothesis.example([1 + 2**-11, 1 + 3 * 2**-11, 0.1, 1, 2, 3, 4, 5])
@hypothesis.settings(deadline=None, derandomize=True, max_examples=60)
def test_scales_are_what_float16_holds(values):
  x = np.array(values, np.float32)
  expected = np.minimum(x, 65504).astype(np.float16).astype(np.float32)
  # What XLA drops or contracts, it does under jit.
  for function in (binarise.storable_scale, jax.jit(binarise.storable_scale)):
    np.testing.assert_array_equal(function(jnp.asarray(x)), expected)


def test_sums_of_plus_and_minus_a_scale_are_exact():
  scale = binarise.storable_scale(jnp.array([0.7, 1 / 3, 1e-6]))
  signs = np.sign(np.random.default_rng(0).normal(size=(8191, 3)) + 0.5)
  terms = np.asarray(signs * np.asarray(scale), np.float32)
  one_by_one = np.cumsum(terms, axis=0, dtype=np.float32)[-1]
  np.testing.assert_array_equal(one_by_one, terms.astype(np.float64).sum(0))


def _skewed(shape, seed=0):
  """Magnitudes from 1e-4 to 1e2, so that orders of adding differ."""
  generator = np.random.default_rng(seed)
  return np.exp(generator.normal(-2, 2, shape)).astype(np.float32)


def test_mean_magnitude_against_float64():
  kernel = _skewed((3, 3, 50, 6)) * np.array([1, 1e-8, 1e8, -1, 3, 1e-3])
  kernel = kernel.astype(np.float32)
  expected = np.abs(kernel.astype(np.float64)).mean((0, 1, 2))
  np.testing.assert_allclose(
    binarise.mean_magnitude(kernel), expected, rtol=1e-5
  )
  keep = np.abs(kernel) > np.median(np.abs(kernel), axis=(0, 1, 2))
  kept = np.where(keep, np.abs(kernel.astype(np.float64)), 0)
  np.testing.assert_allclose(
    binarise.mean_magnitude(kernel, keep),
    kept.sum((0, 1, 2)) / keep.sum((0, 1, 2)),
    rtol=1e-5,
  )


def test_mean_magnitude_does_not_depend_on_the_order():
  kernel = _skewed((4096, 8))
  expected = np.asarray(binarise.mean_magnitude(kernel))
  shuffled = np.random.default_rng(1).permutation(kernel)
  for other in (shuffled, kernel.reshape(8, 16, 32, 8)):
    np.testing.assert_array_equal(binarise.mean_magnitude(other), expected)
  np.testing.assert_array_equal(
    jax.jit(lambda k: binarise.mean_magnitude(k / 2) * 2)(kernel), expected
  )


def test_mean_magnitude_of_nothing_and_of_what_is_not_finite():
  kernel = np.array([[0, np.nan, np.inf], [0, 1, 1]], np.float32)
  np.testing.assert_array_equal(
    binarise.mean_magnitude(kernel), [0, np.nan, np.inf]
  )
  none = np.zeros((2, 3), bool)
  np.testing.assert_array_equal(binarise.mean_magnitude(kernel, none), [0] * 3)


def test_a_bfloat16_scale_is_rounded_to_float16_first():
  # 1 + 2^-8 + 2^-12 lies above the middle of two bfloat16, but float16 makes
  # it the middle, which goes to the even one.
  kernel = jnp.array([[1.0], [1.0 + 2**-7]], jnp.bfloat16)
  third = jnp.full((14, 1), 1.0 + 2**-8 + 2**-12)
  scale = binarise.binary_codes(third)[1]
  np.testing.assert_array_equal(scale, np.float32([1 + 2**-8]))
  assert binarise.binarise_kernel(kernel)[0, 0] == 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  "function",
  [binarise.binarise_kernel, binarise.binarise_kernel_through_scale],
)
def test_training_computes_with_the_codes(function, dtype):
  kernel = jnp.asarray(_skewed((3, 3, 7, 5)), dtype)
  kernel *= jax.random.rademacher(jax.random.key(0), kernel.shape, dtype)
  codes, scale = binarise.binary_codes(kernel)
  assert codes.dtype == jnp.int8 and scale.dtype == jnp.float32
  np.testing.assert_array_equal(scale, scale.astype(jnp.float16))
  expected = binarise.dequantise(codes, scale, dtype)
  for fake in (function, jax.jit(function)):
    out = fake(kernel)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, expected)


def test_gradient_through_the_scale_by_hand():
  kernel = jnp.array([[1.0, -0.5], [-3.0, 0.0]])
  _, pull = jax.vjp(binarise.binarise_kernel_through_scale, kernel)
  (gradient,) = pull(jnp.array([[1.0, 1.0], [2.0, -1.0]]))
  # 1 / n is 0.5, alpha 2 and 0.25; -3 lies outside the clip.
  np.testing.assert_array_equal(gradient, [[2.5, 0.75], [1.0, -0.75]])
  narrow = jax.grad(lambda k: binarise.binarise_kernel_through_scale(k).sum())(
    kernel.astype(jnp.bfloat16)
  )
  assert narrow.dtype == jnp.bfloat16
