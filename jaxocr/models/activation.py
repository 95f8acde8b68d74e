"""Fake-quantised activations whose range is learnt by looking."""

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from jaxocr.compress import affine
from jaxocr.models import levels

RANGES = "ranges"


class QuantisedActivation(nn.Module):
  """Features on a grid of `bits` bits over the range that they have had.

  Maps [...] to [...]. The range lies in the collection `ranges`, as `low`,
  `high` (float32) and `count`, the batches seen. In training each batch moves
  it, up to `freeze_after` batches; from then on, and in evaluation, it stays
  (Jacob et al. 2018, section 3.1). Before the first batch features pass as they
  are. The gradient passes where a value lies in the range.

  Attributes:
    bits: Width of a code, 2 to 8; unsigned, after ReLU with a zero point of 0.
    decay: Weight of the old range against a batch's.
    percentile: Share of a batch, in percent, that its range spans, or None for
      all of it: outliers then widen the grid.
    freeze_after: Batches after which the range stays.
  """

  bits: int = 8
  decay: float = 0.99
  percentile: float | None = None
  freeze_after: int = 1000

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    zero = lambda: jnp.zeros((), jnp.float32)  # noqa: E731
    low = self.variable(RANGES, "low", zero)
    high = self.variable(RANGES, "high", zero)
    count = self.variable(RANGES, "count", lambda: jnp.zeros((), jnp.int32))
    if train and not self.is_initializing():
      first, thawed = count.value == 0, count.value < self.freeze_after
      bounds = self._bounds(lax.stop_gradient(x).astype(jnp.float32))
      for kept, seen in zip((low, high), bounds, strict=True):
        moved = self.decay * kept.value + (1 - self.decay) * seen
        moved = jnp.where(first, seen, moved)
        kept.value = jnp.where(thawed, moved, kept.value)
      count.value = count.value + thawed.astype(jnp.int32)
    grid = affine.Grid(bits=self.bits, symmetric=False)
    scale, zero_point = affine.min_max_scale(low.value, high.value, grid)
    rounded = affine.fake_quant(x, scale, zero_point, grid)
    return levels.mark(jnp.where(count.value > 0, rounded, x), self.bits)

  def _bounds(self, x):
    if self.percentile is None:
      return jnp.min(x), jnp.max(x)
    outside = (100 - self.percentile) / 2
    return jnp.percentile(x, outside), jnp.percentile(x, 100 - outside)


def quantised(
  x: jax.Array, *, bits: int | None, freeze_after: int, train: bool, name: str
) -> jax.Array:
  """`x` through a `QuantisedActivation` of that name, or as it is (None)."""
  if bits is None:
    return x
  layer = QuantisedActivation(bits, freeze_after=freeze_after, name=name)
  return layer(x, train=train)
