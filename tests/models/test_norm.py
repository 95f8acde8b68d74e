import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.models import norm as norm_lib

KEY = jax.random.key(0)


def test_batch_norm_moments_are_float32_under_bfloat16():
  class Norm(nn.Module):
    @nn.compact
    def __call__(self, x):
      return norm_lib.batch_norm(train=True, dtype=jnp.bfloat16, name="n")(x)

  x = jax.random.normal(KEY, (4, 2, 2, 3), jnp.bfloat16)
  variables = Norm().init(KEY, x)
  out, updates = Norm().apply(variables, x, mutable=["batch_stats"])
  assert out.dtype == jnp.bfloat16
  assert updates["batch_stats"]["n"]["mean"].dtype == jnp.float32


@pytest.mark.parametrize("shape", [(4, 5), (4, 6, 5), (4, 3, 6, 5)])
def test_batch_norm_learns_as_flax_does(shape):
  settings = dict(use_running_average=False, momentum=0.95, epsilon=1e-5)
  ours = norm_lib.BatchNorm(**settings, dtype=jnp.float32)
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


def test_a_folded_norm_is_an_offset():
  class Norm(nn.Module):
    @nn.compact
    def __call__(self, x):
      return norm_lib.batch_norm(
        train=False, dtype=jnp.float32, name="a_norm", folded=True
      )(x)

  variables = {"params": {"a_norm": {"offset": jnp.array([1.0, -2.0])}}}
  assert jax.tree.map(jnp.shape, Norm().init(KEY, jnp.zeros((1, 2)))) == (
    jax.tree.map(jnp.shape, variables)
  )
  out = Norm().apply(variables, jnp.array([[5.0, 5.0]]))
  np.testing.assert_array_equal(out, [[6, 3]])
