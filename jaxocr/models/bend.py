"""Learnt shifts and the bend of a binary network, one number a channel."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxocr import native


def _offset(module: nn.Module, channels: int, dtype: jnp.dtype) -> jax.Array:
  return module.param("offset", nn.initializers.zeros, (channels,)).astype(
    dtype
  )


class Offset(nn.Module):
  """One learnt number a channel, [C]."""

  @nn.compact
  def __call__(self, channels: int, dtype: jnp.dtype) -> jax.Array:
    return _offset(self, channels, dtype)


class Shift(nn.Module):
  """x [..., C] plus its channel's offset: RSign's threshold."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return _shifted(x, _offset(self, x.shape[-1], x.dtype))


def _shifted(x, offset):
  if native.active(x, offset):
    return native.shift(x, offset)
  return x + jnp.broadcast_to(offset, x.shape)


class RPReLU(nn.Module):
  """PReLU with learnt shifts before and after.

  ReActNet (Liu et al. 2020), eq. 4:

  y = z + out where z = x + in when positive, slope * (x + in) when negative;
  shapes [..., C], one triple of parameters per channel.
  """

  @nn.compact
  def parameters(
    self, channels: int, dtype: jnp.dtype
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(in, slope, out), [C] each."""
    slope = self.param("slope", nn.initializers.constant(0.25), (channels,))
    before = Offset(name="before")(channels, dtype)
    return before, slope.astype(dtype), Offset(name="after")(channels, dtype)

  def __call__(self, x: jax.Array) -> jax.Array:
    before, slope, after = self.parameters(x.shape[-1], x.dtype)
    if native.active(x):
      return native.rprelu(x, before, slope, after)
    shifted = _shifted(x, before)
    slope = jnp.broadcast_to(slope, x.shape)
    return _shifted(jnp.where(shifted > 0, shifted, slope * shifted), after)
