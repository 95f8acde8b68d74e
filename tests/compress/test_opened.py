"""Packed trees taken apart: what learns, what does not, what is stored."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxocr.compress import opened as opened_lib
from jaxocr.compress import packed as packed_lib
from jaxocr.compress import rules
from jaxocr.compress import specs

RULES = (
  ("pq/kernel", specs.Codebook(2, 4)),
  ("bits/kernel", specs.Binary()),
  ("int8/kernel", specs.Affine()),
  (".*", specs.Float("float16")),
)


class Product:
  """A model that multiplies by all of its parameters."""

  def apply(self, variables, x, *, mutable=False):
    params = variables["params"]
    x = x @ params["pq"]["kernel"] @ params["bits"]["kernel"]
    x = x @ params["int8"]["kernel"] + params["bias"][None]
    return (x, {"taps": {}}) if mutable else x


@pytest.fixture(scope="module", name="packed")
def fixture_packed():
  rng = np.random.default_rng(0)
  params = {
    name: {"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32)}
    for name, shape in (("pq", (6, 16)), ("bits", (16, 5)), ("int8", (5, 3)))
  }
  params["bias"] = jnp.asarray(rng.normal(size=3), jnp.float32)
  return jax.device_get(rules.pack(params, RULES))


def test_it_computes_with_what_was_packed(packed):
  opened = opened_lib.Opened(Product(), packed)
  x = jnp.ones((2, 6))
  expected = Product().apply({"params": rules.unpack(packed)}, x)
  variables = {"params": opened.params, "fixed": opened.fixed}
  np.testing.assert_array_equal(opened.apply(variables, x), expected)
  _, collections = opened.apply(variables, x, mutable=["taps", "fixed"])
  assert collections.keys() == {"taps", "fixed"}
  again = opened.pack(opened.params)
  assert jax.tree.structure(again) == jax.tree.structure(packed)
  for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(packed), strict=True):
    np.testing.assert_array_equal(a, b)
  assert {x.shape for x in jax.tree.leaves(opened.params)} == {(3, 4, 2), (3,)}


def test_what_is_trained_is_what_is_stored(packed):
  opened = opened_lib.Opened(Product(), packed)
  x = jnp.asarray(np.random.default_rng(1).normal(size=(32, 6)), jnp.float32)

  def loss(params):
    return jnp.mean(
      jnp.square(opened.apply({"params": params, "fixed": opened.fixed}, x) - 1)
    )

  params, tx = opened.params, optax.adam(1e-2)
  state, first = tx.init(params), float(loss(params))
  step = jax.jit(lambda p, s: tx.update(jax.grad(loss)(p), s))
  for _ in range(50):
    updates, state = step(params, state)
    params = optax.apply_updates(params, updates)
  after = float(loss(params))
  assert after < 0.7 * first
  trained = opened.pack(params)
  out = Product().apply({"params": rules.unpack(trained)}, x)
  assert float(jnp.mean(jnp.square(out - 1))) == pytest.approx(after, rel=1e-6)
  # Codes, bits and integers are as they were; codewords are float16.
  assert isinstance(trained["pq"]["kernel"], packed_lib.CodebookTensor)
  np.testing.assert_array_equal(
    trained["pq"]["kernel"].codes, packed["pq"]["kernel"].codes
  )
  assert trained["pq"]["kernel"].codebooks.dtype == jnp.float16
  assert trained["bits"] is packed["bits"] or trained["bits"] == packed["bits"]
  assert np.any(trained["bias"].values != packed["bias"].values)
