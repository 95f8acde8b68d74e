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

from jaxocr import native
from jaxocr.train import early
from jaxocr.train import step as step_lib

AXIS = "data"
PyTree = Any
# (its variables, images [B, H, W, 1]) -> a tree of arrays [B, ...].
Teacher = Callable[[PyTree, jax.Array], PyTree]


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
  sample: Callable,
  mesh: Mesh,
  batch_size: int,
  split_assets: bool | tuple[bool, ...] = False,
) -> Callable:
  """`draw(assets, keys [B]) -> Batch`, compiled once for all who ask.

  Args:
    sample: `sample(assets, keys [B]) -> Batch`, pure, each line by its own key.
    mesh: Of one axis; every device draws the lines that it learns from.
    batch_size: B, a multiple of the devices.
    split_assets: Whether `assets` are arrays [B, ...] that come with the step,
      split like its lines, rather than what all lines are drawn from; a tuple
      says it of each part of a tuple.
  """
  check_batch_size(batch_size, mesh.size)
  lines, whole = split_lines(mesh), replicated(mesh)
  source = jax.tree.map(lambda split: lines if split else whole, split_assets)
  return jax.jit(sample, in_shardings=(source, lines), out_shardings=lines)


@functools.cache
def shard_teacher(teacher: Teacher, mesh: Mesh) -> Callable:
  """`teacher`, compiled once for all who ask; what it says is split by line."""
  whole, lines = replicated(mesh), split_lines(mesh)
  teach = native.applied(teacher, mesh.size)
  return jax.jit(teach, in_shardings=(whole, lines), out_shardings=lines)


class TrainStep:
  """Draws lines on the devices, asks a teacher of them, and learns from them.

  Three compiled functions: the stages of a run learn in different ways, but
  draw in one, and compiling the drawing takes as long as compiling the
  learning. Drawing and asking do not depend on the state, so on a CPU they run
  beside the learning of the step before, on cores that it leaves idle.
  """

  def __init__(
    self,
    train_step: step_lib.TrainStep,
    sample: Callable,
    mesh: Mesh,
    *,
    batch_size: int,
    teacher: Teacher | None = None,
    split_assets: bool | tuple[bool, ...] = False,
  ):
    """Compiles nothing yet.

    Args:
      train_step: From `make_train_step`.
      sample: See `shard_sample`.
      mesh: Of one axis.
      batch_size: B, a multiple of the devices.
      teacher: Whose word `train_step` takes, if it takes any.
      split_assets: See `shard_sample`.
    """
    self._draw = shard_sample(sample, mesh, batch_size, split_assets)
    self._teach = teacher and shard_teacher(teacher, mesh)
    whole, lines = replicated(mesh), split_lines(mesh)
    # Split like the lines, each device has its own lines' keys.
    self._keys = jax.jit(
      lambda key, step: line_keys(key, step, batch_size), out_shardings=lines
    )

    def learn(state, batch, key, taught):
      # Apart from every line's key: no line's index is this large.
      noise = jax.random.fold_in(jax.random.fold_in(key, state.step), 2**31 - 1)
      if taught is None:
        return train_step(state, batch, noise)
      return train_step(state, batch, noise, taught)

    # Shardings are stated for all arguments, so that none may be left out.
    self._learn = early.Early(
      jax.jit(
        learn,
        in_shardings=(whole, lines, whole, lines),
        out_shardings=whole,
        donate_argnums=0,
      )
    )

  def __call__(
    self,
    state: PyTree,
    assets: PyTree,
    key: jax.Array,
    at: int,
    teacher: PyTree = None,
  ) -> tuple[PyTree, step_lib.Metrics]:
    """One update.

    Args:
      state: Its buffers are donated.
      assets: Of `sample`.
      key: The run's, into which the step's number is folded.
      at: Number of the step, for its lines. Read from the state, it would make
        drawing wait for the step before.
      teacher: Variables of the teacher.

    Returns:
      (state, metrics), replicated.
    """
    keys = self._keys(key, np.int32(at))
    batch = self._draw(assets, keys)
    taught = self._teach and self._teach(teacher, batch.image)
    return self._learn(state, batch, key, taught)

  def compile(
    self, state: PyTree, assets: PyTree, key: jax.Array, teacher: PyTree = None
  ) -> None:
    """Begins to compile for arguments like these; shapes are enough."""
    keys = jax.eval_shape(self._keys, key, np.int32(0))
    batch = jax.eval_shape(self._draw, assets, keys)
    taught = self._teach and jax.eval_shape(self._teach, teacher, batch.image)
    self._learn.compile(state, batch, key, taught)
