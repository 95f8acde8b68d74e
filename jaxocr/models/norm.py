"""BatchNorm as every model here uses it, with sums that are fast on a CPU."""

import functools

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from jaxocr.models import layers

NORM_EPSILON = 1e-5


class BatchNorm(nn.BatchNorm):
  """Flax's, but in training with the sums and gradient that are fast here."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.use_running_average or self.is_initializing():
      return super().__call__(x)
    shape = (x.shape[-1],)
    scale = self.param("scale", nn.initializers.ones, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    y, *moments = _normalised(x.astype(jnp.float32), scale, bias, self.epsilon)
    for name, moment in zip(("mean", "var"), moments, strict=True):
      running = self.variable("batch_stats", name, jnp.zeros, shape)
      running.value = (
        self.momentum * running.value + (1 - self.momentum) * moment
      )
    return y.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalised(x, scale, bias, epsilon):
  """Batch normalisation of x [B, ..., C]: (y, mean, variance) in float32.

  No gradient goes through the moments that are returned.
  """
  return _normalised_forward(x, scale, bias, epsilon)[0]


def _normalised_forward(x, scale, bias, epsilon):
  features = _with_rows(x)
  count = x.size // x.shape[-1]
  mean = layers.channel_sums(features, jnp.ones_like(features)) / count
  square = layers.channel_sums(features, features) / count
  variance = jnp.maximum(0.0, square - jnp.square(mean))
  gain = scale * lax.rsqrt(variance + epsilon)
  along = (None,) * (x.ndim - 1)
  y = (x - mean[along]) * gain[along] + bias[along]
  return (y, mean, variance), (x, scale, mean, variance)


def _normalised_backward(epsilon, residuals, cotangents):
  """Ioffe and Szegedy 2015, section 3, with the sums of dscale and dbias."""
  x, scale, mean, variance = residuals
  cotangent, *_ = cotangents
  along = (None,) * (x.ndim - 1)
  count = x.size // x.shape[-1]
  slope = lax.rsqrt(variance + epsilon)
  centred = x - mean[along]
  heard = _with_rows(cotangent)
  dbias = layers.channel_sums(heard, jnp.ones_like(heard))
  dscale = layers.channel_sums(heard, _with_rows(centred)) * slope
  common = (dbias / count)[along] + centred * (dscale * slope / count)[along]
  return (cotangent - common) * (scale * slope)[along], dscale, dbias


_normalised.defvjp(_normalised_forward, _normalised_backward)


def _with_rows(x):
  """[B, C] or [B, T, C] as features [B, H, W, C]."""
  batch, *places, channels = x.shape
  return x.reshape(batch, *(1,) * (2 - len(places)), *places, channels)


def batch_norm(
  *, train: bool, dtype: jnp.dtype, name: str, folded: bool = False
) -> nn.Module:
  """BatchNorm as every model here uses it: float32 moments of all devices.

  Under `jax.jit` a sharded batch is one array, so the moments are global.

  Args:
    train: Whether to use the batch's moments.
    dtype: Of the result.
    name: `NAME_norm` where NAME is the layer whose kernel comes before: by
      these names `models.fold` finds the kernel that takes the gain.
    folded: Whether the kernel has it, so that only an offset is left.
  """
  if folded:
    return layers.Shift(name=name)
  return BatchNorm(
    use_running_average=not train,
    momentum=0.95,
    epsilon=NORM_EPSILON,
    dtype=dtype,
    name=name,
  )
