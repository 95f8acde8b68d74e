"""Steps from a photo of a digit to an image like MNIST's."""

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
from scipy import ndimage

from jaxocr.data import digit_image
from jaxocr.data import preprocess


def draw_seven(size=200, *, dark=True, gradient=0.0, slant=0):
  """A photo of a hand-drawn 7, off the middle, perhaps in uneven light."""
  image = PIL.Image.new("L", (size, size), 210)
  pen = PIL.ImageDraw.Draw(image)
  points = [(40, 40), (110, 40), (70 - slant, 140)]
  pen.line(points, fill=60, width=10)
  pixels = np.asarray(image, np.float32)
  pixels = pixels * (1 - gradient * np.linspace(0, 1, size))[None]
  pixels = np.round(pixels).astype(np.uint8)
  return pixels if dark else 255 - pixels


def test_normalisations_by_hand():
  assert digit_image.unit(np.array([0, 51, 255], np.uint8)).tolist() == [
    0.0,
    pytest.approx(0.2),
    1.0,
  ]
  np.testing.assert_allclose(
    digit_image.standard(np.array([0, 255], np.uint8)),
    [-0.4242129, 2.8214867],  # As torchvision's transforms give them.
    rtol=1e-6,
  )


def test_unflatten():
  rows = np.arange(2 * 784).reshape(2, 784)
  images = digit_image.unflatten(rows)
  assert images.shape == (2, 28, 28, 1)
  assert images[1, 2, 3, 0] == 784 + 2 * 28 + 3
  with pytest.raises(ValueError, match=r"must be \[N, 784\]"):
    digit_image.unflatten(rows[:, :-1])


def test_otsu_is_the_best_of_all_levels():
  rng = np.random.default_rng(0)
  image = np.concatenate([rng.normal(80, 20, 900), rng.normal(170, 25, 300)])
  image = np.clip(image, 0, 255).astype(np.uint8).reshape(30, 40)

  def within(level):
    low, high = image[image <= level], image[image > level]
    return sum(part.size * part.var() for part in (low, high) if part.size)

  best = min(range(256), key=within)
  assert digit_image.otsu_threshold(image) == best
  two = np.array([[10, 10, 200, 200]], np.uint8)
  assert digit_image.binarise_otsu(two).tolist() == [[0, 0, 1, 1]]


def test_adaptive_follows_the_light_where_otsu_does_not():
  photo = draw_seven(gradient=0.8)
  truth = draw_seven() < 128
  adaptive = ~digit_image.binarise_adaptive(photo, window=101)
  otsu = ~digit_image.binarise_otsu(photo)
  assert (adaptive == truth).mean() > 0.98 > (otsu == truth).mean()


def test_median_takes_single_pixels_away():
  image = np.full((5, 5), 100, np.uint8)
  image[2, 2] = 255
  assert (digit_image.denoise(image) == 100).all()


def test_deskew_sets_a_slanted_bar_upright():
  rows, columns = np.indices((28, 28))
  bar = (np.abs(columns - (20 - 0.5 * (rows - 4))) <= 2) & (rows >= 4)
  bar = (bar & (rows < 24)).astype(np.float32)
  upright = digit_image.deskew(bar)

  def slant(image):
    row, column = ndimage.center_of_mass(image)
    down = rows - row
    return (image * down * (columns - column)).sum() / (image * down**2).sum()

  assert slant(bar) == pytest.approx(-0.5, abs=0.02)
  assert abs(slant(upright)) < 0.02
  assert upright.sum() == pytest.approx(bar.sum(), rel=0.02)
  assert not digit_image.deskew(np.zeros((4, 4))).any()


def test_placed_digits_are_20_px_high_and_centred():
  ink = np.zeros((100, 60), np.float32)
  ink[10:90, 20:30] = 1
  ink[80:90, 20:50] = 1
  placed = digit_image.place(ink)
  assert placed.shape == (28, 28) and placed.dtype == np.uint8
  used = np.argwhere(placed > 0)
  assert np.ptp(used, axis=0)[0] + 1 == 20
  centre = np.array(ndimage.center_of_mass(placed))
  assert np.abs(centre - 13.5).max() <= 0.5


@pytest.mark.parametrize("dark", [True, False])
@pytest.mark.parametrize("gradient", [0.0, 0.5])
def test_a_photo_becomes_light_on_dark_wherever_the_digit_stood(dark, gradient):
  plain = digit_image.from_photo(draw_seven())
  found = digit_image.from_photo(draw_seven(dark=dark, gradient=gradient))
  shared = (np.minimum(plain, found) > 127).sum()
  either = (np.maximum(plain, found) > 127).sum()
  assert plain.mean() < 100 and shared / either > 0.9
  upright = digit_image.from_photo(draw_seven(slant=20))
  assert (np.minimum(plain, upright) > 127).sum() > 0.6 * (plain > 127).sum()


def test_an_empty_photo_is_told():
  with pytest.raises(preprocess.PreprocessError, match="no digit"):
    digit_image.from_photo(np.full((80, 80), 200, np.uint8))
