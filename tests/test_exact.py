import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr import exact
from jaxocr.data import digits
from jaxocr.export import digit_model
from jaxocr.export import engines
from jaxocr.train import distributed
from jaxocr.train import evaluate
from jaxocr.train import sharding

HIGHEST = (jax.lax.Precision.HIGHEST,) * 2
IMAGES = np.zeros((8, 32, 64, 1), np.float32)


def precision_of(function):
  """Of the one product that it traces."""
  x = np.zeros((2, 2), np.float32)
  (product,) = jax.make_jaxpr(function)(x, x).eqns
  return product.params["precision"]


@pytest.fixture
def backend(monkeypatch):
  """Makes it look as if JAX's default backend were the one named."""
  asked = jax.config.jax_default_matmul_precision
  jax.config.update("jax_default_matmul_precision", None)
  yield lambda name: monkeypatch.setattr(jax, "default_backend", lambda: name)
  jax.config.update("jax_default_matmul_precision", asked)


@pytest.mark.parametrize("name", ["gpu", "tpu"])
def test_wrapped_products_are_exact_on_accelerators(backend, name):
  backend(name)
  assert precision_of(exact.products(jnp.matmul)) == HIGHEST
  assert precision_of(jnp.matmul) is None


def test_a_cpu_is_not_asked(backend):
  backend("cpu")
  exact.set_up()
  assert precision_of(exact.products(jnp.matmul)) is None
  assert precision_of(jnp.matmul) is None


def test_a_launch_makes_all_products_exact(backend, monkeypatch):
  monkeypatch.setattr("jax.distributed.initialize", lambda *given: None)
  backend("gpu")
  distributed.start(None, None, None)
  assert precision_of(jnp.matmul) == HIGHEST


def test_what_the_user_asks_for_stays_where_nothing_is_wrapped(backend):
  backend("gpu")
  jax.config.update("jax_default_matmul_precision", "tensorfloat32")
  before = precision_of(jnp.matmul)
  exact.set_up()
  assert precision_of(jnp.matmul) == before != HIGHEST
  assert precision_of(exact.products(jnp.matmul)) == HIGHEST


class Watched:
  """A network that notes in which precision it is traced."""

  def __init__(self):
    self.seen = []

  def apply(self, variables, image, **more):
    self.seen.append(jax.config.jax_default_matmul_precision)
    return image[:, 0]


def test_what_reads_is_exact(backend):
  backend("gpu")
  network = Watched()
  engines.make_logits(network, {})(IMAGES)
  stored = types.SimpleNamespace(variables=lambda: {})
  found = digit_model.DigitModel(stored, network, ("0",), standard=False)
  size = digits.SIZE_PX
  digit_model.JaxEngine(found).logits(np.zeros((1, size, size, 1)))
  assert network.seen == ["highest"] * 2


def test_what_judges_is_exact(backend):
  backend("gpu")
  network = Watched()
  rendered = types.SimpleNamespace(batch_size=8)
  judge = evaluate.Evaluator(network, None, rendered, sharding.make_mesh())
  judge._read_batch({}, IMAGES)
  assert network.seen == ["highest"]
