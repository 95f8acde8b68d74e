"""Ternary kernels: minus, nothing or plus a scale per output channel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.compress import binarise


def ternary_codes(
  kernel: jax.Array, *, threshold: float | None = None
) -> tuple[jax.Array, jax.Array]:
  """Ternary weights and their scale.

  A weight is kept where abs(w) > threshold (Li & Liu 2016, Ternary Weight
  Networks, section 2; the bound itself is dropped, larq keeps it). The scale is
  the mean abs(w) of a channel's kept weights (there, of the layer's).

  Args:
    kernel: Latent weights [..., C_out].
    threshold: Fixed for every kernel, such as larq's 0.05; None for 0.7 times
      the mean abs(w) of the whole kernel (TWN).

  Returns:
    Codes, int8 of the same shape, -1, 0 or 1; scale [C_out], float32 with
    values of float16, 0 where a channel keeps no weight.

  Raises:
    ValueError: For a negative threshold.
  """
  if threshold is None:
    # The mean over channels of channel means; in two steps, as the sums of
    # `mean_magnitude` are the finer the fewer their terms.
    channel_means = binarise.mean_magnitude(kernel)
    bound = 0.7 * binarise.mean_magnitude(channel_means[:, None])[0]
  elif threshold < 0:
    raise ValueError(
      f"threshold={threshold}; must not be negative: 0.05, or None for 0.7 of "
      "the mean magnitude"
    )
  else:
    bound = np.float32(threshold)
  wide = kernel.astype(jnp.float32)
  keep = jnp.abs(wide) > bound
  codes = jnp.where(keep, jnp.sign(wide), 0).astype(jnp.int8)
  scale = binarise.storable_scale(binarise.mean_magnitude(kernel, keep))
  return codes, scale


def ternarise_kernel(
  kernel: jax.Array, *, threshold: float | None = None
) -> jax.Array:
  """Kernel as its `ternary_codes`, with a straight-through gradient.

  dL/dw = dL/dy where abs(w) <= 1, else 0, scale and threshold held constant;
  dropped weights learn too, and may come back.

  Args:
    kernel: Latent weights [..., C_out].
    threshold: As for `ternary_codes`, whose error this raises.

  Returns:
    Array of the same shape and dtype, three values per output channel.
  """
  return _ternarise(kernel, threshold)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _ternarise(kernel, threshold):
  codes, scale = ternary_codes(kernel, threshold=threshold)
  return binarise.dequantise(codes, scale, kernel.dtype)


def _ternarise_forward(kernel, threshold):
  return _ternarise(kernel, threshold), kernel


def _ternarise_backward(threshold, kernel, cotangent):
  del threshold
  return (jnp.where(jnp.abs(kernel) <= 1, cotangent, 0),)


_ternarise.defvjp(_ternarise_forward, _ternarise_backward)
