"""Blurs and fields against hand-computed numbers; ink that spreads."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.data import dice
from jaxocr.data import effects
from jaxocr.data import render

OFF = render.RenderStrengths(
  **{f.name: 0.0 for f in dataclasses.fields(render.RenderStrengths)}
)
SIZE, MIDDLE = 33, 16


def _roll(seed=0):
  return dice.Dice(jax.random.key(seed))


def _impulse():
  return jnp.zeros((SIZE, SIZE)).at[MIDDLE, MIDDLE].set(1.0)


def _variance(weights):
  """Of a distribution over SIZE places, around the middle."""
  return float(np.sum(np.asarray(weights) * (np.arange(SIZE) - MIDDLE) ** 2))


@pytest.mark.parametrize(
  "matrix",
  [
    effects._gaussian(SIZE, 0.7),
    effects._gaussian(5, 1.0),
    effects._segment(SIZE, 2),
    effects._segment(2, 2),
    effects._interpolation(4, 32),
  ],
)
def test_matrices_keep_what_is_constant(matrix):
  np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
  assert matrix.min() >= 0


def test_gaussian_rows():
  """exp(-k^2 / 0.98) = 1, 0.36045, 0.01688, 0.00010; their sum is 1.75486."""
  matrix = effects._gaussian(SIZE, 0.7)
  np.testing.assert_allclose(
    matrix[MIDDLE, MIDDLE : MIDDLE + 4],
    [0.56984, 0.20540, 0.00962, 0.00006],
    atol=1e-5,
  )
  assert _variance(matrix[MIDDLE]) == pytest.approx(0.4888, abs=1e-4)
  # The edge repeats: the first place stands for all before it.
  assert matrix[0, 0] == pytest.approx(0.56984 + 0.21508, abs=2e-5)


def test_segment_and_interpolation_by_hand():
  np.testing.assert_allclose(
    effects._segment(4, 1),
    np.array([[3, 3, 0, 0], [2, 2, 2, 0], [0, 2, 2, 2], [0, 0, 3, 3]]) / 6,
    atol=1e-6,
  )
  assert _variance(effects._segment(SIZE, 2)[MIDDLE]) == pytest.approx(2.0)
  np.testing.assert_allclose(
    effects._interpolation(2, 3), [[1, 0], [0.5, 0.5], [0, 1]]
  )


@pytest.mark.parametrize("sigma", [0.0, 0.4, 0.7, 1.0, effects.MAX_BLUR_PX])
def test_a_mixed_blur_has_the_variance_asked_for(sigma):
  blurred = effects._blur(_impulse(), sigma)
  assert float(blurred.sum()) == pytest.approx(1, abs=1e-5)
  for axis in (0, 1):
    # Discrete weights of sigma 0.7 fall 0.001 short of 0.49.
    assert _variance(blurred.sum(axis=axis)) == pytest.approx(
      sigma**2, abs=0.002
    )


def test_motion_blurs_one_axis():
  across = effects._motion_blur(_impulse(), 2.0, upright=False)
  expected = np.zeros((SIZE, SIZE))
  expected[MIDDLE, MIDDLE - 2 : MIDDLE + 3] = 0.2
  np.testing.assert_allclose(across, expected, atol=1e-6)
  down = effects._motion_blur(_impulse(), 2.0, upright=True)
  np.testing.assert_allclose(down, expected.T, atol=1e-6)
  still = effects._motion_blur(_impulse(), 0.0, upright=True)
  np.testing.assert_array_equal(still, _impulse())


def test_slow_fields_stay_in_range_and_are_slow():
  for seed in range(4):
    field = np.asarray(effects.slow_field(_roll(seed), 32, 96))
    assert field.shape == (32, 96)
    assert np.abs(field).max() <= 1 and np.ptp(field) > 0.5
    # From one grid point to the next, 32 px or more away, at most 2.
    assert np.abs(np.diff(field, axis=1)).max() <= 2 / 31
  other = np.asarray(effects.slow_field(_roll(9), 32, 96))
  assert np.abs(field - other).max() > 0.1


@pytest.mark.parametrize("breaks", [0.0, 0.5])
def test_more_weight_never_takes_ink_away(breaks):
  ink = jnp.zeros((32, 48)).at[8:24, 10:13].set(1.0).at[8:24, 30:31].set(1.0)
  spread = [
    effects.spread_ink(_roll(), ink, weight=weight, breaks=breaks)
    for weight in (-1.0, 0.0, 1.0)
  ]
  for thin, bold in itertools.pairwise(spread):
    assert (bold >= thin).all()
    assert bold.sum() > 1.2 * thin.sum()
  assert jnp.stack(spread).min() >= 0 and jnp.stack(spread).max() <= 1


def test_rules_come_when_asked_for():
  none = effects.ruled_lines(_roll(), 32, 96, OFF)
  assert not none.any()
  always = dataclasses.replace(OFF, rules=1.0)
  for seed in range(4):
    ruled = effects.ruled_lines(_roll(seed), 32, 96, always)
    assert ruled.max() > 0.5
    assert not ruled[4:-4, 8:].any()  # At the edges: not across the text.


def test_a_photograph_without_effects_is_the_ink():
  ink = jnp.linspace(0, 1, 32 * 48).reshape(32, 48)

  @jax.jit
  def photograph(key):
    return effects.photograph(
      dice.Dice(key), key, ink, OFF, right_px=48.0, pixel_px=1.0
    )

  for seed in range(8):
    image = photograph(jax.random.key(seed))
    np.testing.assert_allclose(image, 1 - ink, atol=1e-6)
