"""Depthwise separable float backbone, shaped for lines of text."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxocr.models import activation
from jaxocr.models import depthwise
from jaxocr.models import layers
from jaxocr.models import norm as norm_lib


class SeparableConv(nn.Module):
  """Depthwise 3x3, BatchNorm, ReLU, pointwise, BatchNorm, ReLU.

  MobileNet's block (Howard et al. 2017, fig. 3). Maps [B, H, W, C_in] to
  [B, H / s, W / s, channels].
  """

  channels: int
  strides: layers.Strides = (1, 1)
  activation_bits: int | None = None
  freeze_after: int = 1000
  folded: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    inputs = x.shape[-1]
    norm = dict(train=train, dtype=self.dtype, folded=self.folded)
    kernel = layers.Kernel((3, 3, inputs), 9, self.dtype, name="depthwise")()
    x = depthwise.depthwise_conv(x, kernel, strides=self.strides)
    x = norm_lib.norm_relu(
      norm_lib.batch_norm(name="depthwise_norm", **norm), x
    )
    x = activation.quantised(
      x,
      bits=self.activation_bits,
      freeze_after=self.freeze_after,
      train=train,
      name="depthwise_range",
    )
    kernel = layers.Kernel(
      (inputs, self.channels), inputs, self.dtype, name="pointwise"
    )()
    x = layers.pointwise_conv(x, kernel)
    return norm_lib.norm_relu(
      norm_lib.batch_norm(name="pointwise_norm", **norm), x
    )


class MobileNetBackbone(nn.Module):
  """MobileNet v1 with frames every 4 px.

  Attributes:
    stem_channels: Channels after the first 3x3 convolution, at half size.
    plan: One (row stride, column stride, channels) per separable block. The
      column strides and the stem's 2 must multiply to 4.
    activation_bits: Width of each convolution's result; None leaves it float.
    freeze_after: Batches after which their ranges stay.
    folded: Whether kernels have the gains of BatchNorm, see `models.fold`.
    dtype: Of the computation.
  """

  stem_channels: int = 32
  plan: Sequence[tuple[int, int, int]] = (
    (2, 2, 64),
    (1, 1, 64),
    (2, 1, 128),
    (1, 1, 128),
    (2, 1, 128),
    (1, 1, 128),
  )
  activation_bits: int | None = None
  freeze_after: int = 1000
  folded: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, image: jax.Array, hardness: jax.Array | float = 1.0, *, train: bool
  ) -> jax.Array:
    """Maps images [B, H, W, 1] to features [B, H / 16, W / 4, C]."""
    del hardness  # Nothing here is binary.
    kernel = layers.Kernel(
      (3, 3, 1, self.stem_channels), 9, self.dtype, name="stem"
    )()
    x = layers.stem_conv(image.astype(self.dtype), kernel)
    norm = norm_lib.batch_norm(
      train=train, dtype=self.dtype, name="stem_norm", folded=self.folded
    )
    x = self._quantised("stem_range", norm_lib.norm_relu(norm, x), train)
    layers.tap(self, "stem", x)
    for index, (rows, columns, channels) in enumerate(self.plan):
      block = SeparableConv(
        channels,
        (rows, columns),
        self.activation_bits,
        self.freeze_after,
        self.folded,
        self.dtype,
        name=f"block{index}",
      )
      x = self._quantised(f"block{index}_range", block(x, train=train), train)
      layers.tap(self, f"block{index}", x)
    return x

  def _quantised(self, name, x, train):
    return activation.quantised(
      x,
      bits=self.activation_bits,
      freeze_after=self.freeze_after,
      train=train,
      name=name,
    )
