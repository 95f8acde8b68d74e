"""One-bit backbone in the manner of ReActNet, shaped for lines of text."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxocr.compress import binarise
from jaxocr.models import activation
from jaxocr.models import bend as bend_lib
from jaxocr.models import layers
from jaxocr.models import norm as norm_lib

SIGNS = ("approx", "ste", "swish")


def sign(x: jax.Array, hardness: jax.Array | float, kind: str) -> jax.Array:
  """Sign with one of the surrogate gradients; only `approx` can be soft."""
  if kind == "approx":
    return binarise.approx_sign(x, hardness)
  return {"ste": binarise.sign_ste, "swish": binarise.swish_sign}[kind](x)


class BinaryConv(nn.Module):
  """RSign, convolution with a latent kernel, BatchNorm, shortcut, RPReLU.

  Maps [B, H, W, C] to [B, H / s, W / s, C]. The kernel is latent (full
  precision): the one-bit weights come from a rule over the parameter tree,
  outside this module (`jaxocr.compress.rules`).

  Attributes:
    kernel_size: 3 or 1.
    strides: Step in H and W; the shortcut is average-pooled alike.
    binary_activations: Whether the features entering the convolution are
      signs; otherwise they enter as they are.
    sign: Surrogate gradient of these signs, one of `SIGNS`.
    activation_bits: Width of what enters and leaves the convolution where it
      enters as it is; None leaves it float.
    freeze_after: Batches after which its ranges stay.
    folded: Whether the kernel has the gain of BatchNorm.
    dtype: Of the computation.
  """

  kernel_size: int
  strides: layers.Strides = (1, 1)
  binary_activations: bool = True
  sign: str = "approx"
  activation_bits: int | None = None
  freeze_after: int = 1000
  folded: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, hardness, *, train: bool) -> jax.Array:
    channels = x.shape[-1]
    size = self.kernel_size
    features = bend_lib.Shift(name="threshold")(x)
    pad_value = 0.0
    if self.binary_activations:
      features = sign(features, hardness, self.sign)
      pad_value = 1.0
    features = self._quantised("in_range", features, train)
    kernel = layers.Kernel(
      shape=(size, size, channels, channels),
      fan_in=size * size * channels,
      dtype=self.dtype,
      name_in_tree="binary_kernel",
      name="conv",
    )()
    layers.entering(
      self,
      "conv",
      lambda entering=features: layers.patches(
        entering,
        size,
        strides=self.strides,
        padding=layers.same_padding(size),
        pad_value=pad_value,
      ),
    )
    if size == 1:
      features = layers.pointwise_conv(features, kernel[0, 0])
    else:
      features = layers.spatial_conv(
        features, kernel, strides=self.strides, pad_value=pad_value
      )
    norm = norm_lib.batch_norm(
      train=train, dtype=self.dtype, name="conv_norm", folded=self.folded
    )
    bend = bend_lib.RPReLU(name="bend")
    if self.strides != (1, 1):
      x = layers.average_pool(x, self.strides)
    if not self._quantises:
      return norm_lib.norm_rprelu(norm, features, x, bend)
    return bend(self._quantised("out_range", norm(features), train) + x)

  @property
  def _quantises(self) -> bool:
    """Whether features that are not signs are rounded to integers."""
    return not self.binary_activations and self.activation_bits is not None

  def _quantised(self, name, x, train):
    return activation.quantised(
      x,
      bits=self.activation_bits if self._quantises else None,
      freeze_after=self.freeze_after,
      train=train,
      name=name,
    )


class BinaryBlock(nn.Module):
  """A 3x3 then a 1x1 binary convolution; two 1x1 side by side to double C.

  Maps [B, H, W, C] to [B, H / s, W / s, C or 2 C].
  """

  strides: layers.Strides = (1, 1)
  double: bool = False
  binary_activations: bool = True
  sign: str = "approx"
  activation_bits: int | None = None
  freeze_after: int = 1000
  folded: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, hardness, *, train: bool) -> jax.Array:
    shared = dict(
      binary_activations=self.binary_activations,
      sign=self.sign,
      activation_bits=self.activation_bits,
      freeze_after=self.freeze_after,
      folded=self.folded,
      dtype=self.dtype,
    )
    x = BinaryConv(3, self.strides, name="spatial", **shared)(
      x, hardness, train=train
    )
    left = BinaryConv(1, name="mix", **shared)(x, hardness, train=train)
    if not self.double:
      return left
    right = BinaryConv(1, name="mix_twin", **shared)(x, hardness, train=train)
    return jnp.concatenate([left, right], axis=-1)


class BinaryBackbone(nn.Module):
  """Float stem, then binary blocks; frames every 4 px (ReActNet, 2020).

  | stage  | output for 32 x W          |
  | stem   | [16, W / 2, C0], float 3x3 |
  | plan   | one `BinaryBlock` an entry |

  Attributes:
    stem_channels: C0.
    plan: One (row stride, column stride, doubles) per block. The column
      strides and the stem's 2 must multiply to 4.
    binary_activations: False leaves the features real: the float twin, or
      binary weights only.
    sign: Surrogate gradient of the signs, one of `SIGNS`.
    activation_bits: Width of real features around each convolution; None
      leaves them float.
    freeze_after: Batches after which their ranges stay.
    folded: Whether kernels have the gains of BatchNorm, see `models.fold`.
    dtype: Of the computation.
  """

  stem_channels: int = 32
  plan: Sequence[tuple[int, int, bool]] = (
    (2, 2, True),
    (1, 1, False),
    (2, 1, True),
    (1, 1, False),
    (2, 1, False),
    (1, 1, False),
  )
  binary_activations: bool = True
  sign: str = "approx"
  activation_bits: int | None = None
  freeze_after: int = 1000
  folded: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, image: jax.Array, hardness: jax.Array | float = 1.0, *, train: bool
  ) -> jax.Array:
    """Maps images [B, H, W, 1] to features [B, H / 16, W / 4, C].

    At a hardness below 1 the signs are mixed with a soft curve, see
    `binarise.approx_sign`. Taps: `stem` and each `blockN`, what enters the
    next sign.
    """
    kernel = layers.Kernel(
      shape=(3, 3, 1, self.stem_channels),
      fan_in=9,
      dtype=self.dtype,
      name="stem",
    )()
    image = image.astype(self.dtype)
    layers.entering(
      self,
      "stem",
      lambda: layers.patches(
        image, 3, strides=(2, 2), padding=layers.same_padding(3)
      ),
    )
    x = layers.stem_conv(image, kernel)
    x = norm_lib.batch_norm(
      train=train, dtype=self.dtype, name="stem_norm", folded=self.folded
    )(x)
    x = bend_lib.RPReLU(name="stem_bend")(x)
    layers.tap(self, "stem", x)
    for index, (rows, columns, double) in enumerate(self.plan):
      x = BinaryBlock(
        (rows, columns),
        double=double,
        binary_activations=self.binary_activations,
        sign=self.sign,
        activation_bits=self.activation_bits,
        freeze_after=self.freeze_after,
        folded=self.folded,
        dtype=self.dtype,
        name=f"block{index}",
      )(x, hardness, train=train)
      layers.tap(self, f"block{index}", x)
    return x
