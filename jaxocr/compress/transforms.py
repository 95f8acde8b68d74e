"""optax transforms for latent and for truly binary weights, and their pulse.

Latent weights are full precision behind a sign (`gate_gradient` first in a
chain, `clip_latent` last). `bop` and `bop2nd` have none: the parameters are the
+-1 weights, and an update is a flip. `flip_ratio` and `starved_share` tell
whether either still learns.

All take trees in which leaves may be absent (None, `optax.MaskedNode`), as
`optax.partition` makes them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxocr.compress import binarise

PyTree = Any
Pair = tuple[jax.Array, jax.Array]  # (sum, count), [] float32 each.


def clip_latent(limit: float = 1.0) -> optax.GradientTransformation:
  """Keeps updated parameters within [-limit, limit].

  Goes last in a chain. A latent weight far from zero has no gradient through
  the straight-through estimator and would never flip again (Courbariaux et
  al. 2015, BinaryConnect, algorithm 1).

  Args:
    limit: Largest magnitude.

  Returns:
    A stateless transform whose `update` needs `params`.

  Raises:
    ValueError: For a limit that is not positive; from `update`, when called
      without params.
  """
  _check_positive("limit", limit)

  def update(updates, state, params=None):
    _check_params("clip_latent", params)
    clipped = jax.tree.map(
      lambda u, p: jnp.clip(p + u, -limit, limit) - p, updates, params
    )
    return clipped, state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def gate_gradient(limit: float = 1.0) -> optax.GradientTransformation:
  """Drops gradients that would push a far weight further out.

  g becomes 0 where (w > limit and g < 0) or (w < -limit and g > 0), as descent
  moves w against g; elsewhere, and at exactly +-limit, it stays. The clipped
  straight-through estimator drops both directions out there, and a weight that
  has passed the limit never returns; here it still comes back. Goes first in a
  chain, before momentum, and needs a sign whose own gradient is not clipped.

  Args:
    limit: Largest magnitude that may still grow.

  Returns:
    A stateless transform whose `update` needs `params`.

  Raises:
    ValueError: For a limit that is not positive; from `update`, when called
      without params.
  """
  _check_positive("limit", limit)

  def update(updates, state, params=None):
    _check_params("gate_gradient", params)

    def gate(g, p):
      outward = ((p > limit) & (g < 0)) | ((p < -limit) & (g > 0))
      return jnp.where(outward, jnp.zeros_like(g), g)

    return jax.tree.map(gate, updates, params), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def to_signs() -> optax.GradientTransformation:
  """Puts updated parameters onto their signs; 0 goes to +1.

  Goes after `bop` where weights start as latent ones: after one update they are
  +-1 (to the last bit after two) and stay so.

  Returns:
    A stateless transform whose `update` needs `params`.

  Raises:
    ValueError: From `update`, when called without params.
  """

  def update(updates, state, params=None):
    _check_params("to_signs", params)
    moved = jax.tree.map(
      lambda u, p: binarise.hard_sign(p + u) - p, updates, params
    )
    return moved, state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class BopState(NamedTuple):
  """What `bop` remembers."""

  count: jax.Array  # [] int32, updates done.
  momentum: PyTree  # Float32 whatever the weights: gamma is tiny.


def bop(
  gamma: optax.ScalarOrSchedule = 1e-4,
  threshold: optax.ScalarOrSchedule = 1e-8,
) -> optax.GradientTransformation:
  """Binary optimiser: flips weights on consistent evidence, keeps no latents.

  m <- m + gamma (g - m), m_0 = 0; then w <- -w where m w > threshold
  (Helwegen et al. 2019, algorithm 1: abs(m) > threshold and sign(m) = sign(w),
  the same for w = +-1).

  The update is -2 w or 0, so it goes last and nothing may scale it.

  Args:
    gamma: Adaptivity rate in (0, 1], or a schedule of it by updates done.
    threshold: Least evidence, 0 or more, or a schedule of it.

  Returns:
    A transform whose `update` needs `params`, the weights, each +1 or -1.

  Raises:
    ValueError: For a number out of its range; from `update`, when called
      without params.
  """
  _check_rate("gamma", gamma)
  _check_threshold(threshold)

  def init(params):
    return BopState(jnp.zeros((), jnp.int32), _zeros(params))

  def update(updates, state, params=None):
    _check_params("bop", params)
    momentum = _average(state.momentum, updates, _at(gamma, state.count))
    flips = _flips(momentum, params, _at(threshold, state.count))
    count = optax.safe_increment(state.count)
    return flips, BopState(count, momentum)

  return optax.GradientTransformation(init, update)


class Bop2ndState(NamedTuple):
  """What `bop2nd` remembers."""

  count: jax.Array  # [] int32, updates done.
  momentum: PyTree  # Float32, moving average of the gradient.
  variance: PyTree  # Float32, moving average of its square.


def bop2nd(
  gamma: optax.ScalarOrSchedule,
  sigma: optax.ScalarOrSchedule,
  threshold: optax.ScalarOrSchedule,
  *,
  epsilon: float = 1e-10,
) -> optax.GradientTransformation:
  """Bop with its evidence measured against the gradient's second moment.

  m <- m + gamma (g - m), v <- v + sigma (g^2 - v), both from 0; then w <- -w
  where w m / (sqrt(v) + epsilon) > threshold (Suarez-Ramirez et al. 2021,
  Bop2ndOrder, biased: the averages are not corrected for their start).

  Args:
    gamma: Rate of m in (0, 1], or a schedule of it by updates done.
    sigma: Rate of v in (0, 1], or a schedule of it.
    threshold: Least evidence, 0 or more, free of the gradient's scale, or a
      schedule of it.
    epsilon: Keeps weights without a gradient where they are.

  Returns:
    A transform like `bop`.

  Raises:
    ValueError: As `bop`.
  """
  _check_rate("gamma", gamma)
  _check_rate("sigma", sigma)
  _check_threshold(threshold)
  _check_positive("epsilon", epsilon)

  def init(params):
    count = jnp.zeros((), jnp.int32)
    return Bop2ndState(count, _zeros(params), _zeros(params))

  def update(updates, state, params=None):
    _check_params("bop2nd", params)
    squares = jax.tree.map(lambda g: jnp.square(_wide(g)), updates)
    momentum = _average(state.momentum, updates, _at(gamma, state.count))
    variance = _average(state.variance, squares, _at(sigma, state.count))
    evidence = jax.tree.map(
      lambda m, v: m / (jnp.sqrt(v) + epsilon), momentum, variance
    )
    flips = _flips(evidence, params, _at(threshold, state.count))
    count = optax.safe_increment(state.count)
    return flips, Bop2ndState(count, momentum, variance)

  return optax.GradientTransformation(init, update)


def flip_ratio(old_params: PyTree, new_params: PyTree) -> Pair:
  """Share of the signs that an update changed; (changed, weights).

  Args:
    old_params: Kernels of any shape, latent or +-1; 0 counts as +1.
    new_params: The same tree after the update.
  """
  changed = jax.tree.map(
    lambda old, new: jnp.sum((old >= 0) != (new >= 0)), old_params, new_params
  )
  return _sum(changed), _sum(jax.tree.map(jnp.size, old_params))


def starved_share(gradients: PyTree) -> Pair:
  """Share of output channels that no gradient reaches; (starved, channels).

  A channel is starved when the gradient of each of its weights is exactly 0:
  all of them lie beyond the bound of a clipped straight-through estimator
  (weights that nothing keeps within it; larq warns of these), or nothing that
  follows depends on what the channel gives. One step's figure; a share that
  stays above 0 says that part of the network is trained no more.

  Args:
    gradients: Of kernels [..., C_out], before any optimiser.
  """

  def starved(gradient):
    others = tuple(range(gradient.ndim - 1))
    return jnp.sum(jnp.all(gradient == 0, axis=others))

  channels = jax.tree.map(lambda gradient: gradient.shape[-1], gradients)
  return _sum(jax.tree.map(starved, gradients)), _sum(channels)


def _zeros(params):
  return jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)


def _average(before, values, rate):
  return jax.tree.map(lambda m, x: m + rate * (_wide(x) - m), before, values)


def _flips(evidence, params, threshold):
  """-2 w where evidence and weight agree in sign: descent is away from w."""
  return jax.tree.map(
    lambda e, w: jnp.where(e * _wide(w) > threshold, -2 * w, jnp.zeros_like(w)),
    evidence,
    params,
  )


def _wide(x):
  return x.astype(jnp.float32)


def _at(value, count):
  return value(count) if callable(value) else value


def _sum(tree) -> jax.Array:
  return jnp.asarray(sum(jax.tree.leaves(tree)), jnp.float32)


def _check_positive(name, value):
  if value <= 0:
    raise ValueError(f"{name}={value}; must be positive")


def _check_rate(name, value):
  if not callable(value) and not 0 < value <= 1:
    raise ValueError(f"{name}={value}; must lie in (0, 1]; try 1e-4")


def _check_threshold(value):
  if not callable(value) and value < 0:
    raise ValueError(f"threshold={value}; must be 0 or more; try 1e-8")


def _check_params(name, params):
  if params is None:
    raise ValueError(f"{name} needs params: tx.update(g, state, params)")
