"""Convolution lowerings against `lax.conv` on padded inputs."""

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.models import layers

KEY = jax.random.key(0)


def _reference(x, kernel, strides, pad_value=0.0, groups=1):
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
    feature_group_count=groups,
  )


@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("pad_value", [0.0, 1.0])
def test_spatial_conv_of_signs_is_exact(strides, pad_value):
  x = jnp.sign(jax.random.normal(KEY, (2, 8, 12, 5)))
  kernel = jnp.sign(jax.random.normal(KEY, (3, 3, 5, 7)))
  out = layers.spatial_conv(x, kernel, strides=strides, pad_value=pad_value)
  np.testing.assert_array_equal(out, _reference(x, kernel, strides, pad_value))


@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (2, 2)])
def test_spatial_conv_has_the_gradients_of_the_textbook_form(strides):
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


def test_kernel_gradients_of_all_backends_agree():
  x = jax.random.normal(KEY, (2, 8, 12, 5))
  kernel = jax.random.normal(jax.random.key(1), (3, 3, 5, 7))
  cotangent = jax.random.normal(jax.random.key(2), (2, 4, 12, 7))
  np.testing.assert_allclose(
    layers._kernel_gradient(x, cotangent, 3, (2, 1)),
    layers._lax_kernel_gradient(x, kernel, cotangent, (2, 1)),
    atol=1e-4,
  )


def test_spatial_conv_by_hand():
  x = jnp.full((1, 1, 1, 1), -1.0)
  kernel = jnp.ones((3, 3, 1, 1))
  # Eight pads of +1 around one -1.
  assert float(layers.spatial_conv(x, kernel, pad_value=1.0)[0, 0, 0, 0]) == 7


@pytest.mark.parametrize("height", [1, 7, 8])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (2, 2)])
def test_depthwise_lowerings_agree_in_value_and_gradient(strides, height):
  x = jax.random.normal(KEY, (2, height, 12, 5))
  kernel = jax.random.normal(KEY, (3, 3, 5))

  def reference(x, kernel):
    return _reference(x, kernel[:, :, None], strides, groups=5)

  def ours(x, kernel):
    return layers.depthwise_conv(x, kernel, strides=strides)

  def off_cpu(x, kernel):
    return layers._depthwise_lax(x, kernel, strides)

  def gradients(f):
    return jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), (0, 1))(x, kernel)

  for lowering in (ours, off_cpu):
    np.testing.assert_allclose(
      lowering(x, kernel), reference(x, kernel), atol=1e-5
    )
    both = zip(gradients(lowering), gradients(reference), strict=True)
    for a, b in both:
      np.testing.assert_allclose(a, b, atol=1e-4)


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
  out = layers.RPReLU().apply(variables, x)
  np.testing.assert_array_equal(out[0, 0, 0], [9.5, 2.0])


def test_batch_norm_moments_are_float32_under_bfloat16():
  class Norm(nn.Module):
    @nn.compact
    def __call__(self, x):
      return layers.batch_norm(train=True, dtype=jnp.bfloat16, name="n")(x)

  x = jax.random.normal(KEY, (4, 2, 2, 3), jnp.bfloat16)
  variables = Norm().init(KEY, x)
  out, updates = Norm().apply(variables, x, mutable=["batch_stats"])
  assert out.dtype == jnp.bfloat16
  assert updates["batch_stats"]["n"]["mean"].dtype == jnp.float32


class Tapped(nn.Module):
  @nn.compact
  def __call__(self, x):
    y = nn.Dense(2, name="block")(x)
    layers.tap(self, "block", y)  # The name of a submodule, too.
    return y * 2


@pytest.mark.parametrize("shape", [(4, 5), (4, 6, 5), (4, 3, 6, 5)])
def test_batch_norm_learns_as_flax_does(shape):
  settings = dict(use_running_average=False, momentum=0.95, epsilon=1e-5)
  ours = layers.BatchNorm(**settings, dtype=jnp.float32)
  theirs = nn.BatchNorm(**settings)
  x = 2 + 3 * jax.random.normal(KEY, shape)
  variables = ours.init(KEY, x)
  assert jax.tree.map(jnp.shape, variables) == (
    jax.tree.map(jnp.shape, theirs.init(KEY, x))
  )
  params = {"scale": jnp.arange(1.0, 6), "bias": jnp.arange(5.0)}

  def gradients(norm):
    def loss(params, x):
      y, updates = norm.apply(
        {**variables, "params": params}, x, mutable=["batch_stats"]
      )
      return jnp.sum(jnp.sin(y)), (y, updates)

    return jax.grad(loss, (0, 1), has_aux=True)(params, x)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4),
    gradients(ours),
    gradients(theirs),
  )


def test_taps_are_left_where_they_are_asked_for():
  x = jax.random.normal(KEY, (3, 4))
  variables = Tapped().init(KEY, x)
  assert variables.keys() == {"params"}
  out, found = Tapped().apply(variables, x, mutable=[layers.TAPS])
  np.testing.assert_array_equal(found[layers.TAPS]["block_tap"] * 2, out)
  np.testing.assert_array_equal(Tapped().apply(variables, x), out)


def test_a_folded_norm_is_an_offset():
  class Norm(nn.Module):
    @nn.compact
    def __call__(self, x):
      return layers.batch_norm(
        train=False, dtype=jnp.float32, name="a_norm", folded=True
      )(x)

  variables = {"params": {"a_norm": {"offset": jnp.array([1.0, -2.0])}}}
  assert jax.tree.map(jnp.shape, Norm().init(KEY, jnp.zeros((1, 2)))) == (
    jax.tree.map(jnp.shape, variables)
  )
  out = Norm().apply(variables, jnp.array([[5.0, 5.0]]))
  np.testing.assert_array_equal(out, [[6, 3]])
