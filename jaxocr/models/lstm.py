"""Bidirectional LSTM in one scan."""

import functools

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from jaxocr import native
from jaxocr.models import layers

DIRECTIONS = ("forward", "backward")


class BiLSTM(nn.Module):
  """LSTM over frames in both directions, concatenated.

  Gates lie in the order i, f, g, o (Flax's; ONNX has i, o, f, c). The input
  projections of all frames are one matrix product before the scan, and both
  directions run in the same scan, which halves its steps. The cell state and
  the gates are float32 whatever the dtype.

  Parameters, for `forward` (left to right) and `backward`:
  `forward_input_kernel` [C, 4 * hidden], `forward_recurrent_kernel`
  [hidden, 4 * hidden], `forward_bias` [4 * hidden]. Kernels are apart so that
  their last axis is a gate's row, which a compression rule may scale.

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

    def both(name, init, shape):
      return [self.param(f"{d}_{name}", init, shape) for d in DIRECTIONS]

    w_in = both(
      "input_kernel", nn.initializers.glorot_uniform(), (channels, gates)
    )
    w_rec = both("recurrent_kernel", _orthogonal_gates, (self.hidden, gates))
    bias = both("bias", _forget_one, (gates,))

    # One product for both directions; then the second half runs backwards.
    frames = frames.astype(self.dtype)
    projected = layers.product(
      frames,
      jnp.concatenate(w_in, axis=-1).astype(self.dtype),
    ).astype(jnp.float32)
    if native.active(projected, frames) and self.hidden % native.LANES == 0:
      states = native.lstm(projected, jnp.stack(w_rec), jnp.stack(bias))
    else:
      states = _both_ways(projected, w_rec, bias, self.dtype)
    # Before the first frame it is 0, which answers nothing.
    earlier = (states[:, :-1, : self.hidden], states[:, 1:, self.hidden :])
    for direction, rows in zip(DIRECTIONS, earlier, strict=True):
      layers.entering(self, f"{direction}_input_kernel", lambda: frames)
      layers.entering(
        self, f"{direction}_recurrent_kernel", lambda rows=rows: rows
      )
    return states.astype(self.dtype)


def _both_ways(projected, w_rec, bias, dtype) -> jax.Array:
  """Hidden states [B, T, 2 * hidden] of projected inputs [B, T, 2 * gates]."""
  gates = projected.shape[-1] // 2
  projected += jnp.concatenate(bias)[None, None]
  projected = jnp.swapaxes(projected, 0, 1)
  projected = jnp.stack(
    [projected[..., :gates], jnp.flip(projected[..., gates:], axis=0)], axis=1
  )
  states = _recur(projected, jnp.stack(w_rec), dtype)
  states = jnp.concatenate(
    [states[:, 0], jnp.flip(states[:, 1], axis=0)], axis=-1
  )
  return jnp.swapaxes(states, 0, 1)


def _scan(projected: jax.Array, w_rec: jax.Array, dtype) -> jax.Array:
  """Hidden states [T, 2, B, hidden] of projected inputs [T, 2, B, gates]."""

  def step(carry, x):
    hidden, cell = carry
    z = x + jnp.einsum("dbh,dhg->dbg", hidden.astype(dtype), w_rec)
    i, f, g, o = jnp.split(z, 4, axis=-1)
    cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
    hidden = nn.sigmoid(o) * jnp.tanh(cell)
    return (hidden, cell), hidden

  _, directions, batch, gates = projected.shape
  start = jnp.zeros((directions, batch, gates // 4), jnp.float32)
  return lax.scan(step, (start, start), projected)[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _recur(projected: jax.Array, w_rec: jax.Array, dtype) -> jax.Array:
  """`_scan` whose kernel gradient is one product behind the scan.

  The cotangent of the gates is that of the projected inputs they are added to.
  Inside the scan the product would be a small one per frame, and, with the
  lines split over devices, a sum between devices per frame.
  """
  return _scan(projected, w_rec.astype(dtype), dtype)


def _recur_forward(projected, w_rec, dtype):
  hidden, pull = jax.vjp(
    lambda x: _scan(x, w_rec.astype(dtype), dtype), projected
  )
  return hidden, (hidden, pull)


def _recur_backward(dtype, residuals, cotangent):
  hidden, pull = residuals
  (gates,) = pull(cotangent)
  before, after = hidden[:-1].astype(dtype), gates[1:].astype(dtype)
  kernel = jnp.einsum(
    "tdbh,tdbg->dhg", before, after, preferred_element_type=jnp.float32
  )
  return gates, kernel


_recur.defvjp(_recur_forward, _recur_backward)


def _orthogonal_gates(key, shape, dtype=jnp.float32):
  """An orthogonal square for each of the four gates."""
  hidden = shape[0]
  init = nn.initializers.orthogonal(column_axis=-1)
  squares = [init(k, (hidden, hidden), dtype) for k in jax.random.split(key, 4)]
  return jnp.concatenate(squares, axis=-1)


def _forget_one(key, shape, dtype=jnp.float32):
  """Zeros, but 1 for the forget gate (Jozefowicz et al. 2015)."""
  del key
  hidden = shape[-1] // 4
  return jnp.zeros(shape, dtype).at[hidden : 2 * hidden].set(1.0)
