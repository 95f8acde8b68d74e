"""LeNet-5, as published and as it is usually taught."""

from jaxocr.models import digit_net

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

  def plan(self, on: digit_net.Layers, x):
    """Images [B, 28, 28, 1] to logits [B, K]."""
    x = on.bend(on.conv(x, "c1", 6, 5, padding=2, latent=False), "c1")
    x = on.max_pool(x, 2, 2)
    x = on.bend(on.conv(x, "c3", 16, 5), "c3")
    x = on.max_pool(x, 2, 2)
    x = on.bend(on.dense(x, "c5", 120), "c5")
    x = on.bend(on.dense(x, "f6", 84), "f6")
    return on.head(on.drop(x), "out")


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

  def plan(self, on: digit_net.Layers, x):
    """Images [B, 28, 28, 1] to logits [B, K]."""
    if self.norm or self.binary_activations:
      raise ValueError(
        f"norm={self.norm}, binary_activations={self.binary_activations}: the "
        "layout of 1998 has neither; use lenet5"
      )
    x = on.conv(x, "c1", 6, 5, padding=2, latent=False)
    x = on.bend(x, "c1", kind="tanh")
    x = self._sample(on, x, "s2")
    x = on.bend(on.some_maps(x, "c3", 5, C3_TABLE), "c3", kind="tanh")
    x = self._sample(on, x, "s4")
    for name, units in (("c5", 120), ("f6", 84)):
      x = on.bend(on.dense(x, name, units), name, kind="tanh")
    return on.head(x, "out")

  def _sample(self, on, x, name):
    """Mean of 2x2, times a gain, plus an offset, squashed."""
    return on.bend(on.scale(on.mean_pool(x, 2), name), name, kind="tanh")
