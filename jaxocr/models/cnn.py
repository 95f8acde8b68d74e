"""The plain convolutional network, and one that looks at two scales."""

from jaxocr.models import digit_net


class CNN(digit_net.DigitNet):
  """Convolution, pooling, convolution, pooling, product.

  The network of Keras' "Simple MNIST convnet" (Chollet 2015), which states
  34,826 parameters. Input 28x28x1.

  | layer  | output    | parameters |
  | conv1  | 26x26x32  | 320        | 3x3
  | pool   | 13x13x32  |            | largest of 2x2
  | conv2  | 11x11x64  | 18,496     | 3x3
  | pool   | 5x5x64    |            | largest of 2x2, the last row left out
  | out    | 10        | 16,010     | after dropout
  """

  dropout: float = 0.5

  def plan(self, on: digit_net.Layers, x):
    """Images [B, 28, 28, 1] to logits [B, K]."""
    x = on.bend(on.conv(x, "conv1", 32, 3, latent=False), "conv1")
    x = on.max_pool(x, 2, 2)
    x = on.bend(on.conv(x, "conv2", 64, 3), "conv2")
    x = on.max_pool(x, 2, 2)
    return on.head(on.drop(x), "out")


class TwoScale(digit_net.DigitNet):
  """Two branches that see the digit at two scales.

  The digit recognition write-up's network. Input 28x28x1, padded to 32x32;
  ReLU throughout.

  | layer    | output    | parameters |
  | conv1    | 30x30x12  | 120        | 3x3
  | pool     | 15x15x12  |            | largest of 2x2: the first branch
  | near1    | 9x9x24    | 2,616      | 3x3 / 2, padded by 2
  | near2    | 5x5x36    | 7,812      | 3x3 / 2, padded by 1
  | far      | 5x5x12    | 20,748     | 12x12 / 5, padded by 1, from conv1
  | together | 5x5x48    |            |
  | out      | 10        | 12,010     | 5x5

  43,306 parameters.
  """

  def plan(self, on: digit_net.Layers, x):
    """Images [B, 28, 28, 1] to logits [B, K]."""
    # Two px around 28x28, of which the convolution eats one.
    x = on.bend(on.conv(x, "conv1", 12, 3, padding=2, latent=False), "conv1")
    near = on.max_pool(x, 2, 2)
    near = on.conv(near, "near1", 24, 3, strides=2, padding=2)
    near = on.bend(near, "near1")
    near = on.conv(near, "near2", 36, 3, strides=2, padding=1)
    near = on.bend(near, "near2")
    far = on.conv(x, "far", 12, 12, strides=5, padding=1)
    far = on.bend(far, "far")
    return on.head(on.drop(on.together(near, far)), "out")
