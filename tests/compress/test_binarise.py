"""Signs and their gradients against the closed forms of the papers."""

import chex
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
  "function", [binarise.hard_sign, binarise.sign_ste, binarise.approx_sign]
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
  scale = binarise.kernel_scale(kernel)
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


def test_soft_start_of_kernels_begins_at_the_kernel():
  kernel = jnp.array([[1.0, -0.5], [-3.0, 0.0]])
  np.testing.assert_array_equal(binarise.binarise_kernel(kernel, 0.0), kernel)
  np.testing.assert_array_equal(
    binarise.binarise_kernel(kernel, 0.5), [[1.5, -0.375], [-2.5, 0.125]]
  )
