import functools
import threading
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.train import sharding
from tests.train import tiny


class State(NamedTuple):
  step: jax.Array


@functools.cache
def run(devices):
  """Three steps on the first so many devices: states and losses after each."""
  mesh = sharding.make_mesh(jax.devices()[:devices])
  new, train_step, _ = tiny.make_run(mesh)
  state, states, losses = new, [], []
  for done in range(3):
    state, metrics = train_step(state, done)
    total, count = jax.device_get(metrics["loss"])
    states.append(jax.device_get(state))
    losses.append(total / count)
  # Its buffers were given to the next state.
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(new.params))
  return states, losses


def test_eight_devices_learn_as_one():
  (one, one_losses), (eight, eight_losses) = run(1), run(8)
  np.testing.assert_allclose(one_losses, eight_losses, rtol=0, atol=1e-5)
  chex.assert_trees_all_close(one[2].params, eight[2].params, rtol=0, atol=1e-5)


def test_batch_norm_moments_are_of_the_whole_batch():
  one, eight = run(1)[0][0], run(8)[0][0]
  moments = one.collections["batch_stats"]["BatchNorm_0"]
  assert abs(moments["mean"]).max() > 1e-3  # They did move.
  chex.assert_trees_all_close(
    eight.collections, one.collections, rtol=0, atol=1e-6
  )


def test_each_device_draws_its_own_lines():
  mesh = sharding.make_mesh()
  seen = []

  def sample(assets, keys):
    batch = tiny.sample(assets, keys)
    jax.debug.inspect_array_sharding(batch.image, callback=seen.append)
    return batch

  step = sharding.TrainStep(
    lambda state, batch, key: (state, jnp.sum(batch.image)),
    sample,
    mesh,
    batch_size=16,
  )
  state = State(step=jnp.zeros((), jnp.int32))
  whole = sharding.replicated(mesh)
  step(state, sharding.place(tiny.LEVELS, whole), jax.random.key(0), 0)
  assert seen[0].shard_shape((16, 8, 32, 1)) == (2, 8, 32, 1)


def test_all_stages_draw_with_one_function():
  mesh, traced = sharding.make_mesh(), []

  def sample(assets, keys):
    traced.append(keys)
    return tiny.sample(assets, keys)

  whole = sharding.replicated(mesh)
  levels = sharding.place(tiny.LEVELS, whole)
  seen = []
  for factor in (1, 2):
    # Two stages that learn in different ways.
    step = sharding.TrainStep(
      lambda state, batch, key, f=factor: (
        State(state.step + 1),
        f * jnp.sum(batch.image),
      ),
      sample,
      mesh,
      batch_size=16,
    )
    state = sharding.place(State(step=np.int32(0)), whole)
    for done in range(2):
      state, total = step(state, levels, jax.random.key(0), done)
      seen.append(float(total) / factor)
  assert len(traced) == 1
  assert seen[:2] == seen[2:] and seen[0] != seen[1]
  # Other sizes, other lines.
  draw = sharding.shard_sample(sample, mesh, 16)
  assert sharding.shard_sample(sample, mesh, 16) is draw
  assert sharding.shard_sample(sample, mesh, 8) is not draw
  keys = sharding.line_keys(jax.random.key(0), jnp.array(0), 16)
  batch = draw(levels, keys)
  np.testing.assert_allclose(
    batch.image, tiny.sample(jnp.asarray(tiny.LEVELS), keys).image, atol=1e-6
  )


def test_a_step_compiled_ahead_is_the_step():
  mesh, traced = sharding.make_mesh(), []

  def learn(state, batch, key):
    traced.append(threading.current_thread())
    return State(state.step + 1), jnp.sum(batch.image) + jax.random.uniform(key)

  def two_steps(step):
    state = sharding.place(State(step=np.int32(0)), whole)
    totals = []
    for done in range(2):
      state, total = step(state, levels, key, done)
      totals.append(float(total))
    return totals

  whole, key = sharding.replicated(mesh), jax.random.key(0)
  levels = sharding.place(tiny.LEVELS, whole)
  early, late = (
    sharding.TrainStep(learn, tiny.sample, mesh, batch_size=16)
    for _ in range(2)
  )
  state = jax.eval_shape(lambda: State(step=jnp.zeros((), jnp.int32)))
  early.compile(state, levels, key)
  assert two_steps(early) == two_steps(late)
  here = threading.current_thread()
  assert len(traced) == 2 and traced[0] is not here and traced[1] is here


def test_a_teacher_is_asked_of_each_batch_on_the_device_that_drew_it():
  mesh, seen = sharding.make_mesh(), []

  def teacher(level, image):
    jax.debug.inspect_array_sharding(image, callback=seen.append)
    return {"said": level * image}

  def step():
    return sharding.TrainStep(
      lambda state, batch, key, taught: (
        State(state.step + 1),
        (jnp.sum(batch.image), jnp.sum(taught["said"])),
      ),
      tiny.sample,
      mesh,
      batch_size=16,
      teacher=teacher,
    )

  whole = sharding.replicated(mesh)
  levels = sharding.place(tiny.LEVELS, whole)
  for level in (2.0, 3.0):
    state = sharding.place(State(step=np.int32(0)), whole)
    taught = sharding.place(np.float32(level), whole)
    _, (drawn, said) = step()(state, levels, jax.random.key(0), 0, taught)
    np.testing.assert_allclose(said, level * drawn, rtol=1e-5)
  # Compiled once for all stages.
  assert [s.shard_shape((16, 8, 32, 1)) for s in seen] == [(2, 8, 32, 1)]


def test_lines_are_those_of_the_step_that_is_named():
  mesh, whole = sharding.make_mesh(), sharding.replicated(sharding.make_mesh())
  step = sharding.TrainStep(
    lambda state, batch, key: (State(state.step + 1), jnp.sum(batch.image)),
    tiny.sample,
    mesh,
    batch_size=16,
  )
  levels, key = sharding.place(tiny.LEVELS, whole), jax.random.key(0)

  def drawn(done, at):
    state = sharding.place(State(step=np.int32(done)), whole)
    return float(step(state, levels, key, at)[1])

  assert drawn(5, at=5) == drawn(0, at=5) != drawn(0, at=0)


def test_noise_is_of_the_step_and_no_lines_key():
  mesh = sharding.make_mesh()
  step = sharding.TrainStep(
    lambda state, batch, key: (
      State(state.step + 1),
      jax.random.key_data(key),
    ),
    tiny.sample,
    mesh,
    batch_size=16,
  )
  key = jax.random.key(0)
  levels = sharding.place(tiny.LEVELS, sharding.replicated(mesh))
  state, noises = State(step=jnp.zeros((), jnp.int32)), []
  for _ in range(2):
    state, noise = step(state, levels, key, 0)
    noises.append(tuple(noise.tolist()))
  lines = {
    tuple(data.tolist())
    for done in range(2)
    for data in jax.random.key_data(sharding.line_keys(key, done, 16))
  }
  assert len({*noises} | lines) == 2 + 2 * 16


def test_the_teacher_is_kept_and_the_state_is_not():
  mesh = sharding.make_mesh()
  step = sharding.TrainStep(
    lambda state, batch, key, said: (State(state.step + 1), jnp.sum(said)),
    tiny.sample,
    mesh,
    batch_size=16,
    teacher=lambda variables, image: variables["w"] * jnp.ones(len(image)),
  )
  whole = sharding.replicated(mesh)
  levels = sharding.place(tiny.LEVELS, whole)
  teacher = sharding.place({"w": np.float32(3)}, whole)
  state = sharding.place(State(step=np.int32(0)), whole)
  _, said = step(state, levels, jax.random.key(0), 0, teacher)
  assert float(said) == 16 * 3 and not teacher["w"].is_deleted()
  assert state.step.is_deleted()


def test_lines_depend_on_their_place_and_step_only():
  key = jax.random.key(0)
  data = jax.random.key_data
  few = data(sharding.line_keys(key, jnp.array(5), 4))
  many = data(sharding.line_keys(key, jnp.array(5), 16))
  later = data(sharding.line_keys(key, jnp.array(6), 4))
  assert (few == many[:4]).all()
  assert (few != later).any(axis=-1).all()
  assert len(np.unique(many, axis=0)) == 16


def test_host_arrays_are_placed_as_asked():
  mesh = sharding.make_mesh()
  host = np.arange(16).reshape(8, 2)
  split = sharding.place(host, sharding.split_lines(mesh))
  assert {shard.data.shape for shard in split.addressable_shards} == {(1, 2)}
  np.testing.assert_array_equal(split, host)


@pytest.mark.parametrize(
  "size, devices, advice",
  [(30, 8, "try 24 or 32"), (3, 8, "try 8"), (0, 4, "try 4"), (-5, 4, "try 4")],
)
def test_batch_sizes_that_do_not_divide(size, devices, advice):
  with pytest.raises(ValueError, match=rf"batch_size={size} .*{advice}$"):
    sharding.check_batch_size(size, devices)
  sharding.check_batch_size(2 * devices, devices)
