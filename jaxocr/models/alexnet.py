"""AlexNet, for photos (to count it) and for digits (to train it)."""

from jaxocr.models import digit_net


class AlexNet(digit_net.DigitNet):
  """AlexNet in one tower (Krizhevsky, Sutskever and Hinton 2012, figure 2).

  The paper halves conv2, conv4 and conv5 between two GPUs; one tower sees all
  maps. BatchNorm takes the place of response normalisation.

  | layer | 227x227x3        | 28x28x1       |
  | conv1 | 11x11 / 4: 55x55 | 5x5 / 2: 12x12 | 96
  | conv2 | 5x5: 27x27       | 5x5: 6x6      | 256, after pooling
  | conv3 | 3x3: 13x13       | 3x3: 3x3      | 384, after pooling
  | conv4 | 3x3: 13x13       | 3x3: 3x3      | 384
  | conv5 | 3x3: 13x13       | 3x3: 3x3      | 256
  | pool  | 6x6              | 1x1           |
  | fc6   | 4,096            | 4,096         | with dropout
  | fc7   | 4,096            | 4,096         | with dropout
  | fc8   | K                | K             |

  Pooling is 3x3 / 2 at 227 and, on maps this small, 2x2 / 2 (3x3 / 2 at the
  end) at 28. 62,378,344 parameters at 227x227x3 with 1,000 classes; 21,589,706
  at 28x28x1 with ten.

  Attributes:
    photos: Whether the input is 227x227 rather than 28x28.
  """

  photos: bool = False
  dropout: float = 0.5

  def plan(self, on: digit_net.Layers, x):
    """Images [B, 227, 227, 3] or [B, 28, 28, 1] to logits [B, K]."""
    size, strides = (11, 4) if self.photos else (5, 2)
    window = 3 if self.photos else 2
    x = on.conv(x, "conv1", 96, size, strides=strides, latent=False)
    x = on.max_pool(on.bend(x, "conv1"), window, 2)
    x = on.bend(on.conv(x, "conv2", 256, 5, padding=2), "conv2")
    x = on.max_pool(x, window, 2)
    for name, channels in (("conv3", 384), ("conv4", 384), ("conv5", 256)):
      x = on.bend(on.conv(x, name, channels, 3, padding=1), name)
    x = on.max_pool(x, 3, 2)
    for name in ("fc6", "fc7"):
      x = on.bend(on.dense(on.drop(x), name, 4096), name)
    return on.head(x, "fc8")
