"""One update of the parameters, as a pure function that knows no devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxocr.compress import rules as rules_lib
from jaxocr.data import batch as batch_lib
from jaxocr.train import objective as objective_lib
from jaxocr.train import state as state_lib

Metrics = objective_lib.Metrics
Objective = Callable[[jax.Array, batch_lib.Batch], tuple[jax.Array, Metrics]]
TrainStep = Callable[
  [state_lib.TrainState, batch_lib.Batch, jax.Array],
  tuple[state_lib.TrainState, Metrics],
]


def make_train_step(
  model,
  tx: optax.GradientTransformation,
  objective: Objective,
  *,
  ema_decay: float,
  rules: rules_lib.Rules = rules_lib.ALL_FLOAT,
  hardness: optax.Schedule | None = None,
) -> TrainStep:
  """Makes `train_step(state, batch, key) -> (state, metrics)`.

  Metrics are (sum, count): the objective's, the norm of the gradient before
  clipping, and `finite`, 1 where both the loss and that norm are finite.

  Args:
    model: Flax module called with images and `train`.
    tx: Optimiser.
    objective: Logits [B, T, K] and batch to the mean loss and its metrics.
    ema_decay: In [0, 1); weight that the averages keep at each step, once
      enough steps are done (see `average`). 0 makes them follow the parameters.
    rules: How the network sees the latent parameters, `compress.rules.fake`.
    hardness: Updates done -> scalar in [0, 1], for models with one-bit parts:
      how hard their signs are by then. None for models that take none.
  """

  def loss_fn(params, state, batch, key):
    hard = () if hardness is None else (hardness(state.step),)
    logits, collections = model.apply(
      {"params": rules_lib.fake(params, rules, *hard), **state.collections},
      batch.image,
      *hard,
      train=True,
      mutable=list(state.collections),
      rngs={"dropout": key},
    )
    loss, metrics = objective(logits, batch)
    return loss, (dict(collections), metrics)

  def train_step(state, batch, key):
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (collections, metrics)), grads = value_and_grad(
      state.params, state, batch, key
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = ramp(ema_decay, state.step)
    metrics = {**metrics, **_health(loss, grads)}
    state = state.replace(
      step=state.step + 1,
      params=params,
      collections=collections,
      opt_state=opt_state,
      ema_params=average(state.ema_params, params, decay),
      ema_collections=average(state.ema_collections, collections, decay),
    )
    return state, metrics

  return train_step


def _health(loss, grads) -> Metrics:
  grad_norm = optax.tree.norm(grads)
  finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
  one = jnp.ones((), jnp.float32)
  return {
    "grad_norm": (grad_norm, one),
    "finite": (finite.astype(jnp.float32), one),
  }


def ramp(decay: float, step: jax.Array) -> jax.Array:
  """min(decay, (1 + t) / (10 + t)) at the update after `step` updates.

  So the initial values, which are of no use, are forgotten within tens of
  steps however long the final memory is.
  """
  done = step.astype(jnp.float32)
  return jnp.minimum(decay, (1 + done) / (10 + done))


def average(old: Any, new: Any, decay: jax.Array) -> Any:
  """decay * old + (1 - decay) * new, by leaf; integers are taken from `new`."""

  def blend(before, after):
    if not jnp.issubdtype(after.dtype, jnp.floating):
      return after
    return before + (1 - decay).astype(after.dtype) * (after - before)

  return jax.tree.map(blend, old, new)
