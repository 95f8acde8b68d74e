"""Depthwise convolution: shifted multiply-adds on CPUs, or `lax.conv`."""

import functools
import itertools

import jax
from jax import lax
import jax.numpy as jnp

from jaxocr.models import layers


def depthwise_conv(
  x: jax.Array, kernel: jax.Array, *, strides: layers.Strides = (1, 1)
) -> jax.Array:
  """Depthwise convolution with zero padding.

  Args:
    x: Features [B, H, W, C].
    kernel: Weights [k, k, C].
    strides: Step in H and W.

  Returns:
    [B, ceil(H / strides[0]), ceil(W / strides[1]), C].
  """
  return lax.platform_dependent(
    x,
    kernel,
    cpu=lambda p, k: _depthwise_shifted(p, k, strides),
    default=lambda p, k: _depthwise_lax(p, k, strides),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_shifted(x, kernel, strides):
  """Sum of shifted features times a tap each; x [B, H, W, C], kernel [k, k, C].

  Its own gradient for x spares the CPU a division per pixel and tap, which the
  dilated cotangents of strided slices cost.
  """
  total = jnp.zeros((), x.dtype)
  taps = kernel.reshape(-1, kernel.shape[-1])
  for seen, tap in zip(
    layers.shifted(x, kernel.shape[0], strides), taps, strict=True
  ):
    total += seen * tap[None, None, None]
  return total


def _depthwise_forward(x, kernel, strides):
  return _depthwise_shifted(x, kernel, strides), (x, kernel)


def _depthwise_backward(strides, residuals, cotangent):
  x, kernel = residuals
  taps = [
    layers.channel_sums(seen, heard)
    for seen, heard in _overlaps(x, cotangent, kernel.shape[0], strides)
  ]
  dx = _depthwise_features_gradient(kernel, cotangent, strides, x.shape)
  return dx, jnp.stack(taps).astype(kernel.dtype).reshape(kernel.shape)


def _overlaps(x, cotangent, size, strides):
  """What each place of a kernel sees, and where, without any padding.

  Args:
    x: [B, H, W, C].
    cotangent: [B, ceil(H / strides[0]), ceil(W / strides[1]), C].
    size: k.
    strides: Step in H and W.

  Yields:
    k * k pairs of equal shapes: slices of x and of the cotangent.
  """
  for place in itertools.product(range(size), repeat=2):
    seen, heard = [slice(None)], [slice(None)]
    for axis, (at, stride) in enumerate(zip(place, strides, strict=True), 1):
      shift = at - layers.same_padding(size)[0]  # Pixels to the right or below.
      first = max(0, -(shift // stride))
      last = min(
        cotangent.shape[axis] - 1, (x.shape[axis] - 1 - shift) // stride
      )
      pixel = first * stride + shift
      seen.append(slice(pixel, last * stride + shift + 1, stride))
      heard.append(slice(first, last + 1))
    yield x[tuple(seen)], cotangent[tuple(heard)]


def _depthwise_features_gradient(kernel, cotangent, strides, shape):
  """Pixels at one place within a stride hear of the same taps: by places."""
  size = kernel.shape[0]
  (rows, columns), (before, after) = strides, layers.same_padding(size)
  batch, height, width, channels = shape
  # Of the padded features, in strides.
  high = -(-(height + before + after) // rows)
  wide = -(-(width + before + after) // columns)

  def place(row, column):
    total = jnp.zeros((batch, high, wide, channels), cotangent.dtype)
    for i in range(row, size, rows):
      for j in range(column, size, columns):
        down, right = i // rows, j // columns
        around = (
          (0, 0),
          (down, high - cotangent.shape[1] - down),
          (right, wide - cotangent.shape[2] - right),
          (0, 0),
        )
        total += jnp.pad(cotangent * kernel[None, None, None, i, j], around)
    return total

  places = jnp.stack(
    [
      jnp.stack([place(row, column) for column in range(columns)], axis=3)
      for row in range(rows)
    ],
    axis=2,
  )
  whole = places.reshape(batch, high * rows, wide * columns, channels)
  return whole[:, before : before + height, before : before + width]


_depthwise_shifted.defvjp(_depthwise_forward, _depthwise_backward)


def _depthwise_lax(x, kernel, strides):
  return lax.conv_general_dilated(
    x,
    kernel[:, :, None],
    strides,
    (layers.same_padding(kernel.shape[0]),) * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=kernel.shape[-1],
  )
