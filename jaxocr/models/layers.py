"""Convolution lowerings and small layers shared by the backbones.

The lowerings were chosen by measurement on CPUs, where XLA's own choice can be
ten times slower in the backward pass: pointwise convolutions are matrix
products, depthwise ones are shifted multiply-adds (`lax.conv` off the CPU),
dense 3x3 stays with `lax.conv`. `benchmarks/train_step.py` shows what they buy.
"""

from collections.abc import Sequence
import functools
import itertools
import math

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

Strides = tuple[int, int]
NORM_EPSILON = 1e-5
TAPS = "taps"


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Matrix product over the last axis: x [..., C_in], kernel [C_in, C_out].

  The gradient of an einsum or of `nn.Dense` with respect to the kernel makes
  XLA's CPU backend copy the cotangent transposed and then use a slow product.
  Here it is one product of two tall matrices.
  """
  return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _product_forward(x, kernel):
  return product(x, kernel), (x, kernel)


def _product_backward(residuals, cotangent):
  x, kernel = residuals
  last = cotangent.ndim - 1
  dx = lax.dot_general(cotangent, kernel, (((last,), (1,)), ((), ())))
  rows = x.reshape(-1, x.shape[-1])
  cotangent = cotangent.reshape(-1, cotangent.shape[-1])
  return dx, lax.dot_general(rows, cotangent, (((0,), (0,)), ((), ())))


product.defvjp(_product_forward, _product_backward)


def dense_product(x, kernel, dimension_numbers, **unused) -> jax.Array:
  """`product` as the `dot_general` of an `nn.Dense`, whose axes are these."""
  del dimension_numbers, unused
  return product(x, kernel)


def _same_padding(kernel_size: int) -> tuple[int, int]:
  """Pixels to add before and after an axis; explicit, as ONNX states it."""
  before = (kernel_size - 1) // 2
  return before, kernel_size - 1 - before


def spatial_conv(
  x: jax.Array,
  kernel: jax.Array,
  *,
  strides: Strides = (1, 1),
  pad_value: float = 0.0,
) -> jax.Array:
  """Dense square convolution with constant padding.

  Padding with c is convolving x - c with zero padding and adding c times the
  kernel's sum: XLA's CPU convolution is three times slower on an input that
  was padded beforehand.

  Args:
    x: Features [B, H, W, C_in].
    kernel: Weights [k, k, C_in, C_out].
    strides: Step in H and W.
    pad_value: What lies outside the image: 0, or +1 for one-bit features,
      which have no zero.

  Returns:
    [B, ceil(H / strides[0]), ceil(W / strides[1]), C_out].
  """
  out = _conv(x - pad_value if pad_value else x, kernel, strides)
  if not pad_value:
    return out
  return out + pad_value * jnp.sum(kernel, axis=(0, 1, 2))[None, None, None]


def _lax_conv(x: jax.Array, kernel: jax.Array, strides: Strides) -> jax.Array:
  """Zero-padded convolution."""
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    (_same_padding(kernel.shape[0]),) * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: jax.Array, kernel: jax.Array, strides: Strides) -> jax.Array:
  """`_lax_conv` with a kernel gradient of its own, see `_kernel_gradient`."""
  return _lax_conv(x, kernel, strides)


def _conv_forward(x, kernel, strides):
  return _conv(x, kernel, strides), (x, kernel)


def _conv_backward(strides, residuals, cotangent):
  x, kernel = residuals
  _, pull = jax.vjp(lambda x: _lax_conv(x, kernel, strides), x)
  dkernel = lax.platform_dependent(
    x,
    kernel,
    cotangent,
    cpu=lambda x, k, c: _kernel_gradient(x, c, k.shape[0], strides),
    default=lambda x, k, c: _lax_kernel_gradient(x, k, c, strides),
  )
  return (*pull(cotangent), dkernel)


def _kernel_gradient(x, cotangent, size, strides):
  """One product for each of the kernel's places, [k, k, C_in, C_out].

  XLA's CPU backend takes this gradient as a convolution whose kernel is as
  large as the image, in one thread and at half the speed of a product.
  """
  channels = cotangent.shape[-1]
  rows = cotangent.reshape(-1, channels)
  taps = [
    lax.dot_general(
      tap.reshape(-1, x.shape[-1]), rows, (((0,), (0,)), ((), ()))
    )
    for tap in _shifted(x, size, strides)
  ]
  return jnp.stack(taps).reshape(size, size, -1, channels)


def _lax_kernel_gradient(x, kernel, cotangent, strides):
  _, pull = jax.vjp(lambda k: _lax_conv(x, k, strides), kernel)
  return pull(cotangent)[0]


_conv.defvjp(_conv_forward, _conv_backward)


def _shifted(x, size, strides):
  """What each of the size x size places of a kernel sees, in their order.

  Args:
    x: [B, H, W, C].
    size: k.
    strides: Step in H and W.

  Returns:
    k * k slices [B, ceil(H / strides[0]), ceil(W / strides[1]), C].
  """
  around = _same_padding(size)
  padded = jnp.pad(x, ((0, 0), around, around, (0, 0)))
  height = (padded.shape[1] - size) // strides[0] + 1
  width = (padded.shape[2] - size) // strides[1] + 1
  return [
    padded[
      :,
      i : i + (height - 1) * strides[0] + 1 : strides[0],
      j : j + (width - 1) * strides[1] + 1 : strides[1],
    ]
    for i in range(size)
    for j in range(size)
  ]


def stem_conv(
  image: jax.Array, kernel: jax.Array, *, strides: Strides = (2, 2)
) -> jax.Array:
  """First convolution, zero-padded, as one matrix product over patches.

  With a single input channel the weight gradient of `lax.conv` is as slow as
  all that follows it; the patches are small and need no gradient.

  Args:
    image: [B, H, W, 1], H and W divisible by `strides`.
    kernel: Weights [k, k, 1, C_out].
    strides: Step in H and W.

  Returns:
    [B, H / strides[0], W / strides[1], C_out].
  """
  size, _, _, channels = kernel.shape
  around = _same_padding(size)
  _, height, width, _ = image.shape
  padded = jnp.pad(image[..., 0], ((0, 0), around, around))
  patches = jnp.stack(
    [
      padded[:, i : i + height : strides[0], j : j + width : strides[1]]
      for i in range(size)
      for j in range(size)
    ],
    axis=-1,
  )
  return product(patches, kernel.reshape(-1, channels))


def pointwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """1x1 convolution: x [B, H, W, C_in], kernel [C_in, C_out]."""
  return product(x, kernel)


def depthwise_conv(
  x: jax.Array, kernel: jax.Array, *, strides: Strides = (1, 1)
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
    _shifted(x, kernel.shape[0], strides), taps, strict=True
  ):
    total += seen * tap[None, None, None]
  return total


def _depthwise_forward(x, kernel, strides):
  return _depthwise_shifted(x, kernel, strides), (x, kernel)


def _depthwise_backward(strides, residuals, cotangent):
  x, kernel = residuals
  taps = [
    channel_sums(seen, heard)
    for seen, heard in _overlaps(x, cotangent, kernel.shape[0], strides)
  ]
  dx = _depthwise_features_gradient(kernel, cotangent, strides, x.shape)
  return dx, jnp.stack(taps).astype(kernel.dtype).reshape(kernel.shape)


def channel_sums(x: jax.Array, y: jax.Array) -> jax.Array:
  """Sums of x * y over all axes but the last, in float32.

  XLA's CPU backend stores what enters a reduction and then reads it slowly.
  Rows added by name become one loop without an intermediate result, and a
  product with ones adds up what is left: four times as fast.

  Args:
    x: [B, H, W, C].
    y: Of the same shape.

  Returns:
    [C].
  """

  def by_rows(x, y):
    batch, height, width, channels = x.shape
    rows = jnp.zeros((batch, width, channels), jnp.float32)
    for i in range(height):
      rows += x[:, i] * y[:, i]
    rows = rows.reshape(-1, channels)
    return lax.dot_general(
      jnp.ones(rows.shape[0]), rows, (((0,), (0,)), ((), ()))
    )

  return lax.platform_dependent(
    x.astype(jnp.float32),
    y.astype(jnp.float32),
    cpu=by_rows,
    default=lambda x, y: jnp.sum(x * y, axis=(0, 1, 2)),
  )


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
      shift = at - _same_padding(size)[0]  # Pixels to the right or below.
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
  (rows, columns), (before, after) = strides, _same_padding(size)
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
    (_same_padding(kernel.shape[0]),) * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=kernel.shape[-1],
  )


def average_pool(x: jax.Array, strides: Strides) -> jax.Array:
  """Means over non-overlapping windows; x [B, H, W, C], sizes must divide."""
  batch, height, width, channels = x.shape
  rows, columns = strides
  if (height % rows, width % columns) != (0, 0):
    raise ValueError(
      f"features of {height}x{width} do not divide by windows of "
      f"{rows}x{columns}; use image heights of 32 and widths divisible by 4"
    )
  shape = (batch, height // rows, rows, width // columns, columns, channels)
  return jnp.mean(x.reshape(shape), axis=(2, 4))


class Kernel(nn.Module):
  """A bare weight, so that its path in the tree names the layer it serves."""

  shape: Sequence[int]
  fan_in: int
  dtype: jnp.dtype = jnp.float32
  name_in_tree: str = "kernel"

  @nn.compact
  def __call__(self) -> jax.Array:
    stddev = math.sqrt(2.0 / self.fan_in)
    init = nn.initializers.normal(stddev)
    return self.param(self.name_in_tree, init, self.shape).astype(self.dtype)


class Shift(nn.Module):
  """Learnt per-channel offset: RSign's threshold, RPReLU's shifts."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    offset = self.param("offset", nn.initializers.zeros, (x.shape[-1],))
    return x + jnp.broadcast_to(offset.astype(x.dtype), x.shape)


class RPReLU(nn.Module):
  """PReLU with learnt shifts before and after.

  ReActNet (Liu et al. 2020), eq. 4:

  y = z + out where z = x + in when positive, slope * (x + in) when negative;
  shapes [..., C], one triple of parameters per channel.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (x.shape[-1],)
    slope = self.param("slope", nn.initializers.constant(0.25), shape)
    shifted = Shift(name="before")(x)
    slope = jnp.broadcast_to(slope.astype(x.dtype), x.shape)
    bent = jnp.where(shifted > 0, shifted, slope * shifted)
    return Shift(name="after")(bent)


class BatchNorm(nn.BatchNorm):
  """Flax's, but in training with the sums and gradient that are fast here."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.use_running_average or self.is_initializing():
      return super().__call__(x)
    shape = (x.shape[-1],)
    scale = self.param("scale", nn.initializers.ones, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    y, *moments = _normalised(x.astype(jnp.float32), scale, bias, self.epsilon)
    for name, moment in zip(("mean", "var"), moments, strict=True):
      running = self.variable("batch_stats", name, jnp.zeros, shape)
      running.value = (
        self.momentum * running.value + (1 - self.momentum) * moment
      )
    return y.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalised(x, scale, bias, epsilon):
  """Batch normalisation of x [B, ..., C]: (y, mean, variance) in float32.

  No gradient goes through the moments that are returned.
  """
  return _normalised_forward(x, scale, bias, epsilon)[0]


def _normalised_forward(x, scale, bias, epsilon):
  features = _with_rows(x)
  count = x.size // x.shape[-1]
  mean = channel_sums(features, jnp.ones_like(features)) / count
  square = channel_sums(features, features) / count
  variance = jnp.maximum(0.0, square - jnp.square(mean))
  gain = scale * lax.rsqrt(variance + epsilon)
  along = (None,) * (x.ndim - 1)
  y = (x - mean[along]) * gain[along] + bias[along]
  return (y, mean, variance), (x, scale, mean, variance)


def _normalised_backward(epsilon, residuals, cotangents):
  """Ioffe and Szegedy 2015, section 3, with the sums of dscale and dbias."""
  x, scale, mean, variance = residuals
  cotangent, *_ = cotangents
  along = (None,) * (x.ndim - 1)
  count = x.size // x.shape[-1]
  slope = lax.rsqrt(variance + epsilon)
  centred = x - mean[along]
  heard = _with_rows(cotangent)
  dbias = channel_sums(heard, jnp.ones_like(heard))
  dscale = channel_sums(heard, _with_rows(centred)) * slope
  common = (dbias / count)[along] + centred * (dscale * slope / count)[along]
  return (cotangent - common) * (scale * slope)[along], dscale, dbias


_normalised.defvjp(_normalised_forward, _normalised_backward)


def _with_rows(x):
  """[B, C] or [B, T, C] as features [B, H, W, C]."""
  batch, *places, channels = x.shape
  return x.reshape(batch, *(1,) * (2 - len(places)), *places, channels)


def batch_norm(
  *, train: bool, dtype: jnp.dtype, name: str, folded: bool = False
) -> nn.Module:
  """BatchNorm as every model here uses it: float32 moments of all devices.

  Under `jax.jit` a sharded batch is one array, so the moments are global.

  Args:
    train: Whether to use the batch's moments.
    dtype: Of the result.
    name: `NAME_norm` where NAME is the layer whose kernel comes before: by
      these names `models.fold` finds the kernel that takes the gain.
    folded: Whether the kernel has it, so that only an offset is left.
  """
  if folded:
    return Shift(name=name)
  return BatchNorm(
    use_running_average=not train,
    momentum=0.95,
    epsilon=NORM_EPSILON,
    dtype=dtype,
    name=name,
  )


def tap(module: nn.Module, name: str, features: jax.Array) -> None:
  """Lets a caller see features: in the collection `taps`, where it is mutable.

  Distillation compares the taps of two networks; to all others they cost
  nothing.
  """
  if not module.is_initializing():
    module.sow(
      TAPS,
      f"{name}_tap",  # A submodule may be called `name`.
      features,
      reduce_fn=lambda _, x: x,
      init_fn=lambda: None,
    )
