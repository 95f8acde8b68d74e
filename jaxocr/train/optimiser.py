"""The optimiser: one optax chain with a learning rule per parameter group."""

import dataclasses
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
  (r".*_step", "step"),  # Of LSQ, see `compress.specs`.
  (r".*", "plain"),  # Norms, offsets, slopes and biases: no decay.
)


@dataclasses.dataclass(frozen=True)
class ClippedAdam:
  """Latent weights by Adam, kept within +-1."""

  def transform(self, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.chain(optax.adam(schedule), transforms.clip_latent(1.0))


@dataclasses.dataclass(frozen=True)
class GatedAdam:
  """The same, without what would push a weight still further from its flip."""

  # Magnitude from which on gradients only pull inwards.
  limit: float

  def transform(self, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.chain(
      transforms.gate_gradient(self.limit), CLIPPED_ADAM.transform(schedule)
    )


@dataclasses.dataclass(frozen=True)
class Bop:
  """Truly binary weights, flipped by evidence; see `transforms.bop`.

  Whatever weights it starts from are their signs after the first update. The
  learning rate has no part in it.
  """

  gamma: float
  threshold: float

  def transform(self, schedule: optax.Schedule) -> optax.GradientTransformation:
    del schedule
    flips = transforms.bop(self.gamma, self.threshold)
    return optax.chain(flips, transforms.to_signs())


@dataclasses.dataclass(frozen=True)
class Bop2nd:
  """`Bop`, its evidence against the second moment; `transforms.bop2nd`."""

  gamma: float
  sigma: float
  threshold: float

  def transform(self, schedule: optax.Schedule) -> optax.GradientTransformation:
    del schedule
    flips = transforms.bop2nd(self.gamma, self.sigma, self.threshold)
    return optax.chain(flips, transforms.to_signs())


# How the group `latent` learns.
LatentRule = ClippedAdam | GatedAdam | Bop | Bop2nd
CLIPPED_ADAM = ClippedAdam()


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
  schedule: optax.Schedule,
  *,
  weight_decay: float,
  clip_norm: float,
  latent: LatentRule = CLIPPED_ADAM,
) -> optax.GradientTransformation:
  """Global-norm clipping, then a rule by group.

  latent: as `latent` has it, no decay. decay: AdamW. plain: Adam.
  step: Adam times the root mean square of the steps, so that the rate is a
  share of a step; they are a hundredth of the weights.

  Args:
    schedule: Updates done -> learning rate.
    weight_decay: Of the `decay` group, times the learning rate (Loshchilov and
      Hutter 2019).
    clip_norm: Bound on the norm of all gradients together.
    latent: How latent one-bit kernels learn.
  """
  return optax.chain(
    optax.clip_by_global_norm(clip_norm),
    optax.partition(
      {
        "latent": latent.transform(schedule),
        "decay": optax.adamw(schedule, weight_decay=weight_decay),
        "plain": optax.adam(schedule),
        "step": optax.chain(
          optax.scale_by_adam(),
          optax.scale_by_param_block_rms(min_scale=1e-6),
          optax.scale_by_learning_rate(schedule),
        ),
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
