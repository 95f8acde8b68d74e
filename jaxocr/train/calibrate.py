"""Ranges of features before any training with them: by looking at lines."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.models import activation
from jaxocr.models import fold
from jaxocr.train import ship


def calibrate(
  weights: ship.Weights,
  network: Any,  # A Flax module.
  images: Iterable[np.ndarray],
) -> ship.Weights:
  """Weights of a float network with the ranges of its features.

  A range is the mean of the batches' smallest values, and of their largest.

  Args:
    weights: Those that have BatchNorm's moments are folded to look.
    network: The same, folded, with `activation_bits`.
    images: Batches [B, H, W, 1] of one shape.

  Raises:
    ValueError: There is no batch, or no feature to be rounded.
  """
  params = jax.tree.map(
    lambda leaf: np.asarray(leaf, np.float32),
    fold.fold(*jax.device_get((weights.params, weights.collections)), xp=np),
  )

  @jax.jit
  def look(params, image):
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)
    unseen = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
      shapes.get(activation.RANGES, {}),
    )
    # Nothing but ranges changes in training where BatchNorm is folded.
    _, seen = network.apply(
      {"params": params, activation.RANGES: unseen},
      image,
      train=True,
      mutable=[activation.RANGES],
    )
    return seen.get(activation.RANGES, {})

  seen = [jax.device_get(look(params, image)) for image in images]
  if not seen or not jax.tree.leaves(seen[0]):
    raise ValueError(
      f"{len(seen)} batches and activation_bits="
      f"{network.activation_bits} give no range; give lines and "
      "the bits"
    )
  ranges = jax.tree_util.tree_map_with_path(
    lambda path, *values: _together(path[-1].key, values), *seen
  )
  return ship.Weights(
    weights.params, {**weights.collections, activation.RANGES: ranges}
  )


def _together(name, values):
  if name == "count":
    return np.asarray(len(values), np.int32)
  return np.mean(values, dtype=np.float32)
