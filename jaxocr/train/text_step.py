"""What a stage of a text experiment runs: a state to begin with, a step."""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr import native
from jaxocr.compress import transfer
from jaxocr.data import preprocess
from jaxocr.models import crnn
from jaxocr.train import objective
from jaxocr.train import optimiser
from jaxocr.train import sharding
from jaxocr.train import ship
from jaxocr.train import stages as stages_lib
from jaxocr.train import state as state_lib
from jaxocr.train import step as step_lib
from jaxocr.train import text_config

PyTree = Any


def make_step(
  config: text_config.TextConfig,
  stage: stages_lib.Stage,
  architecture: Mapping[str, Any],
  sample: Callable,
  mesh,
  *,
  teacher: Mapping[str, Any] | None = None,
  split_assets: bool | tuple[bool, ...] = False,
):
  """What a stage needs: (begin, step).

  `begin(weights or None)` gives a state, new or with these weights, and the
  transfer report; `step` is that of a `sharding.TrainStep`.

  Args:
    config: Optimiser, batch, dtype and seed.
    stage: What is trained and how.
    architecture: Of the network.
    sample: As of `data.source`.
    mesh: Of all devices.
    teacher: Architecture of the teacher, where the stage has one.
    split_assets: As of `sharding.shard_sample`.
  """
  dtype = text_config.DTYPES[config.dtype]
  model = crnn.CRNN(**architecture, dtype=dtype)
  tx = optimiser.make_optimiser(
    stage.schedule(config.warmup_steps),
    weight_decay=config.weight_decay,
    clip_norm=config.clip_norm,
    latent=stage.latent,
  )
  learn = step_lib.make_train_step(
    model,
    tx,
    stage.objective(),
    ema_decay=config.ema_decay,
    rules=stage.rules,
    hardness=stage.hardness(stage.harden_weights),
    sign_hardness=stage.hardness(stage.harden_signs),
  )
  train_step = sharding.TrainStep(
    native.applied(learn, mesh.size),
    sample,
    mesh,
    batch_size=config.batch_size,
    teacher=teacher and make_teacher(tuple(teacher.items()), dtype),
    split_assets=split_assets,
  )

  def new():
    image = jnp.zeros((1, preprocess.HEIGHT_PX, config.width, 1))
    return state_lib.init_state(
      model, tx, jax.random.key(config.seed), image, rules=stage.rules
    )

  def of_state(state):
    return ship.variables(ship.Weights(state.params, state.collections))

  def begin(weights: ship.Weights | None):
    whole = sharding.replicated(mesh)
    if weights is None:
      return jax.jit(new, out_shardings=whole)(), []
    # Only shapes are asked for: compiling random weights takes long.
    shapes = jax.eval_shape(new)
    given = ship.variables(ship.with_steps(weights, stage.rules))
    variables, moved = transfer.transfer(
      given, of_state(shapes), fresh=dict(stage.fresh)
    )
    moved = transfer.derived(
      moved, ship.variables(weights), "a step, set from its kernel"
    )
    collections = _filled(variables, lambda: of_state(new()))
    params = collections.pop("params")
    state = state_lib.TrainState(
      step=np.zeros((), np.int32),
      params=params,
      collections=collections,
      opt_state=tx.init(params),
      ema_params=params,
      ema_collections=collections,
    )
    # Copies: a donated state may not hold one buffer twice.
    return sharding.place(jax.tree.map(np.array, state), whole), moved

  return begin, train_step


def _filled(tree: PyTree, new: Callable[[], PyTree]) -> PyTree:
  """`tree` with those leaves of new() of which it has but the shapes."""
  leaves, structure = jax.tree.flatten(tree)
  lacking = [
    i for i, x in enumerate(leaves) if isinstance(x, jax.ShapeDtypeStruct)
  ]
  if lacking:  # Nothing else is computed.
    made = jax.jit(lambda: [jax.tree.leaves(new())[i] for i in lacking])()
    for i, leaf in zip(lacking, made, strict=True):
      leaves[i] = leaf
  return jax.tree.unflatten(structure, leaves)


@functools.cache
def make_teacher(
  architecture: tuple[tuple[str, Any], ...], dtype
) -> sharding.Teacher:
  """What a network in eval mode says, with its taps; one for all stages."""
  model = crnn.CRNN(**dict(architecture), dtype=dtype)

  def teacher(variables, image):
    logits, collections = model.apply(
      variables, image, train=False, mutable=["taps"]
    )
    return objective.outputs(logits, collections)

  return teacher
