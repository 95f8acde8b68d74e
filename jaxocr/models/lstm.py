"""Bidirectional LSTM in one scan."""

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from jaxocr.models import layers


class BiLSTM(nn.Module):
  """LSTM over frames in both directions, concatenated.

  Gates lie in the order i, f, g, o (Flax's; ONNX has i, o, f, c). The input
  projections of all frames are one matrix product before the scan, and both
  directions run in the same scan, which halves its steps. The cell state and
  the gates are float32 whatever the dtype.

  Parameters: `input_kernel` [2, C, 4 * hidden], `recurrent_kernel`
  [2, hidden, 4 * hidden], `bias` [2, 4 * hidden]; index 0 reads left to right.

  Attributes:
    hidden: Units in each direction.
    dtype: Of the matrix products.
  """

  hidden: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, frames: jax.Array) -> jax.Array:
    """Maps frames [B, T, C] to [B, T, 2 * hidden]."""
    gates = 4 * self.hidden
    channels = frames.shape[-1]
    glorot = nn.initializers.variance_scaling(
      1.0, "fan_avg", "uniform", batch_axis=(0,)
    )
    orthogonal = nn.initializers.orthogonal(column_axis=-1)

    def recurrent_init(key, shape, dtype=jnp.float32):
      keys = jax.random.split(key, 8)
      blocks = [orthogonal(k, (shape[1], self.hidden), dtype) for k in keys]
      return jnp.stack(
        [jnp.concatenate(blocks[:4], -1), jnp.concatenate(blocks[4:], -1)]
      )

    w_in = self.param("input_kernel", glorot, (2, channels, gates))
    w_rec = self.param(
      "recurrent_kernel", recurrent_init, (2, self.hidden, gates)
    )
    bias = self.param("bias", _forget_one, (2, gates))

    # One product for both directions; then the second half runs backwards.
    projected = layers.product(
      frames.astype(self.dtype),
      jnp.concatenate([w_in[0], w_in[1]], axis=-1).astype(self.dtype),
    ).astype(jnp.float32)
    projected = jnp.swapaxes(projected + bias.reshape(1, 1, 2 * gates), 0, 1)
    projected = jnp.stack(
      [projected[..., :gates], jnp.flip(projected[..., gates:], axis=0)], axis=1
    )
    w_rec = w_rec.astype(self.dtype)

    def step(carry, x):
      hidden, cell = carry
      z = x + jnp.einsum("dbh,dhg->dbg", hidden.astype(self.dtype), w_rec)
      i, f, g, o = jnp.split(z, 4, axis=-1)
      cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
      hidden = nn.sigmoid(o) * jnp.tanh(cell)
      return (hidden, cell), hidden

    start = jnp.zeros((2, frames.shape[0], self.hidden), jnp.float32)
    _, outputs = lax.scan(step, (start, start), projected)
    both = jnp.concatenate(
      [outputs[:, 0], jnp.flip(outputs[:, 1], axis=0)], axis=-1
    )
    return jnp.swapaxes(both, 0, 1).astype(self.dtype)


def _forget_one(key, shape, dtype=jnp.float32):
  """Zeros, but 1 for the forget gate (Jozefowicz et al. 2015)."""
  del key
  hidden = shape[-1] // 4
  return jnp.zeros(shape, dtype).at[:, hidden : 2 * hidden].set(1.0)
