"""LeNet-5, as published and as it is usually taught."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.models import digit_net
from jaxocr.models import layers

# Which of the six maps each of C3's sixteen sees (LeCun et al. 1998, table I).
C3_TABLE = (
  (0, 1, 2),
  (1, 2, 3),
  (2, 3, 4),
  (3, 4, 5),
  (0, 4, 5),
  (0, 1, 5),
  (0, 1, 2, 3),
  (1, 2, 3, 4),
  (2, 3, 4, 5),
  (0, 3, 4, 5),
  (0, 1, 4, 5),
  (0, 1, 2, 5),
  (0, 1, 3, 4),
  (1, 2, 4, 5),
  (0, 2, 3, 5),
  (0, 1, 2, 3, 4, 5),
)


class LeNet5(digit_net.DigitNet):
  """LeNet-5 with ReLU, max-pooling and all of C3's connections.

  After LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to
  document recognition", Proc. IEEE 1998, figure 2, in the form of course work.
  Input 28x28x1, padded to 32x32.

  | layer | output    | parameters |
  | C1    | 28x28x6   | 156        | 5x5
  | S2    | 14x14x6   |            | largest of 2x2
  | C3    | 10x10x16  | 2,416      | 5x5, all maps
  | S4    | 5x5x16    |            | largest of 2x2
  | C5    | 120       | 48,120     | 5x5, so a product
  | F6    | 84        | 10,164     |
  | out   | 10        | 850        |

  61,706 parameters, with BatchNorm folded or without it.
  """

  @nn.compact
  def __call__(
    self,
    image: jax.Array,
    hardness: jax.Array | float = 1.0,
    *,
    train: bool = False,
  ) -> jax.Array:
    """Maps images [B, 28, 28, 1] to logits [B, K] float32."""
    inner = {"hardness": hardness, "train": train}
    x = image.astype(self.dtype)
    x = self.conv(x, "c1", 6, 5, padding=2, latent=False, train=train)
    x = digit_net.max_pool(self.bend(x, "c1", train=train), 2, 2)
    x = self.conv(x, "c3", 16, 5, **inner)
    x = digit_net.max_pool(self.bend(x, "c3", train=train), 2, 2)
    x = self.bend(self.dense(x, "c5", 120, **inner), "c5", train=train)
    x = self.bend(self.dense(x, "f6", 84, **inner), "f6", train=train)
    return self.head(self.drop(x, train=train), "out", train=train)


class LeNet5Of1998(digit_net.DigitNet):
  """LeNet-5 as published, but for the output layer.

  LeCun et al. 1998, section II.B and table I: squashed sums, trained
  sub-sampling, sixteen maps that see some of six. Input 28x28x1, padded to
  32x32. The paper ends in distances to ten drawn 7x12 pictures, which are not
  trained; here a product takes their place.

  | layer | output    | parameters |
  | C1    | 28x28x6   | 156        | 5x5
  | S2    | 14x14x6   | 12         | mean of 2x2, a gain and an offset a map
  | C3    | 10x10x16  | 1,516      | 5x5, 60 of 96 pairs of maps
  | S4    | 5x5x16    | 32         | as S2
  | C5    | 120       | 48,120     |
  | F6    | 84        | 10,164     |
  | out   | 10        | 850        | not in the paper

  60,000 parameters, the paper's number, and 850 of the last layer. `norm` must
  be False, and signs are not for it: use `LeNet5`.
  """

  norm: bool = False

  @nn.compact
  def __call__(
    self,
    image: jax.Array,
    hardness: jax.Array | float = 1.0,
    *,
    train: bool = False,
  ) -> jax.Array:
    """Maps images [B, 28, 28, 1] to logits [B, K] float32."""
    if self.norm or self.binary_activations:
      raise ValueError(
        f"norm={self.norm}, binary_activations={self.binary_activations}: the "
        "layout of 1998 has neither; use lenet5"
      )
    x = image.astype(self.dtype)
    x = self.conv(x, "c1", 6, 5, padding=2, latent=False, train=train)
    x = self.bend(x, "c1", kind="tanh", train=train)
    x = self._sample(x, "s2", train)
    x = self._some_maps(x, "c3")
    x = self.bend(x, "c3", kind="tanh", train=train)
    x = self._sample(x, "s4", train)
    for name, units in (("c5", 120), ("f6", 84)):
      x = self.dense(x, name, units, train=train)
      x = self.bend(x, name, kind="tanh", train=train)
    return self.head(x, "out", train=train)

  def _sample(self, x, name, train):
    """Mean of 2x2, times a gain, plus an offset, squashed."""
    x = layers.average_pool(x, (2, 2))
    gain = self.param(f"{name}_gain", nn.initializers.ones, (x.shape[-1],))
    x = x * gain.astype(x.dtype)[None, None, None]
    x = layers.Shift(name=f"{name}_bias")(x)
    return self.bend(x, name, kind="tanh", train=train)

  def _some_maps(self, x, name):
    """5x5 over the maps of `C3_TABLE`; one kernel a connection."""
    pairs = np.array([(i, o) for o, maps in enumerate(C3_TABLE) for i in maps])
    spread = np.zeros((len(pairs), 6, len(C3_TABLE)), np.float32)
    spread[np.arange(len(pairs)), pairs[:, 0], pairs[:, 1]] = 1
    kernel = layers.Kernel(
      shape=(5, 5, len(pairs)),
      fan_in=25 * len(pairs) // len(C3_TABLE),
      dtype=self.dtype,
      name_in_tree="binary_kernel",
      name=name,
    )()
    whole = jnp.einsum("hwp,pio->hwio", kernel, spread.astype(self.dtype))
    return layers.Shift(name=f"{name}_bias")(digit_net.convolve(x, whole))
