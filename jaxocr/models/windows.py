"""Convolutions and pooling of small images, as XLA's CPU backend is fast at."""

import functools
import itertools

import jax
from jax import lax
import jax.numpy as jnp

from jaxocr.models import layers


def convolve(
  x: jax.Array,
  kernel: jax.Array,
  *,
  strides: int = 1,
  padding: int = 0,
  pad_value: float = 0.0,
) -> jax.Array:
  """Dense convolution with equal padding on all sides.

  1x1 kernels and single input channels are one matrix product, for the reasons
  that `layers` gives. So are kernels larger than the image, of which XLA's CPU
  convolution is ten times slower: 3x3 over 2x2 of SqueezeNet's last modules.

  Args:
    x: Features [B, H, W, C_in].
    kernel: Weights [k, k, C_in, C_out].
    strides: Step in H and W.
    padding: Px on each side.
    pad_value: What lies there, see `layers.spatial_conv`.
  """
  size, _, entering, channels = kernel.shape
  if size == 1 and not padding:
    return layers.product(x[:, ::strides, ::strides], kernel[0, 0])
  if entering == 1 and not pad_value:
    patches = _patches(x[..., 0], size, strides, padding)
    # Patches lie along the first axis: to write them is to copy whole images.
    return jnp.einsum("pbhw,pc->bhwc", patches, kernel.reshape(-1, channels))
  if size == 3 and padding == 1 and min(x.shape[1:3]) >= size:
    return layers.spatial_conv(
      x, kernel, strides=(strides, strides), pad_value=pad_value
    )
  shifted = x - pad_value if pad_value else x
  if max(x.shape[1:3]) < size:
    windows = _windows(shifted, size, strides, padding)
    out = layers.product(windows, kernel.reshape(-1, channels))
  else:
    around = (padding, padding)
    out = lax.conv_general_dilated(
      shifted,
      kernel,
      (strides, strides),
      (around, around),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
  if not pad_value:
    return out
  return out + pad_value * jnp.sum(kernel, axis=(0, 1, 2))[None, None, None]


def _windows(x, size, strides, padding):
  """What the kernel sees at each place: [B, H', W', size * size * C]."""
  batch, _, _, channels = x.shape
  around = (padding, padding)
  padded = jnp.pad(x, ((0, 0), around, around, (0, 0)))
  starts = [range(0, n - size + 1, strides) for n in padded.shape[1:3]]
  seen = [
    padded[:, i : i + size, j : j + size].reshape(batch, -1)
    for i, j in itertools.product(*starts)
  ]
  return jnp.stack(seen, axis=1).reshape(
    batch, *map(len, starts), size * size * channels
  )


def _patches(image, size, strides, padding):
  """[B, H, W] to [size * size, B, H', W']."""
  around = (padding, padding)
  padded = jnp.pad(image, ((0, 0), around, around))
  height = padded.shape[1] - size + 1
  width = padded.shape[2] - size + 1
  windows = [
    padded[:, i : i + height : strides, j : j + width : strides]
    for i in range(size)
    for j in range(size)
  ]
  return jnp.stack(windows)


def max_pool(
  x: jax.Array, size: int, strides: int, *, padding: int = 0
) -> jax.Array:
  """Largest of each window; x [B, H, W, C].

  Comparisons of slices, of rows and then of columns, whose gradient is three to
  nine times faster on a CPU than that of `nn.max_pool`. Where several are the
  largest, they share it.
  """
  around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
  if padding:
    x = jnp.pad(x, around, constant_values=-jnp.inf)
  for axis in (1, 2):
    last = x.shape[axis] - size  # Where the last window may start.
    x = functools.reduce(
      jnp.maximum,
      (
        lax.slice_in_dim(x, i, i + last + 1, strides, axis) for i in range(size)
      ),
    )
  return x
