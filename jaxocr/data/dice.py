"""Many small random draws from few large ones, and large ones made fast."""

import math

import jax
import jax.numpy as jnp
import numpy as np

_BLOCK = 256
# Of Threefry-2x32 (Salmon et al. 2011, section 3.3 and table 2): the constant
# of its key schedule, and its rotations, four rounds and the next four.
_PARITY = np.uint32(0x1BD11BDA)
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


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
      key = fold_in(self._key, self._drawn)
      fresh = uniform(key, _BLOCK)
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


def bits(key: jax.Array, size: int) -> jax.Array:
  """What `jax.random.bits(key, (size,), jnp.uint32)` is, faster on a CPU.

  There JAX rolls the twenty rounds of Threefry-2x32 into a loop, to compile
  faster; what the loop carries is copied in each turn, which takes six times as
  long as the arithmetic. Here they are one chain of elementwise operations.

  Args:
    key: A typed PRNG key, of any implementation; one that is not Threefry
      leaves it to `jax.random`.
    size: How many.
  """
  if not _is_threefry(key):
    return jax.random.bits(key, (size,), jnp.uint32)
  x, y = _threefry(key, jnp.arange(size, dtype=jnp.uint32))
  return x ^ y


def fold_in(key: jax.Array, index: int) -> jax.Array:
  """What `jax.random.fold_in(key, index)` is, likewise without a loop.

  It is also `jax.random.split(key, n)[index]`, for any n.
  """
  if not _is_threefry(key):
    return jax.random.fold_in(key, index)
  pair = jnp.stack(_threefry(key, jnp.uint32(index)))
  return jax.random.wrap_key_data(pair, impl="threefry2x32")


def _is_threefry(key) -> bool:
  partitionable = jax.config.jax_threefry_partitionable
  return partitionable and jax.random.key_impl(key) == "threefry2x32"


def _threefry(key, count):
  """Both words of the blocks that `count` uint32 (upper half 0) numbers."""
  first, second = jax.random.key_data(key)
  schedule = first, second, first ^ second ^ _PARITY
  x, y = jnp.full_like(count, first), count + second
  for group in range(5):
    for rotation in _ROTATIONS[group % 2]:
      x = x + y
      y = x ^ (y << rotation | y >> (32 - rotation))
    x = x + schedule[(group + 1) % 3]
    y = y + schedule[(group + 2) % 3] + np.uint32(group + 1)
  return x, y


def uniform(key: jax.Array, size: int) -> jax.Array:
  """What `jax.random.uniform(key, (size,))` is: [size] float32 in [0, 1)."""
  # 23 bits are the mantissa of a number in [1, 2).
  one_to_two = bits(key, size) >> 9 | np.uint32(0x3F800000)
  return jax.lax.bitcast_convert_type(one_to_two, jnp.float32) - 1
