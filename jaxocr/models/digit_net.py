"""What the digit networks are made of: convolutions, products, activations.

A network is a list of calls of `Layers`, its `plan`. `Computed` computes them;
an exporter writes them down (`export.onnx_digits`). Inner kernels are latent
ones, called `binary_kernel`, so that the rules of `jaxocr.compress` give the
float, the int8 and the one-bit form of the same layers; the first and the last
layer's kernels are not, and stay in higher precision.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.compress import binarise
from jaxocr.models import activation
from jaxocr.models import bend as bend_lib
from jaxocr.models import layers
from jaxocr.models import norm as norm_lib
from jaxocr.models import windows

Table = Sequence[Sequence[int]]  # Of each map, those before it that it sees.


class Layers(Protocol):
  """What a network is written in; x is whatever stands for features.

  Shapes and names as of the methods of `DigitNet` that are called alike.
  """

  def conv(
    self,
    x,
    name: str,
    channels: int,
    size: int,
    *,
    strides: int = 1,
    padding: int = 0,
    latent: bool = True,
  ):
    """A convolution with an offset."""

  def some_maps(self, x, name: str, size: int, table: Table):
    """A convolution of which each map sees some of those before it."""

  def dense(self, x, name: str, units: int):
    """A product with an offset."""

  def bend(self, x, name: str, *, kind: str = "relu"):
    """An activation."""

  def drop(self, x):
    """Dropout."""

  def max_pool(self, x, size: int, strides: int, *, padding: int = 0):
    """Largest of each window."""

  def mean_pool(self, x, size: int):
    """Mean of each window; windows do not overlap."""

  def scale(self, x, name: str):
    """A gain and an offset a map."""

  def together(self, *parts):
    """Maps side by side, as channels."""

  def mean(self, x):
    """Mean of each map."""

  def head(self, x, name: str):
    """Logits, a float product."""


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

  @nn.compact
  def __call__(
    self,
    image: jax.Array,
    hardness: jax.Array | float = 1.0,
    *,
    train: bool = False,
  ) -> jax.Array:
    """Maps images [B, H, W, C] to logits [B, K] float32."""
    return self.plan(Computed(self, hardness, train), image.astype(self.dtype))

  def plan(self, on: Layers, x):
    """The network, from images to logits."""
    raise NotImplementedError(f"{type(self).__name__} has no layers")

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
    y = windows.convolve(
      x, kernel, strides=strides, padding=padding, pad_value=pad_value
    )
    return self._offset(y, name, train)

  def some_maps(
    self, x: jax.Array, name: str, size: int, table: Table, *, train: bool
  ) -> jax.Array:
    """As `conv`, one kernel [k, k] for each connection of a table."""
    kernel = layers.Kernel(
      shape=(size, size, sum(map(len, table))),
      fan_in=size * size * sum(map(len, table)) // len(table),
      dtype=self.dtype,
      name_in_tree="binary_kernel",
      name=name,
    )()
    whole = spread(kernel, table, x.shape[-1])
    return self._offset(windows.convolve(x, whole), name, train)

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

  def scale(self, x: jax.Array, name: str) -> jax.Array:
    """x [B, H, W, C] times a gain, plus an offset, of each map."""
    gain = self.param(f"{name}_gain", nn.initializers.ones, (x.shape[-1],))
    x = x * gain.astype(x.dtype)[None, None, None]
    return bend_lib.Shift(name=f"{name}_bias")(x)

  def head(self, x: jax.Array, name: str, *, train: bool) -> jax.Array:
    """Logits [B, K] float32 from [B, ...], a float product."""
    x = x.reshape(x.shape[0], -1)
    layers.tap(self, "last", x)
    kernel = self._kernel(name, (x.shape[-1], self.classes), False)
    layers.entering(self, name, lambda: x)
    logits = bend_lib.Shift(name=f"{name}_bias")(layers.product(x, kernel))
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
      return bend_lib.Shift(name=f"{name}_bias")(x)
    return norm_lib.batch_norm(
      train=train, dtype=self.dtype, name=f"{name}_norm", folded=self.folded
    )(x)


@dataclasses.dataclass(frozen=True)
class Computed:
  """Layers of a network, computed.

  Attributes:
    net: Whose parameters they have.
    hardness: How far features are signs already, 0 to 1.
    train: Whether in training.
  """

  net: DigitNet
  hardness: jax.Array | float
  train: bool

  def conv(self, x, name, channels, size, **how):
    how |= {"hardness": self.hardness, "train": self.train}
    return self.net.conv(x, name, channels, size, **how)

  def some_maps(self, x, name, size, table):
    return self.net.some_maps(x, name, size, table, train=self.train)

  def dense(self, x, name, units):
    how = {"hardness": self.hardness, "train": self.train}
    return self.net.dense(x, name, units, **how)

  def bend(self, x, name, *, kind="relu"):
    return self.net.bend(x, name, kind=kind, train=self.train)

  def drop(self, x):
    return self.net.drop(x, train=self.train)

  def max_pool(self, x, size, strides, *, padding=0):
    return windows.max_pool(x, size, strides, padding=padding)

  def mean_pool(self, x, size):
    return layers.average_pool(x, (size, size))

  def scale(self, x, name):
    return self.net.scale(x, name)

  def together(self, *parts):
    return jnp.concatenate(parts, axis=-1)

  def mean(self, x):
    return jnp.mean(x, axis=(1, 2))

  def head(self, x, name):
    return self.net.head(x, name, train=self.train)


def spread(kernel, table: Table, maps: int) -> jax.Array:
  """Kernels [k, k, connections] as one [k, k, maps, len(table)], else 0."""
  pairs = np.array([(i, o) for o, seen in enumerate(table) for i in seen])
  places = np.zeros((len(pairs), maps, len(table)), np.float32)
  places[np.arange(len(pairs)), pairs[:, 0], pairs[:, 1]] = 1
  return jnp.einsum("hwp,pio->hwio", kernel, places.astype(kernel.dtype))
