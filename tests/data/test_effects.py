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

OFF = render.NOTHING
SIZE, MIDDLE = 33, 16


def _roll(seed=0):
  return dice.Dice(jax.random.key(seed))


def _impulse():
  return jnp.zeros((SIZE, SIZE)).at[MIDDLE, MIDDLE].set(1.0)


def _variance(weights):
  """Of a distribution over SIZE places, around the middle."""
  return float(np.sum(np.asarray(weights) * (np.arange(SIZE) - MIDDLE) ** 2))


@pytest.mark.parametrize(
  "weights",
  [
    effects._gaussian(0.7, 8),
    effects._bands(5, 2)[3],
    effects._lens_kernels(),
    effects._interpolation(4, 32),
  ],
)
def test_weights_keep_what_is_constant(weights):
  np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-6)
  assert weights.min() >= 0


def test_gaussian_taps():
  """exp(-k^2 / 0.98) = 1, 0.36045, 0.01688, 0.00010; their sum is 1.75486."""
  taps = effects._gaussian(0.7, MIDDLE)
  np.testing.assert_allclose(
    taps[MIDDLE : MIDDLE + 4], [0.56984, 0.20540, 0.00962, 0.00006], atol=1e-5
  )
  assert _variance(taps) == pytest.approx(0.4888, abs=1e-4)


def test_bands_and_interpolation_by_hand():
  # The edge repeats: the first place stands for all before it.
  matrix = np.tensordot([0.25, 0.5, 0.25], effects._bands(3, 1), 1)
  np.testing.assert_allclose(
    matrix, np.array([[3, 1, 0], [1, 2, 1], [0, 1, 3]]) / 4
  )
  # Taps are not mirrored: the last one reads what comes after.
  np.testing.assert_array_equal(
    effects._bands(3, 1)[2], [[0, 1, 0], [0, 0, 1], [0, 0, 1]]
  )
  np.testing.assert_allclose(
    effects._interpolation(2, 3), [[1, 0], [0.5, 0.5], [0, 1]]
  )


@pytest.mark.parametrize("sigma", [0.0, 0.4, 0.7, 1.0, effects.MAX_BLUR_PX])
def test_a_mixed_blur_has_the_variance_asked_for(sigma):
  blurred = effects._lens(
    _impulse(), blur_px=sigma, motion_px=0.0, upright=False
  )
  assert float(blurred.sum()) == pytest.approx(1, abs=1e-5)
  for axis in (0, 1):
    # Discrete weights of sigma 0.7 fall 0.001 short of 0.49.
    assert _variance(blurred.sum(axis=axis)) == pytest.approx(
      sigma**2, abs=0.002
    )


def test_motion_blurs_one_axis():
  def move(motion_px, upright):
    return effects._lens(
      _impulse(), blur_px=0.0, motion_px=motion_px, upright=upright
    )

  expected = np.zeros((SIZE, SIZE))
  expected[MIDDLE, MIDDLE - 2 : MIDDLE + 3] = 0.2
  np.testing.assert_allclose(move(2.0, False), expected, atol=1e-6)
  np.testing.assert_allclose(move(2.0, True), expected.T, atol=1e-6)
  np.testing.assert_array_equal(move(0.0, True), _impulse())


def test_edges_are_as_if_they_went_on():
  image = jnp.zeros((SIZE, SIZE)).at[:, :9].set(1.0)
  blurred = effects._lens(image, blur_px=1.0, motion_px=2.0, upright=False)
  np.testing.assert_allclose(blurred[:, 0], 1, atol=1e-5)
  np.testing.assert_allclose(blurred[:, -1], 0, atol=1e-5)
  np.testing.assert_allclose(blurred[0], blurred[MIDDLE], atol=1e-5)


def test_blur_is_close_to_scipys():
  ndimage = pytest.importorskip("scipy.ndimage")
  image = np.random.default_rng(0).random((SIZE, SIZE)).astype(np.float32)
  for sigma in (0.7, effects.MAX_BLUR_PX):
    blurred = effects._lens(image, blur_px=sigma, motion_px=0.0, upright=False)
    peer = ndimage.gaussian_filter(image, sigma, mode="nearest")
    np.testing.assert_allclose(blurred, peer, atol=0.02)


def test_noise_is_as_strong_as_promised():
  """1.2 (a + b), a and b in [-1, 1]; coarse: 0.6 times the sum of 4 a + b."""
  fine, coarse, again = effects._noise_fields(jax.random.key(0), 256, 128)
  # The variance of 256 even steps over [-1, 1] is 257 / 255 / 3.
  assert float(fine.var()) == pytest.approx(1.44 * 2 / 3 * 1.008, rel=0.03)
  assert float(again.var()) == pytest.approx(1.44 * 2 / 3 * 1.008, rel=0.03)
  assert float(coarse.var()) == pytest.approx(1.44 * 2 / 3 * 1.008, rel=0.05)
  flat = [np.ravel(field) for field in (fine, coarse, again)]
  np.testing.assert_allclose(np.corrcoef(flat), np.eye(3), atol=0.03)
  for field, beside in ((fine, 0.0), (coarse, 0.5)):
    for a, b in (
      (field[1:], field[:-1]),
      (field[:, 1:], field[:, :-1]),
    ):
      pair = np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]
      assert pair == pytest.approx(beside, abs=0.03)


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
  ink = jnp.zeros((56, 32)).at[14:17, 8:24].set(1.0).at[34:35, 8:24].set(1.0)
  spread = [
    effects.spread_ink(_roll(), ink, weight=weight, breaks=breaks)
    for weight in (-1.0, 0.0, 1.0)
  ]
  for thin, bold in itertools.pairwise(spread):
    assert (bold >= thin).all()
    assert bold.sum() > 1.2 * thin.sum()
  assert jnp.stack(spread).min() >= 0 and jnp.stack(spread).max() <= 1
  assert spread[0].shape == (48, 33) and not spread[2][:, -1].any()


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
