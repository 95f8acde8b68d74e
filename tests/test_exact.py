import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr import exact
from jaxocr.export import engines

HIGHEST = (jax.lax.Precision.HIGHEST,) * 2


def precision_of_a_product():
  x = np.zeros((2, 2), np.float32)
  (product,) = jax.make_jaxpr(jnp.matmul)(x, x).eqns
  return product.params["precision"]


@pytest.fixture
def backend(monkeypatch):
  """Makes it look as if JAX's default backend were the one named."""
  asked = jax.config.jax_default_matmul_precision
  yield lambda name: monkeypatch.setattr(jax, "default_backend", lambda: name)
  jax.config.update("jax_default_matmul_precision", asked)


@pytest.mark.parametrize("name", ["gpu", "tpu"])
def test_products_traced_within_are_exact_on_accelerators(backend, name):
  backend(name)
  with exact.products():
    assert precision_of_a_product() == HIGHEST
  assert precision_of_a_product() is None


def test_a_cpu_is_not_asked(backend):
  backend("cpu")
  with exact.products():
    assert precision_of_a_product() is None
  exact.set_up()
  assert precision_of_a_product() is None


def test_set_up_makes_all_products_exact(backend):
  backend("gpu")
  exact.set_up()
  assert precision_of_a_product() == HIGHEST


def test_what_the_user_asks_for_stays(backend):
  backend("gpu")
  jax.config.update("jax_default_matmul_precision", "tensorfloat32")
  before = precision_of_a_product()
  exact.set_up()
  with exact.products():
    assert precision_of_a_product() == before != HIGHEST


def test_engines_compile_exact_products(backend):
  backend("gpu")
  seen = []

  def apply(variables, image, train):
    seen.append(jax.config.jax_default_matmul_precision)
    return image

  logits = engines.make_logits(types.SimpleNamespace(apply=apply), {})
  logits(np.zeros((1, 32, 64, 1), np.float32))
  assert seen == ["highest"]
