"""One-bit values with surrogate gradients, and what scaled codes share.

Every function is exact in the forward pass and keeps the dtype of its input.
sign(0) is +1 throughout: a bit has no zero. Gradients are `jax.custom_vjp`
rules rather than `x + stop_gradient(q - x)`, which is not exact in float32 for
scaled weights.

A quantised kernel is integer codes and a float32 scale per output channel (the
last axis); what training computes with is dequantised from the very codes that
are packed, so the two agree to the last bit. For that, codes and scales must
not depend on what XLA fuses: it adds in any order, contracts `a * b + c`, and
may drop conversions to float16 and back. `mean_magnitude` and `storable_scale`
are written around these.
"""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

FLOAT16_MAX = 65504.0
FLOAT16_SMALLEST_NORMAL = 2.0**-14
FLOAT16_SMALLEST = 2.0**-24


def hard_sign(x: jax.Array) -> jax.Array:
  """Returns +1 where x >= 0, else -1; same shape and dtype, no gradient."""
  return jnp.where(x >= 0, 1, -1).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def sign_ste(x: jax.Array, clip: float = 1.0) -> jax.Array:
  """Sign with the clipped straight-through gradient.

  dy/dx = 1 where abs(x) <= clip, else 0 (Hubara et al. 2016, eq. 4, has clip
  1; the bound is inclusive).

  Args:
    x: Any float array.
    clip: Static; how far from zero the gradient still passes.

  Returns:
    +1 or -1, shape and dtype of `x`.
  """
  del clip
  return hard_sign(x)


def _sign_ste_forward(x, clip):
  del clip
  return hard_sign(x), x


def _sign_ste_backward(clip, x, cotangent):
  return (jnp.where(jnp.abs(x) <= clip, cotangent, 0),)


sign_ste.defvjp(_sign_ste_forward, _sign_ste_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def swish_sign(x: jax.Array, beta: float = 5.0) -> jax.Array:
  """Sign with the gradient of SignSwish.

  dy/dx = beta (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x)) (Darabi et
  al. 2018, BNN+). It is slightly negative from abs(beta x) = 2.4 on.

  Args:
    x: Any float array.
    beta: Static; the larger, the narrower the slope.

  Returns:
    +1 or -1, shape and dtype of `x`.
  """
  del beta
  return hard_sign(x)


def _swish_sign_forward(x, beta):
  del beta
  return hard_sign(x), x


def _swish_sign_backward(beta, x, cotangent):
  # With e = exp(-abs(beta x)), 1 / (1 + cosh) is 2 e / (1 + e)^2, which cannot
  # overflow; from 128 on it is 0 in float32, and stays so for any x.
  wide = jnp.minimum(jnp.abs(beta * x.astype(jnp.float32)), 128)
  decay = jnp.exp(-wide)
  slope = (2 - wide * jnp.tanh(wide / 2)) * 2 * decay / (1 + decay) ** 2
  return ((beta * slope).astype(x.dtype) * cotangent,)


swish_sign.defvjp(_swish_sign_forward, _swish_sign_backward)


@jax.custom_vjp
def approx_sign(x: jax.Array, hardness: jax.Array | float = 1.0) -> jax.Array:
  """Sign with the gradient of a piecewise quadratic (ApproxSign).

  dy/dx = 2 - 2 abs(x) where abs(x) <= 1, else 0 (Liu et al. 2018, Bi-Real Net,
  eq. 7). The quadratic itself, F(x) = x (2 - abs(x)) within [-1, 1], is what
  the forward pass gives at hardness 0; between, it is mixed with the sign. A
  network that starts soft learns to align its frames before it loses its
  precision; the gradient is the same throughout.

  Args:
    x: Any float array.
    hardness: Scalar in [0, 1], or left out for the sign itself.

  Returns:
    Shape and dtype of `x`, within [-1, 1]; +1 or -1 at hardness 1.
  """
  return _approx_sign_forward(x, hardness)[0]


def _approx_sign_forward(x, hardness=1.0):
  hardness = jnp.asarray(hardness, x.dtype)
  inside = jnp.clip(x, -1, 1)
  soft = inside * (2 - jnp.abs(inside))
  # Written so that hardness 1 leaves exactly the sign.
  return hardness * hard_sign(x) + (1 - hardness) * soft, x


def _approx_sign_backward(x, cotangent):
  slope = jnp.maximum(2 - 2 * jnp.abs(x), 0).astype(x.dtype)
  return slope * cotangent, None


approx_sign.defvjp(_approx_sign_forward, _approx_sign_backward)


def storable_scale(x: jax.Array) -> jax.Array:
  """Rounds scales to what float16 holds.

  Two bytes a channel then store a scale exactly, and sums of +-scale are exact
  in float32 in any order: 11 significant bits leave 13 for the count.

  Args:
    x: Non-negative scales.

  Returns:
    float32 array of the same shape: the nearest float16 (half to even), at
    most 65504. Below 2^-25 that is 0. NaN stays NaN.
  """
  x = jnp.minimum(x.astype(jnp.float32), FLOAT16_MAX)
  # XLA may drop a conversion to float16 and back (its allow_excess_precision)
  # but not reduce_precision, which flushes float16's subnormals, multiples of
  # 2^-24, to zero.
  normal = lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10)
  subnormal = jnp.round(x / FLOAT16_SMALLEST) * FLOAT16_SMALLEST
  return jnp.where(x < FLOAT16_SMALLEST_NORMAL, subnormal, normal)


def mean_magnitude(
  kernel: jax.Array, keep: jax.Array | None = None
) -> jax.Array:
  """Mean of abs(w) per output channel, the same in whatever order XLA adds.

  Magnitudes are added as integers: multiples of 2^-b of the channel's largest
  (rounded up to a power of two), b = 30 - log2(n), about 17 for 3 x 3 x 512.

  Args:
    kernel: Weights [..., C_out].
    keep: Booleans of the same shape, which weights count; None is all.

  Returns:
    [C_out] float32; 0 where nothing is kept, not finite where a weight is not.
  """
  axes = tuple(range(kernel.ndim - 1))
  size = math.prod(kernel.shape[:-1])
  magnitude = jnp.abs(kernel.astype(jnp.float32))
  if keep is None:
    share = np.float32(1) / np.float32(size)
  else:
    magnitude = jnp.where(keep, magnitude, 0)
    kept = jnp.sum(keep, axis=axes, dtype=jnp.int32)
    share = 1 / jnp.maximum(kept, 1).astype(jnp.float32)
  largest = jnp.max(magnitude, axis=axes)
  # The bound keeps the powers of two below finite; 2^-30 is no scale anyway.
  exponent = jnp.maximum(jnp.frexp(largest)[1], -30)
  bits = 30 - size.bit_length()
  to_integer = jnp.ldexp(jnp.float32(1), bits - exponent)
  integers = jnp.round(magnitude * along_channels(to_integer, kernel.ndim))
  total = jnp.sum(integers.astype(jnp.int32), axis=axes).astype(jnp.float32)
  mean = total * share * jnp.ldexp(jnp.float32(1), exponent - bits)
  return jnp.where(jnp.isfinite(largest), mean, largest)


def along_channels(values: jax.Array, ndim: int) -> jax.Array:
  """Reshapes [] or [C] to `ndim` axes, so that it broadcasts over the last."""
  return values.reshape((1,) * (ndim - values.ndim) + values.shape)


def dequantise(
  codes: jax.Array, scale: jax.Array, dtype: jax.typing.DTypeLike
) -> jax.Array:
  """Returns codes * scale in `dtype`, for codes [..., C], scale [C] or []."""
  values = codes.astype(jnp.float32) * along_channels(scale, codes.ndim)
  return values.astype(dtype)


def binary_codes(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
  """One bit a weight, and its scale.

  Args:
    kernel: Latent weights [..., C_out].

  Returns:
    Codes, int8 of the same shape, +1 or -1; scale [C_out], float32 with values
    of float16. `dequantise` of both is `binarise_kernel(kernel)`.
  """
  codes = jnp.where(kernel >= 0, 1, -1).astype(jnp.int8)
  return codes, storable_scale(mean_magnitude(kernel))


@jax.custom_vjp
def binarise_kernel(kernel: jax.Array) -> jax.Array:
  """Scaled sign of a kernel: alpha * sign(w), alpha per output channel.

  alpha = mean abs(w) over all axes but the last (Rastegari et al. 2016,
  XNOR-Net, eq. 6), rounded to float16. The gradient is straight-through with
  alpha held constant, as the layer that follows normalises its scale: dL/dw =
  dL/dy where abs(w) <= 1, else 0.

  Args:
    kernel: Latent weights [..., C_out].

  Returns:
    Array of the same shape and dtype, two values per output channel.
  """
  return dequantise(*binary_codes(kernel), kernel.dtype)


def _binarise_kernel_forward(kernel):
  return binarise_kernel(kernel), kernel


def _binarise_kernel_backward(kernel, cotangent):
  return (jnp.where(jnp.abs(kernel) <= 1, cotangent, 0),)


binarise_kernel.defvjp(_binarise_kernel_forward, _binarise_kernel_backward)


@jax.custom_vjp
def binarise_kernel_through_scale(kernel: jax.Array) -> jax.Array:
  """`binarise_kernel` whose gradient takes alpha's into account.

  dL/dw = dL/dy (1 / n + alpha 1[abs(w) <= 1]), n weights a channel (Rastegari
  et al. 2016, section 3.1). As in the paper, a weight receives through alpha
  only what it adds to its own output, not to those of its channel's others.

  Args:
    kernel: Latent weights [..., C_out].

  Returns:
    Array of the same shape and dtype, two values per output channel.
  """
  return dequantise(*binary_codes(kernel), kernel.dtype)


def _through_scale_forward(kernel):
  codes, scale = binary_codes(kernel)
  return dequantise(codes, scale, kernel.dtype), (kernel, scale)


def _through_scale_backward(residuals, cotangent):
  kernel, scale = residuals
  scale = along_channels(scale, kernel.ndim)
  slope = jnp.where(jnp.abs(kernel) <= 1, scale, 0)
  slope += 1 / math.prod(kernel.shape[:-1])
  return (slope.astype(kernel.dtype) * cotangent,)


binarise_kernel_through_scale.defvjp(
  _through_scale_forward, _through_scale_backward
)
