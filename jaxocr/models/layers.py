"""Convolution lowerings and small layers shared by the backbones.

The lowerings were chosen by measurement on CPUs, where XLA's own choice can be
ten times slower in the backward pass: pointwise convolutions are matrix
products, depthwise ones shifted multiply-adds (`depthwise`),
dense 3x3 stays with `lax.conv`. Where a network is trained on one CPU device,
`native` has them all. `benchmarks/train_step.py` shows what they buy.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import math

import flax.linen as nn
import flax.traverse_util
import jax
from jax import lax
import jax.numpy as jnp

from jaxocr import cpu
from jaxocr import native

Strides = tuple[int, int]
TAPS = "taps"
INPUTS = "inputs"
_INPUT = "_input"  # What its entries' names end in.


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Matrix product over the last axis: x [..., C_in], kernel [C_in, C_out]."""
  if x.ndim > 2 and native.active(x, kernel):
    batch, *places, channels = x.shape
    features = x.reshape(batch, 1, math.prod(places), channels)
    out = native.conv(features, kernel[None, None], (1, 1), 0.0)
    return out.reshape(*x.shape[:-1], kernel.shape[-1])
  return _product(x, kernel)


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Matrix product over the last axis: x [..., C_in], kernel [C_in, C_out].

  The gradient of an einsum or of `nn.Dense` with respect to the kernel makes
  XLA's CPU backend copy the cotangent transposed and then use a slow product.
  Here it is one product of two tall matrices.
  """
  return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _product_forward(x, kernel):
  return _product(x, kernel), (x, kernel)


def _product_backward(residuals, cotangent):
  x, kernel = residuals
  last = cotangent.ndim - 1
  dx = lax.dot_general(cotangent, kernel, (((last,), (1,)), ((), ())))
  rows = x.reshape(-1, x.shape[-1])
  cotangent = cotangent.reshape(-1, cotangent.shape[-1])
  return dx, lax.dot_general(rows, cotangent, (((0,), (0,)), ((), ())))


_product.defvjp(_product_forward, _product_backward)


def dense_product(x, kernel, dimension_numbers, **unused) -> jax.Array:
  """`product` as the `dot_general` of an `nn.Dense`, whose axes are these."""
  del dimension_numbers, unused
  return product(x, kernel)


def same_padding(kernel_size: int) -> tuple[int, int]:
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
  if native.active(x, kernel):
    return native.conv(x, kernel, strides, pad_value)
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
    (same_padding(kernel.shape[0]),) * 2,
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
  by_lax = functools.partial(_lax_kernel_gradient, strides=strides)
  products = functools.partial(_kernel_gradient, strides=strides)
  dkernel = lax.platform_dependent(
    x,
    kernel,
    cotangent,
    cpu=by_lax if cpu.has_wide_vectors() else products,
    default=by_lax,
  )
  return (*pull(cotangent), dkernel)


def _kernel_gradient(x, kernel, cotangent, strides):
  """One product for each of the kernel's places, [k, k, C_in, C_out].

  XLA takes this gradient as a convolution whose kernel is as large as the
  image, which without vectors of 512 bits has half the speed of a product.
  """
  size = kernel.shape[0]
  channels = cotangent.shape[-1]
  rows = cotangent.reshape(-1, channels)
  taps = [
    lax.dot_general(
      tap.reshape(-1, x.shape[-1]), rows, (((0,), (0,)), ((), ()))
    )
    for tap in shifted(x, size, strides)
  ]
  return jnp.stack(taps).reshape(size, size, -1, channels)


def _lax_kernel_gradient(x, kernel, cotangent, strides):
  _, pull = jax.vjp(lambda k: _lax_conv(x, k, strides), kernel)
  return pull(cotangent)[0]


_conv.defvjp(_conv_forward, _conv_backward)


def shifted(x, size, strides):
  """What each of the size x size places of a kernel sees, in their order.

  Args:
    x: [B, H, W, C].
    size: k.
    strides: Step in H and W.

  Returns:
    k * k slices [B, ceil(H / strides[0]), ceil(W / strides[1]), C].
  """
  around = same_padding(size)
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
  around = same_padding(size)
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


def average_pool(x: jax.Array, strides: Strides) -> jax.Array:
  """Means over non-overlapping windows; x [B, H, W, C], sizes must divide."""
  batch, height, width, channels = x.shape
  rows, columns = strides
  if (height % rows, width % columns) != (0, 0):
    raise ValueError(
      f"features of {height}x{width} do not divide by windows of "
      f"{rows}x{columns}; use image heights of 32 and widths divisible by 4"
    )
  if native.active(x):
    return native.pool(x, strides)
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


def entering(
  module: nn.Module, name: str, rows: Callable[[], jax.Array]
) -> None:
  """Lets a caller see what meets a kernel: in `inputs`, where it is mutable.

  Codebooks are fitted to a layer's responses, `rows() @ kernel`; to all others
  it costs nothing.

  Args:
    module: The layer.
    name: Of the kernel, or of the submodule that holds it alone.
    rows: Makes what the product sums over, [..., taps * C].
  """
  if not module.is_initializing() and module.is_mutable_collection(INPUTS):
    module.sow(
      INPUTS,
      f"{name}{_INPUT}",
      rows(),
      reduce_fn=lambda _, x: x,
      init_fn=lambda: None,
    )


def entered(params: Mapping, inputs: Mapping) -> dict[str, jax.Array]:
  """What `entering` has shown, by the kernel's path in `params`.

  In the order of the layers.

  Raises:
    ValueError: Something entered what is no kernel in `params`.
  """
  flat = flax.traverse_util.flatten_dict(dict(params))
  found = {}
  for path, rows in flax.traverse_util.flatten_dict(dict(inputs)).items():
    layer = (*path[:-1], path[-1].removesuffix(_INPUT))
    kernels = [
      p
      for p in flat
      if p == layer or (p[:-1] == layer and p[-1].endswith("kernel"))
    ]
    if len(kernels) != 1:
      raise ValueError(
        f"{'/'.join(layer)} is entered and names {len(kernels)} kernels; give "
        "`entering` the name of a kernel, or of a layer with one"
      )
    found["/".join(kernels[0])] = rows
  return found


def patches(
  x: jax.Array,
  size: int,
  *,
  strides: Strides = (1, 1),
  padding: tuple[int, int] = (0, 0),
  pad_value: float = 0.0,
) -> jax.Array:
  """What a kernel sees at each place, [B, H', W', size * size * C].

  Args:
    x: [B, H, W, C].
    size: k.
    strides: Step in H and W.
    padding: Px before and after, in H and W alike.
    pad_value: What lies there.
  """
  around = ((0, 0), padding, padding, (0, 0))
  padded = jnp.pad(x, around, constant_values=pad_value)
  height, width = padded.shape[1] - size + 1, padded.shape[2] - size + 1
  return jnp.concatenate(
    [
      padded[:, i : i + height : strides[0], j : j + width : strides[1]]
      for i in range(size)
      for j in range(size)
    ],
    axis=-1,
  )
