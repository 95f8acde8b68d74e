"""Convolution lowerings against `lax.conv` on padded inputs."""

from unittest import mock

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr import cpu
from jaxocr.models import bend
from jaxocr.models import layers

KEY = jax.random.key(0)


def _reference(x, kernel, strides, pad_value=0.0):
  """The textbook form: pad beforehand, then a VALID convolution."""
  padded = jnp.pad(
    x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=pad_value
  )
  return lax.conv_general_dilated(
    padded,
    kernel,
    strides,
    "VALID",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("pad_value", [0.0, 1.0])
def test_spatial_conv_of_signs_is_exact(strides, pad_value):
  x = jnp.sign(jax.random.normal(KEY, (2, 8, 12, 5)))
  kernel = jnp.sign(jax.random.normal(KEY, (3, 3, 5, 7)))
  out = layers.spatial_conv(x, kernel, strides=strides, pad_value=pad_value)
  np.testing.assert_array_equal(out, _reference(x, kernel, strides, pad_value))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (2, 2)])
def test_spatial_conv_has_the_gradients_of_the_textbook_form(
  strides, wide, monkeypatch
):
  monkeypatch.setattr(cpu, "has_wide_vectors", lambda: wide)
  products = mock.Mock(wraps=layers._kernel_gradient)
  monkeypatch.setattr(layers, "_kernel_gradient", products)
  x = jax.random.normal(KEY, (2, 8, 12, 5))
  kernel = jax.random.normal(jax.random.key(1), (3, 3, 5, 7))

  def ours(x, kernel):
    return layers.spatial_conv(x, kernel, strides=strides, pad_value=1.0)

  def gradients(f):
    return jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), (0, 1))(x, kernel)

  both = zip(
    gradients(ours),
    gradients(lambda *a: _reference(*a, strides, 1.0)),
    strict=True,
  )
  for a, b in both:
    np.testing.assert_allclose(a, b, atol=1e-4)
  assert products.called == (not wide)


def test_kernel_gradients_of_all_backends_agree():
  x = jax.random.normal(KEY, (2, 8, 12, 5))
  kernel = jax.random.normal(jax.random.key(1), (3, 3, 5, 7))
  cotangent = jax.random.normal(jax.random.key(2), (2, 4, 12, 7))
  np.testing.assert_allclose(
    layers._kernel_gradient(x, kernel, cotangent, (2, 1)),
    layers._lax_kernel_gradient(x, kernel, cotangent, (2, 1)),
    atol=1e-4,
  )


def test_spatial_conv_by_hand():
  x = jnp.full((1, 1, 1, 1), -1.0)
  kernel = jnp.ones((3, 3, 1, 1))
  # Eight pads of +1 around one -1.
  assert float(layers.spatial_conv(x, kernel, pad_value=1.0)[0, 0, 0, 0]) == 7


def test_channel_sums_by_hand():
  x = jnp.arange(1.0, 9.0).reshape(1, 2, 2, 2)
  np.testing.assert_array_equal(layers.channel_sums(x, x), [84, 120])
  low = jnp.full((4, 8, 16, 1), 1.0, jnp.bfloat16)
  assert layers.channel_sums(low, low) == 512  # float32 inside.


def test_stem_is_a_strided_convolution():
  image = jax.random.normal(KEY, (2, 16, 20, 1))
  kernel = jax.random.normal(KEY, (3, 3, 1, 6))
  np.testing.assert_allclose(
    layers.stem_conv(image, kernel),
    _reference(image, kernel, (2, 2)),
    atol=1e-5,
  )


def test_average_pool_by_hand():
  x = jnp.arange(8.0).reshape(1, 2, 4, 1)
  out = layers.average_pool(x, (2, 2))
  np.testing.assert_array_equal(out[0, :, :, 0], [[2.5, 4.5]])
  with pytest.raises(ValueError, match="2x4 do not divide"):
    layers.average_pool(x, (2, 3))


def test_rprelu_by_hand():
  x = jnp.array([[[[-2.0, 3.0]]]])
  variables = {
    "params": {
      "slope": jnp.array([0.5, 0.5]),
      "before": {"offset": jnp.array([1.0, -1.0])},
      "after": {"offset": jnp.array([10.0, 0.0])},
    }
  }
  out = bend.RPReLU().apply(variables, x)
  np.testing.assert_array_equal(out[0, 0, 0], [9.5, 2.0])


class Tapped(nn.Module):
  @nn.compact
  def __call__(self, x):
    y = nn.Dense(2, name="block")(x)
    layers.tap(self, "block", y)  # The name of a submodule, too.
    return y * 2


def test_taps_are_left_where_they_are_asked_for():
  x = jax.random.normal(KEY, (3, 4))
  variables = Tapped().init(KEY, x)
  assert variables.keys() == {"params"}
  out, found = Tapped().apply(variables, x, mutable=[layers.TAPS])
  np.testing.assert_array_equal(found[layers.TAPS]["block_tap"] * 2, out)
  np.testing.assert_array_equal(Tapped().apply(variables, x), out)
