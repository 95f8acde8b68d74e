"""Depthwise convolution: shifted multiply-adds on CPUs, or `lax.conv`."""

import functools
import itertools

import jax
from jax import lax
import jax.numpy as jnp

from jaxocr import native
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
  if native.active(x, kernel):
    return native.depthwise(x, kernel, strides)
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
  """Both gradients from one padded cotangent, which is stored but once.

  What comes before a padding XLA computes once; otherwise each tap would go
  through all that the cotangent is made of anew.
  """
  x, kernel = residuals
  taps = list(_taps(kernel.shape[0], strides, cotangent))
  dkernel = []
  for place, heard in taps:
    seen = _pixels(x, place, strides)
    heard = heard[:, : seen.shape[1], : seen.shape[2]]
    dkernel.append(layers.channel_sums(seen, heard))
  places = itertools.product(*map(range, strides))
  totals = dict.fromkeys(places, jnp.zeros_like(cotangent))
  weights = kernel.reshape(-1, kernel.shape[-1])
  for (place, heard), weight in zip(taps, weights, strict=True):
    totals[place] += heard * weight[None, None, None]
  dx = _interleave(totals, strides)[:, : x.shape[1], : x.shape[2]]
  return dx, jnp.stack(dkernel).astype(kernel.dtype).reshape(kernel.shape)


def _taps(size, strides, cotangent):
  """For each tap, which pixels hear of it and what they hear.

  Args:
    size: k.
    strides: Step in H and W.
    cotangent: [B, H', W', C].

  Yields:
    k * k times the place (row, column) within a stride of the pixels, and the
    cotangent of these pixels, [B, H', W', C]: 0 where nothing saw them.
  """
  before, _ = layers.same_padding(size)

  def along(stride):  # (place, how many strides on the cotangent lies).
    return [
      ((tap - before) % stride, -((tap - before) // stride))
      for tap in range(size)
    ]

  down, right = map(along, strides)
  reach = size // 2
  padded = jnp.pad(cotangent, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
  _, high, wide, _ = cotangent.shape
  for (row, below), (column, beside) in itertools.product(down, right):
    top, left = reach + below, reach + beside
    yield (row, column), padded[:, top : top + high, left : left + wide]


def _pixels(x, place, strides):
  """Those at one place within each stride, of x [B, H, W, C]."""
  (row, column), (rows, columns) = place, strides
  return x[:, row::rows, column::columns]


def _interleave(totals, strides):
  """Undoes `_pixels`: place -> [B, H', W', C] becomes [B, r H', s W', C]."""
  rows, columns = strides
  whole = jnp.stack(
    [
      jnp.stack([totals[row, column] for column in range(columns)], axis=3)
      for row in range(rows)
    ],
    axis=2,
  )
  batch, high, _, wide, _, channels = whole.shape
  return whole.reshape(batch, high * rows, wide * columns, channels)


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
