"""One update of the parameters, as a pure function that knows no devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxocr.compress import rules as rules_lib
from jaxocr.compress import specs
from jaxocr.compress import transforms
from jaxocr.train import objective as objective_lib
from jaxocr.train import state as state_lib

Metrics = objective_lib.Metrics
TrainStep = Callable[..., tuple[state_lib.TrainState, Metrics]]
_TAPS = "taps"  # The collection in which modules leave features.


def make_train_step(
  model,
  tx: optax.GradientTransformation,
  objective: objective_lib.Objective,
  *,
  ema_decay: float,
  rules: rules_lib.Rules = rules_lib.ALL_FLOAT,
  hardness: optax.Schedule | None = None,
  sign_hardness: optax.Schedule | None = None,
) -> TrainStep:
  """Makes `train_step(state, batch, key, taught=None)`.

  `taught` is what a teacher says of the batch, for objectives that compare; it
  is neither optimised nor saved.

  It returns (state, metrics). Metrics are (sum, count): the objective's, the
  norm of the gradient before clipping, `finite`, 1 where both the loss and that
  norm are finite, and for parameters that `rules` make binary the share of
  signs that turned (`flip_ratio`) and of channels that no gradient reached
  (`starved_share`).

  Args:
    model: Flax module called with images and `train`.
    tx: Optimiser.
    objective: Of the logits and taps, see `train.objective`.
    ema_decay: In [0, 1); weight that the averages keep at each step, once
      enough steps are done (see `average`). 0 makes them follow the parameters.
    rules: How the network sees the latent parameters, `compress.rules.fake`.
    hardness: Updates done -> scalar in [0, 1], how far the parameters are on
      their way to the form that `rules` give them; None: there.
    sign_hardness: The same for the features' signs, for models that have any;
      None for models that take no hardness.
  """

  def loss_fn(params, state, batch, key, taught):
    hard = 1.0 if hardness is None else hardness(state.step)
    signs = () if sign_hardness is None else (sign_hardness(state.step),)
    logits, collections = model.apply(
      {"params": rules_lib.fake(params, rules, hard), **state.collections},
      batch.image,
      *signs,
      train=True,
      mutable=[*state.collections, _TAPS],
      rngs={"dropout": key},
    )
    outputs = objective_lib.outputs(logits, collections)
    loss, metrics = objective(outputs, batch, state.step, taught)
    kept = {name: collections[name] for name in state.collections}
    return loss, (kept, metrics)

  def train_step(state, batch, key, taught=None):
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (collections, metrics)), grads = value_and_grad(
      state.params, state, batch, key, taught
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = ramp(ema_decay, state.step)
    metrics = {
      **metrics,
      **_health(loss, grads),
      **_latent_metrics(rules, state.params, params, grads),
    }
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


def _latent_metrics(rules, before, after, grads) -> Metrics:
  found = jax.tree.leaves(
    rules_lib.match(before, rules), is_leaf=lambda x: isinstance(x, specs.Spec)
  )

  def latent(tree):
    leaves = zip(found, jax.tree.leaves(tree), strict=True)
    return [x for spec, x in leaves if isinstance(spec, specs.Binary)]

  if not latent(after):
    return {}
  return {
    "flip_ratio": transforms.flip_ratio(latent(before), latent(after)),
    "starved_share": transforms.starved_share(latent(grads)),
  }


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
