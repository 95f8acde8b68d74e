"""Dice: one stream of numbers, however it is cut; distributions by formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.data import dice

KEY = jax.random.key(5)
DRAWS = 4096


def _key(*words):
  return jax.random.wrap_key_data(jnp.array(words, jnp.uint32))


def _many(draw):
  """`draw(roll)` for many keys."""
  keys = jax.random.split(KEY, DRAWS)
  return np.asarray(jax.vmap(lambda key: draw(dice.Dice(key)))(keys))


def test_numbers_come_in_one_order_however_they_are_taken():
  whole = dice.Dice(KEY).take(600)  # More than two blocks.
  roll = dice.Dice(KEY)
  parts = [roll.one()[None], roll.take(20, 15).ravel(), roll.take(299)]
  np.testing.assert_array_equal(whole, jnp.concatenate(parts))
  assert whole.min() >= 0 and whole.max() < 1
  assert len(np.unique(whole)) == 600  # No block comes twice.


def test_the_key_decides():
  other = dice.Dice(jax.random.key(6)).take(3)
  assert not (dice.Dice(KEY).take(3) == other).any()


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_bits_are_those_of_jax(impl):
  key = jax.random.key(2**40 + 3, impl=impl)
  expected = jax.random.bits(key, (301,), jnp.uint32)
  np.testing.assert_array_equal(dice.bits(key, 301), expected)
  np.testing.assert_array_equal(
    dice.uniform(key, 301), jax.random.uniform(key, (301,))
  )
  for index in (0, 1, 77):
    found = dice.fold_in(key, index)
    assert found.dtype == key.dtype
    np.testing.assert_array_equal(
      jax.random.key_data(found),
      jax.random.key_data(jax.random.fold_in(key, index)),
    )


def test_threefry_by_its_published_vectors():
  """The first known answer of Random123, which the paper comes with."""
  x, y = dice._threefry(_key(0, 0), jnp.uint32(0))
  assert (hex(x), hex(y)) == ("0x6b200159", "0x99ba4efe")


def test_fold_in_is_also_a_split():
  np.testing.assert_array_equal(
    jax.random.key_data(dice.fold_in(KEY, 1)),
    jax.random.key_data(jax.random.split(KEY)[1]),
  )


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_chance(probability):
  share = _many(lambda roll: roll.chance(probability)).mean()
  # Five standard deviations; exact at the ends.
  spread = 5 * (probability * (1 - probability) / DRAWS) ** 0.5
  assert abs(share - probability) <= spread


@pytest.mark.parametrize(
  ("draw", "variance"),
  # Uniform: (2 limit)^2 / 12; difference of two uniforms: limit^2 / 6.
  [(dice.Dice.symmetric, 4 / 3), (dice.Dice.triangular, 4 / 6)],
)
def test_both_ways_in_range(draw, variance):
  values = _many(lambda roll: draw(roll, 2.0))
  assert -2 <= values.min() < -1.5 and 1.5 < values.max() <= 2
  assert abs(values.mean()) < 5 * (variance / DRAWS) ** 0.5
  np.testing.assert_allclose(values.var(), variance, rtol=0.08)


def test_choose_is_in_proportion_and_never_takes_a_weight_of_zero():
  weights = jnp.array([0.0, 1.0, 0.0, 3.0, 0.0])
  chosen = _many(lambda roll: roll.choose(weights))
  assert chosen.dtype == np.int32
  shares = np.bincount(chosen, minlength=5) / DRAWS
  np.testing.assert_array_equal(shares[[0, 2, 4]], 0)
  np.testing.assert_allclose(shares[[1, 3]], [0.25, 0.75], atol=0.035)


def test_a_roll_of_zero_skips_weights_of_zero():
  class Zero(dice.Dice):
    def one(self):
      return jnp.float32(0)

  assert Zero(KEY).choose(jnp.array([0.0, 0.0, 2.0, 1.0])) == 2
