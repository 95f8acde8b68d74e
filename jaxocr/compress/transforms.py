"""optax transforms for latent (one-bit in the forward pass) weights."""

import jax
import jax.numpy as jnp
import optax


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
  if limit <= 0:
    raise ValueError(f"limit={limit}; must be positive")

  def update(updates, state, params=None):
    if params is None:
      raise ValueError("clip_latent needs params: tx.update(g, state, params)")
    clipped = jax.tree.map(
      lambda u, p: jnp.clip(p + u, -limit, limit) - p, updates, params
    )
    return clipped, state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
