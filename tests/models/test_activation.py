"""Ranges that are learnt by looking, and the grid they give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.models import activation
from jaxocr.models import crnn


def _see(layer, batches):
  """The collection `ranges` after these batches of training."""
  variables = layer.init(jax.random.key(0), batches[0], train=False)
  for batch in batches:
    _, variables = layer.apply(
      variables, batch, train=True, mutable=[activation.RANGES]
    )
  return variables


def test_the_range_is_an_average_that_freezes():
  layer = activation.QuantisedActivation(decay=0.75, freeze_after=2)
  batches = [jnp.array([0.0, high]) for high in (1.0, 3.0, 100.0)]
  ranges = _see(layer, batches)[activation.RANGES]
  assert ranges["high"] == 0.75 * 1.0 + 0.25 * 3.0  # The third is too late.
  assert ranges["low"] == 0 and ranges["count"] == 2
  assert ranges["high"].dtype == jnp.float32


def test_a_percentile_leaves_outliers_out():
  x = jnp.arange(101.0).at[100].set(1e6)
  ranges = _see(activation.QuantisedActivation(percentile=90.0), [x])
  assert ranges[activation.RANGES]["low"] == pytest.approx(5)
  assert ranges[activation.RANGES]["high"] == pytest.approx(95)


def test_evaluation_rounds_to_the_grid_and_changes_nothing():
  layer = activation.QuantisedActivation(bits=2)
  variables = _see(layer, [jnp.array([0.0, 3.0])])
  y, after = layer.apply(
    variables,
    jnp.array([-1.0, 0.4, 0.6, 2.4, 9.0]),
    train=False,
    mutable=[activation.RANGES],
  )
  np.testing.assert_array_equal(y, [0, 0, 1, 2, 3])
  assert jax.tree.all(jax.tree.map(lambda a, b: a == b, variables, after))


def test_before_the_first_batch_features_pass():
  x = jnp.array([0.1, -7.3])
  layer = activation.QuantisedActivation()
  variables = layer.init(jax.random.key(0), x, train=False)
  np.testing.assert_array_equal(layer.apply(variables, x, train=False), x)


def test_the_gradient_passes_within_the_range():
  layer = activation.QuantisedActivation()
  variables = _see(layer, [jnp.array([0.0, 1.0])])
  x = jnp.array([-0.5, 0.5, 1.5])
  grad = jax.grad(lambda x: layer.apply(variables, x, train=False).sum())(x)
  np.testing.assert_array_equal(grad, [0, 1, 0])


# BiLSTM and head; before and behind 14 convolutions of real features, and
# before the collapse; behind the stem and two convolutions a block.
@pytest.mark.parametrize(
  "backbone, signs, count",
  [
    ("binary", True, 2),
    ("binary", False, 2 + 2 * 14 + 1),
    ("mobilenet", False, 2 + 1 + 2 * 6),
  ],
)
def test_a_crnn_has_a_range_wherever_features_are_codes(backbone, signs, count):
  model = crnn.CRNN(
    num_classes=4,
    backbone=backbone,
    binary_activations=signs,
    stem_channels=4,
    projection=4,
    hidden=4,
    activation_bits=8,
  )
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
  )
  assert len(jax.tree.leaves(shapes[activation.RANGES])) == 3 * count
