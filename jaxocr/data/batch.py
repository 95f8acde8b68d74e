"""What one step of training or evaluation consumes."""

import flax.struct
import jax


@flax.struct.dataclass
class Batch:
  """Lines of text as images and labels."""

  image: jax.Array  # [B, H, W, 1] float32 in [0, 1], ink dark or light.
  label: jax.Array  # [B, L] int32, class ids (alphabet index + 1), 0-padded.
  length: jax.Array  # [B] int32, characters in each label.
  mask: jax.Array  # [B] float32, 1 for lines that count, 0 for padding.
