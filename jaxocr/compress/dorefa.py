"""DoReFa-Net: weights and activations of k bits (Zhou et al. 2016).

All roundings are half to even.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.compress import affine
from jaxocr.compress import binarise


def dorefa_codes(
  kernel: jax.Array, *, bits: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Codes of DoReFa weights.

  q = round(n (t / (2 max abs(t)) + 1/2)) with t = tanh(w) and n = 2^bits - 1,
  the maximum over the whole kernel; the weight is (2 q - n) / n (Zhou et al.
  2016, eq. 9), which is affine with scale 2 / n and zero point n / 2. The
  scale is rounded to float16, as all that are packed: up to 0.03 % off 2 / n,
  the same factor for every weight. There is no zero among the values.

  Args:
    kernel: Latent weights [..., C_out].
    bits: 2 to 8; for one bit the paper uses `binarise.binarise_kernel`.

  Returns:
    Codes, int32 of the same shape, 0 to n; scale [] and zero point [], both
    float32. `affine.dequantise` of these is `dorefa_kernel`.

  Raises:
    ValueError: For bits out of range.
  """
  if not 2 <= bits <= 8:
    raise ValueError(f"bits={bits}; must be 2 to 8, or use binarise for 1")
  levels = 2**bits - 1
  squashed, largest = _squash(kernel)
  # n (t / (2 max) + 1/2) is steps + levels // 2 + 1/2. The half is not added,
  # as XLA would contract sum and product under jit but not outside: rounding
  # to nearest with it is rounding up without it, but for ties at integers.
  steps = squashed * (levels / 2 / largest)
  below = jnp.floor(steps)
  upper = below.astype(jnp.int32) + levels // 2 + 1
  codes = jnp.where((steps == below) & (upper % 2 == 1), upper - 1, upper)
  scale = binarise.storable_scale(jnp.float32(2 / levels))
  return codes, scale, jnp.float32(levels / 2)


def _squash(kernel):
  """Returns tanh(w) and its largest magnitude, 1 for a kernel of zeros."""
  squashed = jnp.tanh(kernel.astype(jnp.float32))
  largest = jnp.max(jnp.abs(squashed))
  return squashed, jnp.where(largest == 0, 1, largest)


def dorefa_kernel(kernel: jax.Array, *, bits: int) -> jax.Array:
  """Kernel as its `dorefa_codes`.

  The gradient takes the rounding for the identity: it is that of
  tanh(w) / max abs(tanh(w)), through the maximum too.

  Args:
    kernel: Latent weights [..., C_out].
    bits: 2 to 8.

  Returns:
    Array of the same shape and dtype, within [-1, 1] but for the scale's
    rounding.

  Raises:
    ValueError: For bits out of range.
  """
  return _dorefa(kernel, bits)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _dorefa(kernel, bits):
  return affine.dequantise(*dorefa_codes(kernel, bits=bits), kernel.dtype)


def _dorefa_forward(kernel, bits):
  return _dorefa(kernel, bits), kernel


def _dorefa_backward(bits, kernel, cotangent):
  del bits

  def without_rounding(weights):
    squashed, largest = _squash(weights)
    return (squashed / largest).astype(weights.dtype)

  return jax.vjp(without_rounding, kernel)[1](cotangent)


_dorefa.defvjp(_dorefa_forward, _dorefa_backward)


def dorefa_activation(x: jax.Array, *, bits: int) -> jax.Array:
  """Activations on 2^bits - 1 steps from 0 to 1.

  y = round(n clip(x, 0, 1)) / n with n = 2^bits - 1 (Zhou et al. 2016, eq. 5
  and section 2.4); dy/dx = 1 where 0 <= x <= 1, else 0.

  Args:
    x: Any float array.
    bits: 1 to 8.

  Returns:
    Shape and dtype of `x`, within [0, 1].

  Raises:
    ValueError: For bits out of range.
  """
  if not 1 <= bits <= 8:
    raise ValueError(f"bits={bits}; must be 1 to 8")
  return _activation(x, bits)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _activation(x, bits):
  levels = np.float32(2**bits - 1)
  codes = jnp.round(jnp.clip(x.astype(jnp.float32), 0, 1) * levels)
  # Times the reciprocal: under jit XLA divides by constants that way.
  return (codes * (np.float32(1) / levels)).astype(x.dtype)


def _activation_forward(x, bits):
  return _activation(x, bits), x


def _activation_backward(bits, x, cotangent):
  del bits
  return (jnp.where((x >= 0) & (x <= 1), cotangent, 0),)


_activation.defvjp(_activation_forward, _activation_backward)
