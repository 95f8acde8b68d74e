"""Movements of digits: hand-made cases and SciPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxocr.data import digit_augment


def test_no_movement_is_no_change():
  image = jnp.arange(12.0).reshape(3, 4)
  moved = digit_augment.move(image, jax.random.key(0), digit_augment.Movement())
  np.testing.assert_array_equal(moved, image)


def test_bilinear_is_scipys():
  rng = np.random.default_rng(0)
  image = rng.random((6, 7)).astype(np.float32)
  rows, columns = rng.uniform(-2, 8, (2, 6, 7)).astype(np.float32)
  ours = digit_augment._bilinear(jnp.array(image), rows, columns)
  theirs = ndimage.map_coordinates(
    np.pad(image, 1), (rows + 1, columns + 1), order=1, mode="constant"
  )
  inside = (np.abs(rows - 2.5) < 3.4) & (np.abs(columns - 3) < 3.9)
  np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-5)


@pytest.mark.parametrize(
  "movement",
  [
    digit_augment.Movement(shift_px=2),
    digit_augment.Movement(rotate=0.3),
    digit_augment.Movement(scale=0.2),
    digit_augment.Movement(shear=0.3),
  ],
)
def test_movements_stay_within_their_bounds(movement):
  """The centre of mass and the spread of a square say what was done."""
  image = np.zeros((28, 28), np.float32)
  image[9:19, 9:19] = 1
  keys = jax.random.split(jax.random.key(1), 64)
  moved = np.asarray(
    jax.vmap(lambda k: digit_augment.move(jnp.array(image), k, movement))(keys)
  )
  centres = np.array([ndimage.center_of_mass(m) for m in moved]) - 13.5
  mass = moved.sum((1, 2)) / image.sum()
  bound = movement.shift_px + 1e-3
  assert np.abs(centres).max() <= bound
  if movement.shift_px:
    assert np.abs(centres).max(0).min() > 0.8 * bound
  else:
    assert np.abs(moved - image).max() > 0.1
  # A scale of +-0.2 in two directions; the rest keeps areas.
  widest = np.exp(2 * movement.scale) * 1.03
  assert mass.max() < widest and mass.min() > 1 / widest


def test_samples_are_standardised_and_follow_their_keys():
  images = jnp.full((2, 4, 4), 255, jnp.uint8)
  labels = jnp.array([3, 7])
  keys = jax.random.split(jax.random.key(0), 2)
  still = digit_augment.Movement()
  batch = digit_augment.make_sample(still, standard=True)(
    (images, labels), keys
  )
  np.testing.assert_allclose(batch.image, (1 - 0.1307) / 0.3081, rtol=1e-6)
  assert batch.image.shape == (2, 4, 4, 1) and batch.label.tolist() == [
    [3],
    [7],
  ]
  plain = digit_augment.make_sample(still, standard=False)
  assert float(plain((images, labels), keys).image.max()) == 1.0
  shifts = digit_augment.make_sample(
    digit_augment.Movement(shift_px=1), standard=False
  )
  one, two = shifts((images, labels), keys).image
  assert not np.array_equal(one, two)
  alone = shifts((images[1:], labels[1:]), keys[1:]).image[0]
  np.testing.assert_array_equal(alone, two)
