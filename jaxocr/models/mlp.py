"""Fully connected network of one bit throughout."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxocr.compress import binarise
from jaxocr.models import layers
from jaxocr.models import norm as norm_lib


class BinaryMLP(nn.Module):
  """Input, activations and all kernels of one bit (Hubara et al. 2016).

  Each product is followed by BatchNorm; a sign follows each but the last, whose
  normalised values are the logits. With hidden sizes 1024 x 3, 256 x 3 and
  64 x 3 these are LFC, SFC and TFC of FINN (Umuroglu et al. 2017, table 3).

  The kernels are latent (full precision): their signs come from a rule over the
  parameter tree, outside this module (`jaxocr.compress.rules`). A scale per
  output channel is lost in the BatchNorm behind it.

  Attributes:
    hidden: Units of each hidden layer.
    num_classes: K.
    dropout: Share of the hidden signs that are zeroed in training.
    dtype: Of the computation.
  """

  hidden: Sequence[int]
  num_classes: int = 10
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps images [B, H, W, 1] in [0, 1] to logits [B, K] float32.

    A pixel is +1 from one half on, else -1. With `train`, needs an rng called
    `dropout` where the share is not 0.
    """
    x = image.reshape(image.shape[0], -1).astype(self.dtype)
    x = binarise.hard_sign(x - 0.5)
    for index, units in enumerate(self.hidden):
      x = self._product(x, units, f"hidden{index}", train)
      x = binarise.sign_ste(x)
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    logits = self._product(x, self.num_classes, "logits", train)
    return logits.astype(jnp.float32)

  def _product(self, x, units, name, train):
    kernel = layers.Kernel(
      shape=(x.shape[-1], units),
      fan_in=x.shape[-1],
      dtype=self.dtype,
      name_in_tree="binary_kernel",
      name=name,
    )()
    return norm_lib.batch_norm(
      train=train, dtype=self.dtype, name=f"{name}_norm"
    )(layers.product(x, kernel))
