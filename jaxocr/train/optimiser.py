"""The optimiser: one optax chain with a learning rule per parameter group."""

import re
from typing import Any

import jax
import optax

from jaxocr.compress import transforms

# First match wins. Only the signs of latent binary kernels matter: decay would
# pull them all to the flip point, and beyond +-1 no gradient reaches them.
GROUPS = (
  (r"(.*/)?binary_kernel", "latent"),
  (r"(.*/)?(\w+_)?kernel", "decay"),
  (r".*", "plain"),  # Norms, offsets, slopes and biases: no decay.
)


def make_schedule(
  *, learning_rate: float, warmup_steps: int, steps: int
) -> optax.Schedule:
  """Linear warm-up to `learning_rate`, then a cosine to zero at `steps`.

  The first of `warmup_steps` steps is taken at 1 / warmup_steps of the peak, so
  that no step is wasted.

  Raises:
    ValueError: The warm-up leaves no step for the rest.
  """
  if not 0 <= warmup_steps < steps:
    raise ValueError(
      f"warmup_steps={warmup_steps} must lie in [0, steps={steps}); try "
      f"{steps // 20}"
    )
  cosine = optax.cosine_decay_schedule(learning_rate, steps - warmup_steps)
  if not warmup_steps:
    return cosine
  first = learning_rate / warmup_steps
  rise = optax.linear_schedule(first, learning_rate, warmup_steps - 1)
  return optax.join_schedules([rise, cosine], [warmup_steps])


def make_optimiser(
  schedule: optax.Schedule, *, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
  """Global-norm clipping, then Adam by group.

  latent: Adam, values kept within +-1, no decay. decay: AdamW. plain: Adam.

  Args:
    schedule: Updates done -> learning rate.
    weight_decay: Of the `decay` group, times the learning rate (Loshchilov and
      Hutter 2019).
    clip_norm: Bound on the norm of all gradients together.
  """
  return optax.chain(
    optax.clip_by_global_norm(clip_norm),
    optax.partition(
      {
        "latent": optax.chain(
          optax.adam(schedule), transforms.clip_latent(1.0)
        ),
        "decay": optax.adamw(schedule, weight_decay=weight_decay),
        "plain": optax.adam(schedule),
      },
      group_of,
    ),
  )


def group_of(params: Any) -> Any:
  """The name of each parameter's group by its path, in the tree of `params`."""

  def name(path, _):
    path = jax.tree_util.keystr(path, simple=True, separator="/")
    return next(group for rule, group in GROUPS if re.fullmatch(rule, path))

  return jax.tree_util.tree_map_with_path(name, params)
