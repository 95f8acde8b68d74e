"""What the digit networks are made of: convolutions, products, activations.

A network is a list of these calls. Inner kernels are latent ones, called
`binary_kernel`, so that the rules of `jaxocr.compress` give the float, the int8
and the one-bit form of the same layers; the first and the last layer's kernels
are not, and stay in higher precision.
"""

import functools
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from jaxocr.compress import binarise
from jaxocr.models import activation
from jaxocr.models import layers
from jaxocr.models import norm as norm_lib


class DigitNet(nn.Module):
  """Base of all: what their layers share.

  Attributes:
    classes: K.
    norm: Whether BatchNorm follows each product, instead of an offset. Folded
      into the kernel it leaves an offset, so that both count alike.
    binary_activations: Whether features enter latent kernels as signs.
    activation_bits: Of fake-quantised activations; None: as they are.
    freeze_after: Batches after which their ranges stay.
    dropout: Share of hidden units zeroed in training, where a model has any.
    folded: Whether kernels have the gains of BatchNorm, see `models.fold`.
    dtype: Of the computation.
  """

  classes: int = 10
  norm: bool = True
  binary_activations: bool = False
  activation_bits: int | None = None
  freeze_after: int = 1000
  dropout: float = 0.0
  folded: bool = False
  dtype: Any = jnp.float32

  def conv(
    self,
    x: jax.Array,
    name: str,
    channels: int,
    size: int,
    *,
    strides: int = 1,
    padding: int = 0,
    latent: bool = True,
    hardness: jax.Array | float = 1.0,
    train: bool,
  ) -> jax.Array:
    """[B, H, W, C] to [B, (H + 2 p - k) / s + 1, ..., channels], with offset.

    One-bit features are padded with +1, having no zero.
    """
    kernel = self._kernel(name, (size, size, x.shape[-1], channels), latent)
    x, pad_value = self._entering(x, latent, hardness)
    layers.entering(
      self,
      name,
      lambda: layers.patches(
        x,
        size,
        strides=(strides, strides),
        padding=(padding, padding),
        pad_value=pad_value,
      ),
    )
    y = convolve(
      x, kernel, strides=strides, padding=padding, pad_value=pad_value
    )
    return self._offset(y, name, train)

  def dense(
    self,
    x: jax.Array,
    name: str,
    units: int,
    *,
    latent: bool = True,
    hardness: jax.Array | float = 1.0,
    train: bool,
  ) -> jax.Array:
    """[B, ...] flattened to [B, C], then [B, units], with offset."""
    x = x.reshape(x.shape[0], -1)
    kernel = self._kernel(name, (x.shape[-1], units), latent)
    x, _ = self._entering(x, latent, hardness)
    layers.entering(self, name, lambda: x)
    return self._offset(layers.product(x, kernel), name, train)

  def bend(
    self, x: jax.Array, name: str, *, train: bool, kind: str = "relu"
  ) -> jax.Array:
    """ReLU, or LeCun's tanh; where signs follow, neither: they bend.

    The result is tapped as `name`. LeCun et al. 1998, appendix A:
    1.7159 tanh(2/3 x).
    """
    if kind == "tanh":
      x = 1.7159 * jnp.tanh(2 / 3 * x)
    elif not self.binary_activations:
      x = nn.relu(x)
    x = activation.quantised(
      x,
      bits=self.activation_bits,
      freeze_after=self.freeze_after,
      train=train,
      name=f"{name}_range",
    )
    layers.tap(self, name, x)
    return x

  def drop(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Dropout of the network's share."""
    return nn.Dropout(self.dropout, deterministic=not train)(x)

  def head(self, x: jax.Array, name: str, *, train: bool) -> jax.Array:
    """Logits [B, K] float32 from [B, ...], a float product."""
    x = x.reshape(x.shape[0], -1)
    layers.tap(self, "last", x)
    kernel = self._kernel(name, (x.shape[-1], self.classes), False)
    layers.entering(self, name, lambda: x)
    logits = layers.Shift(name=f"{name}_bias")(layers.product(x, kernel))
    layers.tap(self, name, logits)
    return logits.astype(jnp.float32)

  def _kernel(self, name, shape, latent):
    return layers.Kernel(
      shape=shape,
      fan_in=math.prod(shape[:-1]),
      dtype=self.dtype,
      name_in_tree="binary_kernel" if latent else "kernel",
      name=name,
    )()

  def _entering(self, x, latent, hardness):
    if not (latent and self.binary_activations):
      return x, 0.0
    return binarise.approx_sign(x, hardness), 1.0

  def _offset(self, x, name, train):
    if not self.norm:
      return layers.Shift(name=f"{name}_bias")(x)
    return norm_lib.batch_norm(
      train=train, dtype=self.dtype, name=f"{name}_norm", folded=self.folded
    )(x)


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
