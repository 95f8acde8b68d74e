"""Learned step size quantisation (Esser et al. 2020, LSQ), as MNN trains it.

Codes are symmetric, +-Q with Q = 2^(bits-1) - 1, rounded half away from zero;
the step is a parameter.
"""

import functools
import math

import jax
import jax.numpy as jnp

from jaxocr.compress import affine
from jaxocr.compress import binarise


def init_step(
  x: jax.Array, bits: int, *, per_channel: bool = False
) -> jax.Array:
  """First step size: max abs(x) / Q + 1e-6, MNN's choice.

  The paper starts at 2 mean abs(x) / sqrt(Q), which clips more.

  Args:
    x: Values [..., C] to be quantised.
    bits: 2 to 8.
    per_channel: One step for each entry of the last axis, or one for all.

  Returns:
    [C] or [], float32.

  Raises:
    ValueError: For bits out of range.
  """
  axes = tuple(range(x.ndim - per_channel))
  absmax = jnp.max(jnp.abs(x.astype(jnp.float32)), axis=axes)
  return absmax / _grid(bits).highest + 1e-6


def lsq_codes(
  x: jax.Array, step: jax.Array, *, bits: int
) -> tuple[jax.Array, jax.Array]:
  """Codes of values under a learned step.

  Args:
    x: Values [..., C].
    step: [] or [C].
    bits: 2 to 8.

  Returns:
    Codes, int32 of the shape of `x`, within +-Q; scale, float32 of the shape
    of `step`: the step rounded to float16, and at least 2^-24, in case
    training drives it through zero. `binarise.dequantise` of these is `lsq`.

  Raises:
    ValueError: For bits out of range.
  """
  scale = _scale(step)
  return affine.quantise(x, scale, 0, _grid(bits)), scale


def _grid(bits):
  return affine.Grid(bits=bits, symmetric=True, rounding="away")


def _scale(step):
  step = step.astype(jnp.float32)
  return binarise.storable_scale(jnp.maximum(step, binarise.FLOAT16_SMALLEST))


def lsq(x: jax.Array, step: jax.Array, *, bits: int) -> jax.Array:
  """Values on the grid of a step that is learned with them.

  With v = x / step, the gradient of x passes where abs(v) < Q (Esser et al.
  2020, eq. 5) and that of the step is g times the sum over x of dL/dy s, where
  s = round(v) - v where abs(v) < Q, else +-Q (eq. 3). g = 1 / sqrt(N Q) with N
  the values that share a step (section 2.2); for activations, those of the
  whole batch. The step's rounding to float16 counts as the identity.

  Args:
    x: Values [..., C], float32 or bfloat16.
    step: [] or [C], positive; see `init_step`.
    bits: 2 to 8.

  Returns:
    Shape and dtype of `x`.

  Raises:
    ValueError: For bits out of range.
  """
  return _lsq(x, step, bits)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _lsq(x, step, bits):
  return affine.fake_quant(x, _scale(step), 0, _grid(bits))


def _lsq_forward(x, step, bits):
  return _lsq(x, step, bits), (x, step)


def _lsq_backward(bits, residuals, cotangent):
  x, step = residuals
  codes, scale = lsq_codes(x, step, bits=bits)
  steps = x.astype(jnp.float32) * (1 / binarise.along_channels(scale, x.ndim))
  limit = _grid(bits).highest
  inside = jnp.abs(steps) < limit
  slope = jnp.where(inside, codes - steps, codes)
  gain = 1 / math.sqrt(x.size / step.size * limit)
  step_gradient = gain * jnp.sum(
    cotangent.astype(jnp.float32) * slope,
    axis=tuple(range(x.ndim - step.ndim)),
  )
  return jnp.where(inside, cotangent, 0), step_gradient.astype(step.dtype)


_lsq.defvjp(_lsq_forward, _lsq_backward)
