"""Affine quantisation: value = (code - zero point) * scale, 2 to 8 bits.

The scale is float32 with values of float16 (`binarise.storable_scale`), the
zero point an integer; both are [] for a tensor or [C] for its last axis.
"""

import dataclasses
import functools
from typing import Literal

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxocr.compress import binarise


@dataclasses.dataclass(frozen=True)
class Grid:
  """Which codes there are, and how a value finds its own.

  Raises:
    ValueError: For a field out of its range.
  """

  # Width of a code, 2 to 8; one bit is `binarise`.
  bits: int = 8
  # True: codes -(2^(bits-1) - 1) to 2^(bits-1) - 1, zero point 0. The range is
  # narrow: -128 is left out, so that the codes mirror each other.
  # False: codes 0 to 2^bits - 1, the zero point anywhere among them.
  symmetric: bool = True
  # Where a value lies half-way between two codes: "even" takes the even one
  # (PyTorch, ONNX), "away" the one farther from zero (MNN, C's roundf).
  rounding: Literal["even", "away"] = "even"
  # "after": round(x / scale) + zero_point (PyTorch, ONNX).
  # "before": round(x / scale + zero_point), which differs at half-way values:
  # for "even" with odd zero points, for "away" below the zero point. Without
  # a zero point the two are one.
  zero_point_order: Literal["after", "before"] = "after"

  def __post_init__(self):
    if not 2 <= self.bits <= 8:
      raise ValueError(f"bits={self.bits}; must be 2 to 8")
    if self.rounding not in ("even", "away"):
      raise ValueError(f"rounding={self.rounding!r}; must be 'even' or 'away'")
    if self.zero_point_order not in ("after", "before"):
      raise ValueError(
        f"zero_point_order={self.zero_point_order!r}; must be 'after' or "
        "'before'"
      )

  @property
  def lowest(self) -> int:
    return -self.highest if self.symmetric else 0

  @property
  def highest(self) -> int:
    return 2 ** (self.bits - self.symmetric) - 1


def absmax_scale(absmax: jax.Array, grid: Grid) -> tuple[jax.Array, jax.Array]:
  """Scale of a symmetric grid for values within +-absmax.

  The scale is the smallest float16 that is at least absmax / highest, so that
  no value within the range saturates: absmax / 127 for 8 bits, where qwix
  divides by 127.5.

  Args:
    absmax: Largest magnitudes, any shape; 0 gives scale 1.
    grid: Symmetric.

  Returns:
    Scale, float32, and zero point, int32 zeros, both of the shape of `absmax`.

  Raises:
    ValueError: For a grid that is not symmetric.
  """
  if not grid.symmetric:
    raise ValueError(
      f"{grid} is not symmetric; give its range to min_max_scale"
    )
  absmax = jnp.asarray(absmax, jnp.float32)
  return _covering_scale(absmax, grid.highest), jnp.zeros_like(absmax, "int32")


def min_max_scale(
  low: jax.Array, high: jax.Array, grid: Grid
) -> tuple[jax.Array, jax.Array]:
  """Scale and zero point of an asymmetric grid for values in [low, high].

  The range is first widened to contain 0, which then has a code of its own.
  The scale is the smallest float16 that is at least (high - low) / highest,
  the zero point round(-low / scale), half to even.

  Args:
    low: Smallest values, any shape.
    high: Largest values, same shape; no wider than 0 gives scale 1.
    grid: Asymmetric.

  Returns:
    Scale, float32, and zero point, int32, both of the shape of `low`.

  Raises:
    ValueError: For a symmetric grid.
  """
  if grid.symmetric:
    raise ValueError(f"{grid} is symmetric; give its range to absmax_scale")
  low = jnp.minimum(jnp.asarray(low, jnp.float32), 0)
  high = jnp.maximum(jnp.asarray(high, jnp.float32), 0)
  scale = _covering_scale(high - low, grid.highest)
  zero_point = jnp.clip(jnp.round(-low * (1 / scale)), 0, grid.highest)
  return scale, zero_point.astype(jnp.int32)


def _covering_scale(extent, steps):
  """The smallest float16 with scale * steps >= extent; 1 for extent 0."""
  scale = binarise.storable_scale(extent * (np.float32(1) / np.float32(steps)))
  above = jnp.nextafter(scale.astype(jnp.float16), jnp.float16(jnp.inf))
  above = jnp.minimum(above.astype(jnp.float32), binarise.FLOAT16_MAX)
  # The product is exact: 11 bits times 8.
  scale = jnp.where(scale * steps < extent, above, scale)
  return jnp.where(extent == 0, 1, scale)


def quantise(
  x: jax.Array, scale: jax.Array, zero_point: jax.Array, grid: Grid
) -> jax.Array:
  """Codes of values, clamped to the grid.

  Args:
    x: Values [..., C].
    scale: [] or [C], positive.
    zero_point: Integers, [] or [C].
    grid: See `Grid`.

  Returns:
    int32 codes within grid.lowest and grid.highest, shape of `x`.
  """
  codes = _unclamped(x, scale, zero_point, grid)
  return jnp.clip(codes, grid.lowest, grid.highest).astype(jnp.int32)


def _unclamped(x, scale, zero_point, grid):
  """Codes as float32, before they are clamped."""
  # Times the reciprocal, as PyTorch does, and as XLA makes of some divisions.
  reciprocal = 1 / binarise.along_channels(
    jnp.asarray(scale, jnp.float32), x.ndim
  )
  zero_point = binarise.along_channels(
    jnp.asarray(zero_point, jnp.float32), x.ndim
  )
  steps = x.astype(jnp.float32) * reciprocal
  if grid.zero_point_order == "before":
    return _rounded_sum(steps, zero_point, grid.rounding)
  method = {
    "even": lax.RoundingMethod.TO_NEAREST_EVEN,
    "away": lax.RoundingMethod.AWAY_FROM_ZERO,
  }[grid.rounding]
  return lax.round(steps, method) + zero_point


def _rounded_sum(steps, zero_point, rounding):
  """round(steps + zero_point) as if the sum were exact.

  Added as they are, the product behind `steps` and the sum would be one
  operation under jit and two outside, and half-way values would differ.
  """
  below = jnp.floor(steps)
  middle = below + 0.5
  floor = below + zero_point
  if rounding == "even":
    tie_goes_up = jnp.floor(floor * 0.5) * 2 != floor
  else:
    tie_goes_up = floor >= 0
  up = (steps > middle) | ((steps == middle) & tie_goes_up)
  return jnp.where(up, floor + 1, floor)


def dequantise(
  codes: jax.Array,
  scale: jax.Array,
  zero_point: jax.Array,
  dtype: jax.typing.DTypeLike,
) -> jax.Array:
  """Returns (codes - zero_point) * scale, rounded once to `dtype`.

  Args:
    codes: Integers [..., C].
    scale: [] or [C].
    zero_point: [] or [C]; halves are allowed (see `dorefa`).
    dtype: Of the values.

  Returns:
    Array of the shape of `codes`.
  """
  zero_point = jnp.asarray(zero_point, jnp.float32)
  shifted = codes.astype(jnp.float32) - binarise.along_channels(
    zero_point, codes.ndim
  )
  return binarise.dequantise(shifted, jnp.asarray(scale, jnp.float32), dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def fake_quant(
  x: jax.Array, scale: jax.Array, zero_point: jax.Array, grid: Grid
) -> jax.Array:
  """Values as their codes represent them, with a straight-through gradient.

  dL/dx = dL/dy where the code lies on the grid before it is clamped, else 0,
  as `torch.fake_quantize_per_tensor_affine`. Scale and zero point get none.

  Args:
    x: Values [..., C], float32 or bfloat16.
    scale: [] or [C], positive.
    zero_point: Integers, [] or [C].
    grid: Static.

  Returns:
    `dequantise(quantise(x))`, shape and dtype of `x`; NaN where `x` is, which
    has no code and must not pass for a value.
  """
  codes = quantise(x, scale, zero_point, grid)
  values = dequantise(codes, scale, zero_point, x.dtype)
  return jnp.where(jnp.isnan(x), x, values)


def _fake_quant_forward(x, scale, zero_point, grid):
  codes = _unclamped(x, scale, zero_point, grid)
  passes = (codes >= grid.lowest) & (codes <= grid.highest)
  return fake_quant(x, scale, zero_point, grid), passes


def _fake_quant_backward(grid, passes, cotangent):
  del grid
  return jnp.where(passes, cotangent, 0), None, None


fake_quant.defvjp(_fake_quant_forward, _fake_quant_backward)


def kernel_codes(
  kernel: jax.Array, grid: Grid, *, per_channel: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Codes of a kernel on the grid that just covers it.

  Args:
    kernel: Latent weights [..., C_out].
    grid: See `Grid`.
    per_channel: One range for each output channel, or one for all.

  Returns:
    Codes, int32 of the same shape; scale, float32, and zero point, int32, both
    [C_out] or []. `dequantise` of these is `fake_quant_kernel`.
  """
  scale, zero_point = _kernel_range(kernel, grid, per_channel)
  return quantise(kernel, scale, zero_point, grid), scale, zero_point


def fake_quant_kernel(
  kernel: jax.Array, grid: Grid, *, per_channel: bool
) -> jax.Array:
  """Kernel as its `kernel_codes`, gradient as `fake_quant`.

  Args:
    kernel: Latent weights [..., C_out].
    grid: See `Grid`.
    per_channel: One range for each output channel, or one for all.

  Returns:
    Array of the same shape and dtype.
  """
  scale, zero_point = _kernel_range(
    lax.stop_gradient(kernel), grid, per_channel
  )
  return fake_quant(kernel, scale, zero_point, grid)


def _kernel_range(kernel, grid, per_channel):
  axes = tuple(range(kernel.ndim - per_channel))
  if grid.symmetric:
    return absmax_scale(jnp.max(jnp.abs(kernel), axis=axes), grid)
  return min_max_scale(
    jnp.min(kernel, axis=axes), jnp.max(kernel, axis=axes), grid
  )
