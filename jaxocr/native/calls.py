"""The C++ as functions of arrays that can be differentiated."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

Strides = tuple[int, int]
# What hidden units come in: floats of the widest vector that there is.
LANES = 16


def _call(name: str, out):
  """The foreign function, given the shapes of what it returns."""
  return jax.ffi.ffi_call(f"jaxocr_{name}", out)


def _steps(strides: Strides) -> dict[str, int]:
  return dict(rows=strides[0], columns=strides[1])


def _like(*arrays: jax.Array):
  found = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays)
  return found if len(found) > 1 else found[0]


def _reduced(x: jax.Array, strides: Strides, channels: int):
  """Features of a convolution: x's sizes over the strides, rounded up."""
  batch, height, width, _ = x.shape
  rows, columns = strides
  shape = (batch, -(-height // rows), -(-width // columns), channels)
  return jax.ShapeDtypeStruct(shape, x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(
  x: jax.Array, kernel: jax.Array, strides: Strides, pad_value: float
) -> jax.Array:
  """Square convolution, as `layers.spatial_conv`.

  Args:
    x: [B, H, W, C_in].
    kernel: [k, k, C_in, C_out].
    strides: Step in H and W.
    pad_value: What lies outside.

  Returns:
    [B, ceil(H / strides[0]), ceil(W / strides[1]), C_out].
  """
  chex.assert_rank([x, kernel], 4)
  size = kernel.shape[0]
  chex.assert_shape(kernel, (size, size, x.shape[-1], None))
  out = _reduced(x, strides, kernel.shape[-1])
  pad = np.float32(pad_value)
  return _call("conv", out)(x, kernel, **_steps(strides), pad=pad)


def _conv_forward(x, kernel, strides, pad_value):
  return conv(x, kernel, strides, pad_value), (x, kernel)


def _conv_backward(strides, pad_value, residuals, cotangent):
  x, kernel = residuals
  steps, pad = _steps(strides), np.float32(pad_value)
  dx = _call("conv_dx", _like(x))(kernel, cotangent, **steps)
  by_kernel = _call("conv_dkernel", _like(kernel))
  return dx, by_kernel(x, cotangent, **steps, pad=pad)


conv.defvjp(_conv_forward, _conv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: jax.Array, kernel: jax.Array, strides: Strides) -> jax.Array:
  """Depthwise convolution with zeros around, as `depthwise.depthwise_conv`.

  Args:
    x: [B, H, W, C].
    kernel: [k, k, C].
    strides: Step in H and W.

  Returns:
    [B, ceil(H / strides[0]), ceil(W / strides[1]), C].
  """
  chex.assert_rank([x, kernel], [4, 3])
  size = kernel.shape[0]
  chex.assert_shape(kernel, (size, size, x.shape[-1]))
  call = _call("depthwise", _reduced(x, strides, x.shape[-1]))
  return call(x, kernel, **_steps(strides))


def _depthwise_forward(x, kernel, strides):
  return depthwise(x, kernel, strides), (x, kernel)


def _depthwise_backward(strides, residuals, cotangent):
  call = _call("depthwise_gradient", _like(*residuals))
  return call(*residuals, cotangent, **_steps(strides))


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


@jax.custom_vjp
def lstm(projected: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
  """Recurrent part of a bidirectional LSTM, gates in the order i, f, g, o.

  Args:
    projected: [B, T, 2 * gates], what the inputs add to the gates of the
      forward and of the backward direction; gates = 4 * hidden.
    kernel: [2, hidden, gates]; `hidden` a multiple of `LANES`.
    bias: [2, gates].

  Returns:
    Hidden states [B, T, 2 * hidden].
  """
  return _lstm(projected, kernel, bias)[0]


def _lstm(projected, kernel, bias):
  batch, frames, gates = projected.shape
  chex.assert_is_divisible(gates // 8, LANES)
  chex.assert_shape(kernel, (2, gates // 8, gates // 2))
  chex.assert_shape(bias, (2, gates // 2))
  hidden = jax.ShapeDtypeStruct((batch, frames, gates // 4), projected.dtype)
  out = (hidden, _like(projected), hidden)
  return _call("lstm", out)(projected, kernel, bias)


def _lstm_forward(projected, kernel, bias):
  hidden, gates, cell = _lstm(projected, kernel, bias)
  return hidden, (kernel, hidden, gates, cell)


def _lstm_backward(residuals, cotangent):
  kernel, hidden, gates, cell = residuals
  call = _call("lstm_gradient", _like(gates, kernel))
  dsums, dkernel = call(kernel, hidden, gates, cell, cotangent)
  rows = dsums.reshape(-1, dsums.shape[-1])
  # A product with ones is the fastest sum over rows.
  dbias = jnp.ones((1, rows.shape[0])) @ rows
  return dsums, dkernel, dbias.reshape(2, -1)


lstm.defvjp(_lstm_forward, _lstm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def norm(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  epsilon: float,
  relu: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Batch normalisation (Ioffe and Szegedy 2015), with or without a ReLU.

  Args:
    x: [..., C].
    scale: [C].
    bias: [C].
    epsilon: Added to the variance.
    relu: Whether what is below 0 becomes 0.

  Returns:
    (y, mean [C], variance [C]); no gradient goes through the moments.
  """
  chex.assert_shape([scale, bias], (x.shape[-1],))
  call = _call("norm", _like(x, scale, scale))
  return call(x, scale, bias, epsilon=np.float32(epsilon), relu=relu)


def _norm_forward(x, scale, bias, epsilon, relu):
  y, *moments = norm(x, scale, bias, epsilon, relu)
  return (y, *moments), (x, scale, bias, *moments)


def _norm_backward(epsilon, relu, residuals, cotangents):
  x, scale, *_ = residuals
  call = _call("norm_gradient", (_like(x), _sums(2, scale)))
  rest = dict(epsilon=np.float32(epsilon), relu=relu)
  dx, (dbias, dscale) = call(*residuals, cotangents[0], **rest)
  return dx, dscale, dbias


def _sums(count: int, row: jax.Array):
  return jax.ShapeDtypeStruct((count, *row.shape), row.dtype)


norm.defvjp(_norm_forward, _norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def norm_rprelu(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  shortcut: jax.Array,
  before: jax.Array,
  slope: jax.Array,
  after: jax.Array,
  epsilon: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`rprelu` of `norm` plus a shortcut [..., C]: (y, mean, variance)."""
  chex.assert_shape([scale, bias, before, slope, after], (x.shape[-1],))
  chex.assert_equal_shape([x, shortcut])
  call = _call("norm_rprelu", _like(x, scale, scale))
  given = (x, scale, bias, shortcut, before, slope, after)
  return call(*given, epsilon=np.float32(epsilon))


def _norm_rprelu_forward(
  x, scale, bias, shortcut, before, slope, after, epsilon
):
  given = (x, scale, bias, shortcut, before, slope)
  y, *moments = norm_rprelu(*given, after, epsilon)
  return (y, *moments), (*given, *moments)


def _norm_rprelu_backward(epsilon, residuals, cotangents):
  x, scale, *_ = residuals
  call = _call("norm_rprelu_gradient", (*_like(x, x), _sums(4, scale)))
  dx, dshortcut, sums = call(
    *residuals, cotangents[0], epsilon=np.float32(epsilon)
  )
  dbias, dscale, dslope, dafter = sums
  return dx, dscale, dbias, dshortcut, dbias, dslope, dafter


norm_rprelu.defvjp(_norm_rprelu_forward, _norm_rprelu_backward)


@jax.custom_vjp
def rprelu(
  x: jax.Array, before: jax.Array, slope: jax.Array, after: jax.Array
) -> jax.Array:
  """PReLU of x [..., C] with shifts before and after it, each [C]."""
  chex.assert_shape([before, slope, after], (x.shape[-1],))
  call = _call("rprelu", _like(x))
  return call(x, before, slope, after)


def _rprelu_forward(x, before, slope, after):
  return rprelu(x, before, slope, after), (x, before, slope)


def _rprelu_backward(residuals, cotangent):
  x, _, slope = residuals
  call = _call("rprelu_gradient", (_like(x), _sums(3, slope)))
  dx, sums = call(*residuals, cotangent)
  return dx, *sums


rprelu.defvjp(_rprelu_forward, _rprelu_backward)


@jax.custom_vjp
def shift(x: jax.Array, offset: jax.Array) -> jax.Array:
  """x [..., C] + offset [C]."""
  return x + jnp.broadcast_to(offset, x.shape)


def _shift_forward(x, offset):
  return shift(x, offset), offset


def _shift_backward(offset, cotangent):
  return cotangent, _call("sums", _like(offset))(cotangent)


shift.defvjp(_shift_forward, _shift_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def pool(x: jax.Array, strides: Strides) -> jax.Array:
  """Means over windows that do not overlap, as `layers.average_pool`."""
  for size, stride in zip(x.shape[1:3], strides, strict=True):
    chex.assert_is_divisible(size, stride)
  return _call("pool", _reduced(x, strides, x.shape[-1]))(x)


def _pool_forward(x, strides):
  return pool(x, strides), None


def _pool_backward(strides, _, cotangent):
  rows, columns = strides
  batch, height, width, channels = cotangent.shape
  within = (batch, height, rows, width, columns, channels)
  share = (cotangent / (rows * columns))[:, :, None, :, None]
  whole = (batch, height * rows, width * columns, channels)
  return (jnp.broadcast_to(share, within).reshape(whole),)


pool.defvjp(_pool_forward, _pool_backward)
