"""CRNN: backbone, collapse of height, BiLSTM, class scores per frame."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxocr.models import activation
from jaxocr.models import binary
from jaxocr.models import layers
from jaxocr.models import lstm
from jaxocr.models import mobilenet
from jaxocr.models import norm as norm_lib
from jaxocr.text import ctc

BACKBONES = ("binary", "mobilenet")


class CRNN(nn.Module):
  """Convolutional recurrent recogniser (Shi et al. 2015), any width.

  Attributes:
    num_classes: K, the alphabet's size plus one; class 0 is the CTC blank.
    backbone: `binary` (latent kernels for one-bit weights) or `mobilenet`
      (depthwise separable).
    binary_activations: Whether the features of a `binary` backbone enter its
      convolutions as signs. Without, and with float rules for its weights, it
      is the binary network's float twin.
    sign: Surrogate gradient of these signs, one of `binary.SIGNS`.
    stem_channels: Channels at half size; the blocks grow from there.
    projection: Channels of a frame entering the BiLSTM.
    hidden: LSTM units in each direction.
    activation_bits: Width of the features that enter the BiLSTM and the head,
      and of a backbone's that are not signs; None leaves them float.
    freeze_after: Batches after which their ranges stay.
    folded: Whether the kernels have the gains of BatchNorm, as in all that is
      shipped; see `models.fold`.
    dtype: Of the computation; BatchNorm moments, LSTM state and the returned
      logits are float32.
  """

  num_classes: int
  backbone: str = "binary"
  binary_activations: bool = True
  sign: str = "approx"
  stem_channels: int = 32
  projection: int = 96
  hidden: int = 96
  activation_bits: int | None = None
  freeze_after: int = 1000
  folded: bool = False
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
      Logits [B, W / 4, K], float32. Taps, besides the backbone's: `frames`,
      what enters the BiLSTM, as [B, 1, T, C].

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
    if self.backbone == "binary" and not self.binary_activations:
      # What a `mobilenet` gives is rounded already.
      features = self._quantised("columns_range", features, train)
    columns = jnp.moveaxis(features, 1, 2).reshape(
      batch, frames, height * channels
    )
    layers.entering(self, "collapse", lambda entering=columns: entering)
    columns = nn.Dense(
      self.projection,
      use_bias=False,
      dtype=self.dtype,
      dot_general=layers.dense_product,
      name="collapse",
    )(columns)
    columns = norm_lib.batch_norm(
      train=train,
      dtype=self.dtype,
      name="collapse_norm",
      folded=self.folded,
    )(columns)
    layers.tap(self, "frames", columns[:, None])
    columns = self._quantised("frames_range", columns, train)
    context = lstm.BiLSTM(self.hidden, self.dtype, name="bilstm")(columns)
    context = self._quantised("context_range", context, train)
    layers.entering(self, "head", lambda: context)
    logits = nn.Dense(
      self.num_classes,
      dtype=self.dtype,
      dot_general=layers.dense_product,
      name="head",
    )(context)
    return logits.astype(jnp.float32)

  def _quantised(self, name, x, train):
    return activation.quantised(
      x,
      bits=self.activation_bits,
      freeze_after=self.freeze_after,
      train=train,
      name=name,
    )

  def _backbone(self) -> nn.Module:
    if self.backbone not in BACKBONES:
      raise ValueError(
        f"backbone={self.backbone!r}; choose one of {', '.join(BACKBONES)}"
      )
    shared = dict(
      stem_channels=self.stem_channels,
      folded=self.folded,
      dtype=self.dtype,
      name="backbone",
    )
    if self.sign not in binary.SIGNS:
      raise ValueError(
        f"sign={self.sign!r}; choose one of {', '.join(binary.SIGNS)}"
      )
    if self.backbone == "mobilenet":
      return mobilenet.MobileNetBackbone(
        activation_bits=self.activation_bits,
        freeze_after=self.freeze_after,
        **shared,
      )
    return binary.BinaryBackbone(
      binary_activations=self.binary_activations,
      sign=self.sign,
      activation_bits=self.activation_bits,
      freeze_after=self.freeze_after,
      **shared,
    )
