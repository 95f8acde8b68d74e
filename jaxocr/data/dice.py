"""Many small random draws from few large ones."""

import math

import jax
import jax.numpy as jnp

_BLOCK = 256


class Dice:
  """Hands out uniform numbers in [0, 1) for one line, a block at a time.

  An effect needs a handful of numbers and there are dozens of effects. Each
  call of `jax.random` compiles to a loop of its own, so drawing blocks and
  cutting them up halves the time that the renderer takes to compile. Which
  number goes where is fixed while tracing.
  """

  def __init__(self, key: jax.Array):
    self._key = key
    self._drawn = 0
    self._block = jnp.zeros((0,), jnp.float32)

  def one(self) -> jax.Array:
    """The next number, []."""
    return self.take()

  def take(self, *shape: int) -> jax.Array:
    """The next numbers, in this shape."""
    count = math.prod(shape)
    while self._block.shape[0] < count:
      key = jax.random.fold_in(self._key, self._drawn)
      fresh = jax.random.uniform(key, (_BLOCK,))
      self._block = jnp.concatenate([self._block, fresh])
      self._drawn += 1
    numbers, self._block = self._block[:count], self._block[count:]
    return numbers.reshape(shape)

  def chance(self, probability: float) -> jax.Array:
    """True with this probability, []."""
    return self.one() < probability

  def symmetric(self, limit: float) -> jax.Array:
    """Uniform in [-limit, limit), []."""
    return limit * (2 * self.one() - 1)

  def triangular(self, limit: float) -> jax.Array:
    """In (-limit, limit), likelier near 0, []."""
    return limit * (self.one() - self.one())

  def choose(self, weights: jax.Array) -> jax.Array:
    """An index [] int32 of the weights [N], with probability in proportion."""
    total = jnp.cumsum(weights)
    index = jnp.sum(total <= self.one() * total[-1])
    return jnp.minimum(index, weights.shape[0] - 1).astype(jnp.int32)
