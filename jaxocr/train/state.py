"""What training changes, and nothing else."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxocr.compress import rules as rules_lib

PyTree = Any


@flax.struct.dataclass
class TrainState:
  """All that a resumed run needs, beside its config."""

  step: jax.Array  # [] int32, updates done so far.
  params: PyTree  # Float32; latent where the network uses their signs.
  collections: PyTree  # Other Flax collections by name: BatchNorm moments.
  opt_state: optax.OptState
  ema_params: PyTree  # Averages that evaluation and the saved model use.
  ema_collections: PyTree


def init_state(
  model,
  tx: optax.GradientTransformation,
  key: jax.Array,
  image: jax.Array,
  *,
  rules: rules_lib.Rules = rules_lib.ALL_FLOAT,
) -> TrainState:
  """A new state; jit it to build the arrays where they will live.

  Args:
    model: Flax module called with images and `train`.
    tx: The optimiser whose state is held.
    key: Of the initial parameters.
    image: [B, H, W, 1] of any values; only its shape counts.
    rules: What the parameters will be; some learn a step besides.
  """
  variables = dict(model.init(key, image, train=False))
  params = rules_lib.with_steps(variables.pop("params"), rules)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    collections=variables,
    opt_state=tx.init(params),
    # Copies: a donated state may not hold one buffer twice.
    ema_params=jax.tree.map(jnp.copy, params),
    ema_collections=jax.tree.map(jnp.copy, variables),
  )


def count_parameters(params: PyTree) -> int:
  """Scalars in a tree of arrays."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
