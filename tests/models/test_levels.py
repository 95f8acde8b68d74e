"""Features whose values are few are found, and only those."""

import jax
from jax import lax
import jax.numpy as jnp
import pytest

from jaxocr.compress import affine
from jaxocr.compress import binarise
from jaxocr.models import activation
from jaxocr.models import layers
from jaxocr.models import levels
from jaxocr.models import macs
from jaxocr.models import mlp


def form_of(function, inputs=()):
  """Form of what function(x) gives, as a product with it is counted."""
  x = jax.ShapeDtypeStruct((2, 3), jnp.float32)
  kernel = jax.eval_shape(function, x, *inputs)

  def multiply(variables, x, *more):
    return variables["params"]["kernel"] * function(x, *more)

  counted = macs.count_macs(
    multiply, {"params": {"kernel": kernel}}, x, *inputs
  )
  (found,) = counted["kernel"]
  return found


SIGNS = {
  "ste": binarise.sign_ste,
  "swish": binarise.swish_sign,
  "approx": binarise.approx_sign,
  "bare": binarise.hard_sign,
}


@pytest.mark.parametrize("name", SIGNS)
def test_signs_are_bits(name):
  assert form_of(SIGNS[name]) == "bit"


def test_signs_are_bits_only_when_they_are_hard():
  assert form_of(lambda x: binarise.approx_sign(x, 1.0)) == "bit"
  assert form_of(lambda x: binarise.approx_sign(x, 0.5)) == "float"
  hardness = jax.ShapeDtypeStruct((), jnp.float32)
  assert form_of(binarise.approx_sign, inputs=(hardness,)) == "float"


@pytest.mark.parametrize(
  "function, form",
  [
    (lambda s: jnp.flip(s.T, 0).reshape(3, 2)[1:].astype(jnp.bfloat16), "bit"),
    (lambda s: s - 1, "bit"),  # As spatial_conv pads.
    (lambda s: jnp.pad(s, 1, constant_values=1.0), "bit"),
    (lambda s: jnp.pad(s, 1), "int2"),  # -1, 0 and 1.
    (lambda s: jnp.concatenate([s, -2 * s, 3 * s]), "int3"),
    (lambda s: s + s, "int2"),  # -2, 0, 2, as far as is known.
    (lambda s: jnp.maximum(s, 0.0) * 0.5, "bit"),
    (lambda s: s * jnp.arange(3.0)[None], "float"),
    (lambda s: jnp.sum(s, 0, keepdims=True), "float"),
    (jnp.tanh, "float"),
  ],
)
def test_what_is_done_to_signs(function, form):
  assert form_of(lambda x: function(binarise.hard_sign(x))) == form


def test_floats_are_floats():
  assert form_of(lambda x: x) == "float"
  assert form_of(lambda x: jnp.where(x > 0, x, -1.0)) == "float"
  assert form_of(lambda x: jnp.where(x > 0, 0.25, -1.0) + x) == "float"


def test_a_zero_takes_whatever_it_meets_with_it():
  assert form_of(lambda x: 0.0 * x + binarise.hard_sign(x)) == "bit"


def test_marked_features_are_of_that_grid():
  assert form_of(lambda x: levels.mark(x, 8)) == "int8"
  assert form_of(lambda x: levels.mark(x, 4).T) == "int4"
  padded = form_of(lambda x: jnp.pad(levels.mark(x, 8), 1))
  assert padded == "int8"  # The grid has a zero.
  other = form_of(lambda x: jnp.pad(levels.mark(x, 8), 1, constant_values=7.0))
  assert other == "float"
  two = form_of(
    lambda x: jnp.concatenate([levels.mark(x, 8), levels.mark(2 * x, 8)])
  )
  assert two == "float"  # Of two grids.


def test_a_mark_changes_nothing():
  x = jnp.array([0.5, -3.0])
  assert (levels.mark(x, 8) == x).all()
  assert (jax.grad(lambda x: levels.mark(x, 8).sum())(x) == 1).all()


def test_quantised_activations_are_marked():
  layer = activation.QuantisedActivation(bits=4)
  x = jnp.ones((2, 3))
  variables = layer.init(jax.random.key(0), x, train=False)
  form = form_of(lambda x: layer.apply(variables, x, train=False))
  assert form == "int4"
  # Its grid is what the mark says: 0 and 15 steps.
  assert affine.Grid(bits=4, symmetric=False).highest == 2**4 - 1


def test_what_is_carried_through_a_scan_is_not_known():
  def network(x):
    first = binarise.hard_sign(x)
    return lax.scan(lambda c, _: (c * 0.5, c), first, None, length=3)[1]

  assert form_of(network) == "float"
  scanned = form_of(
    lambda x: lax.scan(lambda c, s: (c, s), 0.0, binarise.hard_sign(x))[1]
  )
  assert scanned == "bit"


def test_one_bit_padding_stays_one_bit():
  x = jax.ShapeDtypeStruct((1, 4, 4, 2), jnp.float32)
  kernel = jax.ShapeDtypeStruct((3, 3, 2, 5), jnp.float32)

  def network(variables, x):
    signs = binarise.hard_sign(x)
    return layers.spatial_conv(signs, variables["params"]["k"], pad_value=1.0)

  counted = macs.count_macs(network, {"params": {"k": kernel}}, x)
  assert counted == {"k": {"bit": 16 * 9 * 2 * 5}}


def test_a_network_of_signs_throughout():
  model = mlp.BinaryMLP((6, 5), 4)
  x = jax.ShapeDtypeStruct((1, 3, 4, 1), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  counted = macs.count_macs(model.apply, variables, x)
  assert counted == {
    "hidden0/binary_kernel": {"bit": 12 * 6},
    "hidden1/binary_kernel": {"bit": 6 * 5},
    "logits/binary_kernel": {"bit": 5 * 4},
  }
