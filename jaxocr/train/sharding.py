"""Where arrays live: one mesh of all devices, lines split, the rest repeated.

Data parallelism needs no collective written by hand. The jitted step sees the
whole batch, so losses and BatchNorm moments are global; the compiler splits the
work by the shardings stated here and adds the sums between devices.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from jaxocr.train import step as step_lib

AXIS = "data"
PyTree = Any


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """One axis over `devices`, or over all devices of all processes."""
  devices = jax.devices() if devices is None else devices
  return jax.make_mesh(
    (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def split_lines(mesh: Mesh) -> NamedSharding:
  """The first axis split evenly over the devices."""
  return NamedSharding(mesh, PartitionSpec(AXIS))


def check_batch_size(batch_size: int, devices: int) -> None:
  """Raises ValueError unless every device gets as many lines.

  The message names the nearest sizes that would do.
  """
  if batch_size > 0 and batch_size % devices == 0:
    return
  below = max(batch_size // devices, 0) * devices
  nearest = [str(size) for size in (below, below + devices) if size > 0]
  raise ValueError(
    f"batch_size={batch_size} must be a positive multiple of {devices} "
    f"devices; try {' or '.join(nearest)}"
  )


def place(tree: PyTree, sharding: NamedSharding) -> PyTree:
  """Puts host arrays, equal in all processes, on the mesh."""

  def put(array):
    array = np.asarray(array)
    return jax.make_array_from_callback(
      array.shape, sharding, lambda index: array[index]
    )

  return jax.tree.map(put, tree)


def place_share(tree: PyTree, sharding: NamedSharding) -> PyTree:
  """Puts on the mesh what is split over processes, each giving its own part."""
  return jax.tree.map(
    lambda part: jax.make_array_from_process_local_data(sharding, part), tree
  )


def line_keys(key: jax.Array, step: jax.Array, count: int) -> jax.Array:
  """Keys [count], one for each line of a step; they depend on nothing else."""
  return jax.random.split(jax.random.fold_in(key, step), count)


@functools.cache
def shard_sample(
  sample: Callable, mesh: Mesh, batch_size: int, split_assets: bool = False
) -> Callable:
  """`draw(assets, key, step) -> Batch`, compiled once for all who ask.

  Args:
    sample: `sample(assets, keys [B]) -> Batch`, pure, each line by its own key.
    mesh: Of one axis; every device draws the lines that it learns from.
    batch_size: B, a multiple of the devices.
    split_assets: Whether `assets` are arrays [B, ...] that come with the step,
      split like its lines, rather than what all lines are drawn from.
  """
  check_batch_size(batch_size, mesh.size)
  whole, lines = replicated(mesh), split_lines(mesh)
  source = lines if split_assets else whole

  def draw(assets, key, step):
    keys = line_keys(key, step, batch_size)
    return sample(assets, jax.lax.with_sharding_constraint(keys, lines))

  return jax.jit(draw, in_shardings=(source, whole, whole), out_shardings=lines)


def shard_train_step(
  train_step: step_lib.TrainStep,
  sample: Callable,
  mesh: Mesh,
  *,
  batch_size: int,
  split_assets: bool = False,
) -> Callable:
  """Draws lines on the devices and learns from them there.

  Two compiled functions: the stages of a run learn in different ways, but draw
  in one, and compiling the drawing takes as long as compiling the learning.

  Args:
    train_step: From `make_train_step`.
    sample: See `shard_sample`.
    mesh: Of one axis.
    batch_size: B, a multiple of the devices.
    split_assets: See `shard_sample`.

  Returns:
    `step(state, assets, key, teacher=None, first=0) -> (state, metrics)`, all
    of them replicated. The state given is donated. `key` is the run's, into
    which the step's number is folded; for the lines `first` is added to it, the
    steps of stages before, where these go on in one sequence. `teacher` is what
    `train_step` takes as such.
  """
  draw = shard_sample(sample, mesh, batch_size, split_assets)
  whole, lines = replicated(mesh), split_lines(mesh)

  def learn(state, batch, key, teacher):
    # Apart from every line's key: no line's index is this large.
    noise = jax.random.fold_in(jax.random.fold_in(key, state.step), 2**31 - 1)
    if teacher is None:
      return train_step(state, batch, noise)
    return train_step(state, batch, noise, teacher)

  # Shardings are stated for all arguments, so that none may be left out.
  learn = jax.jit(
    learn,
    in_shardings=(whole, lines, whole, whole),
    out_shardings=whole,
    donate_argnums=0,
  )

  def step(state, assets, key, teacher=None, first=0):
    at = state.step + first if first else state.step
    return learn(state, draw(assets, key, at), key, teacher)

  return step
