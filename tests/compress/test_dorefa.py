"""DoReFa by hand, against the paper's formulas, and PyTorch's gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import affine
from jaxocr.compress import dorefa


def _kernel(dtype=jnp.float32):
  return jax.random.normal(jax.random.key(0), (3, 3, 7, 5), dtype)


def test_two_bits_by_hand():
  # tanh(w) / max is -1, -0.5, 0, 0.2, 1; 3 (. / 2 + 1 / 2) is 0, 0.75, 1.5,
  # 1.8, 3, of which 1.5 goes to the even 2.
  kernel = np.arctanh(0.8 * np.array([[-1, -0.5, 0, 0.2, 1]]))
  codes, scale, zero_point = dorefa.dorefa_codes(jnp.asarray(kernel), bits=2)
  np.testing.assert_array_equal(codes, [[0, 1, 2, 2, 3]])
  assert codes.dtype == jnp.int32 and scale.dtype == jnp.float32
  assert scale == np.float32(np.float16(2 / 3)) and zero_point == 1.5
  np.testing.assert_allclose(
    dorefa.dorefa_kernel(jnp.asarray(kernel), bits=2),
    [[-1, -1 / 3, 1 / 3, 1 / 3, 1]],
    rtol=2**-11,
  )


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_against_the_paper(bits):
  kernel = np.asarray(_kernel())
  levels = 2**bits - 1
  squashed = np.tanh(kernel.astype(np.float64))
  exact = levels * (squashed / (2 * np.abs(squashed).max()) + 0.5)
  # All but what is so near a tie that float32 may decide otherwise.
  clear = np.abs(exact - np.floor(exact) - 0.5) > 1e-4
  assert clear.mean() > 0.98
  codes, scale, zero_point = dorefa.dorefa_codes(kernel, bits=bits)
  np.testing.assert_array_equal(codes[clear], np.rint(exact)[clear])
  values = affine.dequantise(codes, scale, zero_point, jnp.float32)
  paper = (2 * np.rint(exact) - levels) / levels
  np.testing.assert_allclose(values[clear], paper[clear], rtol=2**-11)


@pytest.mark.parametrize("bits", range(2, 9))
def test_zero_is_a_tie_that_goes_to_the_even_code(bits):
  codes, _, _ = dorefa.dorefa_codes(jnp.array([[0.0, 1.0, -1.0]]), bits=bits)
  levels = 2**bits - 1
  np.testing.assert_array_equal(codes, [[2 ** (bits - 1), levels, 0]])


def test_weight_gradient_against_torch():
  torch = pytest.importorskip("torch")
  kernel = np.array(_kernel())
  cotangent = np.random.default_rng(1).normal(size=kernel.shape)
  cotangent = cotangent.astype(np.float32)
  _, pull = jax.vjp(lambda k: dorefa.dorefa_kernel(k, bits=4), kernel)
  weights = torch.tensor(kernel, requires_grad=True)
  squashed = torch.tanh(weights)
  # With the rounding as the identity.
  smooth = 2 * (squashed / (2 * squashed.abs().max()) + 0.5) - 1
  smooth.backward(torch.tensor(cotangent))
  np.testing.assert_allclose(pull(cotangent)[0], weights.grad, atol=2e-5)


def test_a_kernel_of_zeros_stays_finite():
  kernel = jnp.zeros((2, 3))
  values, pull = jax.vjp(lambda k: dorefa.dorefa_kernel(k, bits=2), kernel)
  np.testing.assert_allclose(values, np.full((2, 3), 1 / 3), rtol=2**-11)
  np.testing.assert_array_equal(pull(jnp.ones((2, 3)))[0], np.ones((2, 3)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_training_computes_with_the_codes(bits, dtype):
  kernel = jax.random.normal(jax.random.key(1), (64, 64, 16), dtype)

  def fake(k):
    return dorefa.dorefa_kernel(k, bits=bits)

  expected = affine.dequantise(*dorefa.dorefa_codes(kernel, bits=bits), dtype)
  assert fake(kernel).dtype == dtype
  np.testing.assert_array_equal(fake(kernel), expected)
  np.testing.assert_array_equal(jax.jit(fake)(kernel), expected)
  assert jax.grad(lambda k: fake(k).sum())(kernel).dtype == dtype


def test_activation_by_hand():
  # Times 3: ties at 0.5 and 1.5 go to the even 0 and 2.
  x = jnp.array([-0.5, 0, 0.5 / 3, 0.5, 0.75, 1, 1.25])
  expected = np.array([0, 0, 0, 2, 2, 3, 3]) / 3
  np.testing.assert_allclose(
    dorefa.dorefa_activation(x, bits=2), expected, atol=1e-7
  )
  one_bit = dorefa.dorefa_activation(jnp.array([0.5, 0.51, 7]), bits=1)
  np.testing.assert_array_equal(one_bit, [0, 1, 1])


@pytest.mark.parametrize("bits", range(1, 9))
def test_activation_levels(bits):
  x = jnp.linspace(-0.25, 1.25, 3001)
  levels = 2**bits - 1
  out = np.asarray(dorefa.dorefa_activation(x, bits=bits))
  np.testing.assert_allclose(
    np.unique(out), np.arange(levels + 1) / levels, atol=1e-7
  )
  assert out.max() == 1
  np.testing.assert_array_equal(
    jax.jit(lambda v: dorefa.dorefa_activation(v, bits=bits))(x), out
  )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_activation_gradient_includes_the_bounds(dtype):
  below = -np.finfo(np.float32).tiny
  x = jnp.array([-1, below, 0, 0.3, 1, 1.0078125, 2], dtype)
  gradient = jax.grad(lambda v: dorefa.dorefa_activation(v, bits=4).sum())(x)
  assert gradient.dtype == dtype
  np.testing.assert_array_equal(
    np.asarray(gradient, np.float32), [0, 0, 1, 1, 1, 0, 0]
  )
  assert dorefa.dorefa_activation(x, bits=4).dtype == dtype


def test_bits_out_of_range_are_refused():
  for bits in (1, 9):
    with pytest.raises(ValueError, match=f"bits={bits}; must be 2 to 8"):
      dorefa.dorefa_kernel(jnp.ones((2, 2)), bits=bits)
  for bits in (0, 9):
    with pytest.raises(ValueError, match=f"bits={bits}; must be 1 to 8"):
      dorefa.dorefa_activation(jnp.ones(2), bits=bits)
