"""CRNN: backbone, collapse of height, BiLSTM, class scores per frame."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxocr.models import binary
from jaxocr.models import layers
from jaxocr.models import lstm
from jaxocr.models import mobilenet
from jaxocr.text import ctc

BACKBONES = ("binary", "binary_weights", "mobilenet")


class CRNN(nn.Module):
  """Convolutional recurrent recogniser (Shi et al. 2015), any width.

  Attributes:
    num_classes: K, the alphabet's size plus one; class 0 is the CTC blank.
    backbone: `binary` (one-bit features, and latent kernels for one-bit
      weights), `binary_weights` (the same, its features left real) or
      `mobilenet` (depthwise separable, float).
    stem_channels: Channels at half size; the blocks grow from there.
    projection: Channels of a frame entering the BiLSTM.
    hidden: LSTM units in each direction.
    dtype: Of the computation; BatchNorm moments, LSTM state and the returned
      logits are float32.
  """

  num_classes: int
  backbone: str = "binary"
  stem_channels: int = 32
  projection: int = 96
  hidden: int = 96
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    image: jax.Array,
    hardness: jax.Array | float = 1.0,
    *,
    train: bool = False,
  ) -> jax.Array:
    """Reads images.

    Args:
      image: [B, 32, W, 1] in [0, 1], W divisible by 4.
      hardness: Scalar in [0, 1]; below 1, a binary backbone's signs are soft.
      train: Whether BatchNorm uses (and records) the batch's moments.

    Returns:
      Logits [B, W / 4, K], float32.

    Raises:
      ValueError: On another image shape or an unknown backbone.
    """
    if image.ndim != 4 or image.shape[1] % 16 or image.shape[2] % ctc.FRAME_PX:
      raise ValueError(
        f"image of shape {image.shape}; give [B, H, W, 1] with H divisible by "
        f"16 and W by {ctc.FRAME_PX}"
      )
    # Centred, so that dark-on-light and its negative differ in sign only.
    features = self._backbone()(image * 2 - 1, hardness, train=train)
    batch, height, frames, channels = features.shape
    columns = jnp.moveaxis(features, 1, 2).reshape(
      batch, frames, height * channels
    )
    columns = nn.Dense(
      self.projection,
      use_bias=False,
      dtype=self.dtype,
      dot_general=layers.dense_product,
      name="collapse",
    )(columns)
    columns = layers.batch_norm(
      train=train, dtype=self.dtype, name="collapse_norm"
    )(columns)
    context = lstm.BiLSTM(self.hidden, self.dtype, name="bilstm")(columns)
    logits = nn.Dense(
      self.num_classes,
      dtype=self.dtype,
      dot_general=layers.dense_product,
      name="head",
    )(context)
    return logits.astype(jnp.float32)

  def _backbone(self) -> nn.Module:
    if self.backbone not in BACKBONES:
      raise ValueError(
        f"backbone={self.backbone!r}; choose one of {', '.join(BACKBONES)}"
      )
    shared = dict(
      stem_channels=self.stem_channels, dtype=self.dtype, name="backbone"
    )
    if self.backbone == "mobilenet":
      return mobilenet.MobileNetBackbone(**shared)
    return binary.BinaryBackbone(
      binary_activations=self.backbone == "binary", **shared
    )
