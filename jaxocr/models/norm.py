"""BatchNorm as every model here uses it, with sums that are fast on a CPU."""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from jaxocr import native
from jaxocr.models import bend as bend_lib
from jaxocr.models import layers

NORM_EPSILON = 1e-5


class BatchNorm(nn.BatchNorm):
  """Flax's, but in training with the sums and gradient that are fast here."""

  @property
  def in_training(self) -> bool:
    """Whether it takes the batch's moments, and records them."""
    return not (self.use_running_average or self.is_initializing())

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    normalise: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
    | None = None,
  ) -> jax.Array:
    """Normalises x [..., C].

    Args:
      x: Features.
      normalise: (x, scale, bias) -> (y, mean, variance), where training goes on
        from the result with what is fastest in one.
    """
    if not self.in_training:
      return super().__call__(x)
    shape = (x.shape[-1],)
    scale = self.param("scale", nn.initializers.ones, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    normalise = normalise or _training_norm(x, self.epsilon)
    y, *moments = normalise(x.astype(jnp.float32), scale, bias)
    for name, moment in zip(("mean", "var"), moments, strict=True):
      running = self.variable("batch_stats", name, jnp.zeros, shape)
      running.value = (
        self.momentum * running.value + (1 - self.momentum) * moment
      )
    return y.astype(self.dtype)


def _training_norm(x, epsilon):
  norm = native.norm if native.active(x) else _normalised
  return lambda x, scale, bias: norm(x, scale, bias, epsilon)


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
    return bend_lib.Shift(name=name)
  return BatchNorm(
    use_running_average=not train,
    momentum=0.95,
    epsilon=NORM_EPSILON,
    dtype=dtype,
    name=name,
  )


def norm_relu(norm: nn.Module, x: jax.Array) -> jax.Array:
  """ReLU of what `batch_norm` gave, in one pass where there is one."""
  if native.active(x) and isinstance(norm, BatchNorm) and norm.in_training:
    return norm(x, lambda *given: native.norm(*given, norm.epsilon, True))
  return nn.relu(norm(x))


def norm_rprelu(
  norm: nn.Module, x: jax.Array, shortcut: jax.Array, bend: bend_lib.RPReLU
) -> jax.Array:
  """`bend` of what `batch_norm` gave plus a shortcut, likewise."""
  if native.active(x) and isinstance(norm, BatchNorm) and norm.in_training:
    rest = (shortcut, *bend.parameters(x.shape[-1], x.dtype), norm.epsilon)
    return norm(x, lambda *given: native.norm_rprelu(*given, *rest))
  return bend(norm(x) + shortcut)
