"""SqueezeNet v1.1, for photos and for digits."""

from jaxocr.models import digit_net

# Squeezed and expanded channels (of each kind) of fire modules 2 to 9.
FIRES = (
  (16, 64),
  (16, 64),
  (32, 128),
  (32, 128),
  (48, 192),
  (48, 192),
  (64, 256),
  (64, 256),
)
POOLED_BEFORE = (2, 4, 6)  # Fire modules that a pooling comes before.


class SqueezeNet(digit_net.DigitNet):
  """SqueezeNet v1.1 (Iandola et al. 2016, and its authors' later release).

  A fire module squeezes by 1x1, then expands by 1x1 and 3x3 side by side. Any
  input size; the layers for 28x28x1, and for 224x224x3:

  | layer | 28x28   | 224x224 |
  | conv1 | 14x14   | 112x112 | 3x3 / 2, 64
  | fire2 | 7x7     | 56x56   | after pooling 3x3 / 2; 16, 64 + 64
  | fire3 | 7x7     | 56x56   | 16, 64 + 64
  | fire4 | 4x4     | 28x28   | after pooling; 32, 128 + 128
  | fire5 | 4x4     | 28x28   | 32, 128 + 128
  | fire6 | 2x2     | 14x14   | after pooling; 48, 192 + 192
  | fire7 | 2x2     | 14x14   | 48, 192 + 192
  | fire8 | 2x2     | 14x14   | 64, 256 + 256
  | fire9 | 2x2     | 14x14   | 64, 256 + 256
  | out   | K       | K       | dropout, mean of maps, 1x1

  1,235,496 parameters at 224x224x3 with 1,000 classes, as torchvision's;
  726,474 at 28x28x1 with ten. All 3x3 windows are padded by one here. The mean
  is taken before the last 1x1 rather than after it, which is the same without
  the ReLU that the release has there.
  """

  def plan(self, on: digit_net.Layers, x):
    """Images [B, H, W, C] to logits [B, K]."""
    x = on.conv(x, "conv1", 64, 3, strides=2, padding=1, latent=False)
    x = on.bend(x, "conv1")
    for number, (squeezed, expanded) in enumerate(FIRES, start=2):
      if number in POOLED_BEFORE:
        x = on.max_pool(x, 3, 2, padding=1)
      x = self._fire(on, x, f"fire{number}", squeezed, expanded)
    return on.head(on.mean(on.drop(x)), "out")

  def _fire(self, on, x, name, squeezed, expanded):
    x = on.conv(x, f"{name}_squeeze", squeezed, 1)
    x = on.bend(x, f"{name}_squeeze")
    narrow = on.conv(x, f"{name}_narrow", expanded, 1)
    wide = on.conv(x, f"{name}_wide", expanded, 3, padding=1)
    return on.bend(on.together(narrow, wide), name)
