"""From a photo of a digit to an image like MNIST's, in named steps.

MNIST's digits are light on dark, 20 px at their longest side, with their centre
of mass in the middle of 28x28 (LeCun et al. 1998, section III.A).

  photo -> grey -> denoise -> binarise -> deskew -> place
"""

import numpy as np
import PIL.Image
from scipy import ndimage

from jaxocr.data import digit_augment
from jaxocr.data import digits
from jaxocr.data import preprocess

_INSIDE_PX = 20
_SMALL_PX, _LARGE_PX = 64, 256  # Sides of an image.
_LEVELS = 256


def unit(images: np.ndarray) -> np.ndarray:
  """uint8 of any shape to float32 in [0, 1]."""
  return np.asarray(images, np.float32) / 255


def standard(images: np.ndarray) -> np.ndarray:
  """uint8 of any shape to float32 of MNIST's mean .1307 and deviation .3081."""
  return (unit(images) - np.float32(digit_augment.MEAN)) / np.float32(
    digit_augment.STD
  )


def unflatten(rows: np.ndarray) -> np.ndarray:
  """[N, 784] to [N, 28, 28, 1], row by row.

  Raises:
    ValueError: Rows of another length.
  """
  side = digits.SIZE_PX
  if rows.ndim != 2 or rows.shape[1] != side * side:
    raise ValueError(
      f"got an array {rows.shape}; it must be [N, {side * side}], one image of "
      f"{side}x{side} a row"
    )
  return rows.reshape(-1, side, side, 1)


def grey(source) -> np.ndarray:
  """[h, w] uint8 of whatever `preprocess.load_image` takes."""
  return preprocess.load_image(source)


def denoise(image: np.ndarray, *, size: int = 3) -> np.ndarray:
  """Median of each size x size window; single wrong pixels go."""
  return ndimage.median_filter(image, size=size, mode="nearest")


def otsu_threshold(image: np.ndarray) -> int:
  """The level t for which `<= t` and `> t` differ most (Otsu 1979, eq. 18).

  Of levels that do equally well, the lowest.

  Args:
    image: [h, w] uint8.
  """
  counts = np.bincount(image.reshape(-1), minlength=_LEVELS).astype(np.float64)
  below = np.cumsum(counts)
  mass = np.cumsum(counts * np.arange(_LEVELS))
  above = below[-1] - below
  with np.errstate(divide="ignore", invalid="ignore"):
    apart = mass / below - (mass[-1] - mass) / above
    between = np.nan_to_num(below * above * apart**2)
  return int(np.argmax(between))


def binarise_otsu(image: np.ndarray) -> np.ndarray:
  """True where [h, w] uint8 is above Otsu's level."""
  return image > otsu_threshold(image)


def binarise_adaptive(
  image: np.ndarray, *, window: int = 31, offset: float = 10.0
) -> np.ndarray:
  """True where a pixel is no darker than its neighbourhood.

  Uneven light moves the neighbourhood's mean with it.

  Args:
    image: [h, w] uint8.
    window: Side of the neighbourhood, px.
    offset: Grey levels by which it must be darker to be False.
  """
  mean = ndimage.uniform_filter(
    image.astype(np.float32), size=window, mode="nearest"
  )
  return image > mean - offset


def deskew(image: np.ndarray) -> np.ndarray:
  """A digit [h, w] of ink > 0, sheared so that it stands upright.

  The slant is the regression of columns on rows, mu_11 / mu_02.
  """
  image = np.asarray(image, np.float32)
  total = image.sum()
  if not total:
    return image
  rows, columns = np.indices(image.shape)
  row, column = ndimage.center_of_mass(image)
  spread = (image * (rows - row) ** 2).sum() / total
  if spread < 1e-6:
    return image
  slant = (image * (rows - row) * (columns - column)).sum() / total / spread
  # Output (r, c) is taken from (r, c + slant (r - row)).
  return ndimage.affine_transform(
    image, np.array([[1, 0], [slant, 1]]), (0, -slant * row), order=1
  )


def place(ink: np.ndarray) -> np.ndarray:
  """Ink [h, w] in [0, 1] as MNIST has it, [28, 28] uint8.

  Cropped, scaled to 20 px at the longest side, the centre of mass moved to the
  middle.

  Raises:
    preprocess.PreprocessError: There is no ink.
  """
  found = np.argwhere(ink > 0)
  if not len(found):
    raise preprocess.PreprocessError(
      "no digit: all of the image is of one brightness"
    )
  (top, left), (bottom, right) = found.min(0), found.max(0) + 1
  cut = ink[top:bottom, left:right]
  factor = _INSIDE_PX / max(cut.shape)
  size = [max(1, round(side * factor)) for side in cut.shape[::-1]]
  grey = PIL.Image.fromarray(np.round(cut * 255).astype(np.uint8))
  small = np.asarray(grey.resize(size, PIL.Image.Resampling.BOX), np.float32)
  side = digits.SIZE_PX
  height, width = small.shape
  centre = ndimage.center_of_mass(small)
  corner = [
    int(np.clip(round(side / 2 - c - 0.5), 0, side - n))
    for c, n in zip(centre, (height, width), strict=True)
  ]
  placed = np.zeros((side, side), np.uint8)
  placed[corner[0] : corner[0] + height, corner[1] : corner[1] + width] = small
  return placed


def from_photo(source, *, adaptive: bool = True) -> np.ndarray:
  """A photo of one digit, dark on light or light on dark, as MNIST has it.

  Args:
    source: As `preprocess.load_image` takes it.
    adaptive: Whether the threshold follows the light; else it is Otsu's.

  Returns:
    [28, 28] uint8, ink light on dark.

  Raises:
    preprocess.PreprocessError: It cannot be read, or there is no digit.
  """
  image = grey(source)
  if max(image.shape) > _LARGE_PX:  # Windows mean the same in all photos.
    scale = _LARGE_PX / max(image.shape)
    size = [max(1, round(side * scale)) for side in image.shape[::-1]]
    resized = PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BOX)
    image = np.asarray(resized)
  if preprocess.background(image) < 128:
    image = 255 - image  # Ink is dark from here on.
  if min(image.shape) > _SMALL_PX:  # Strokes of small ones are as specks.
    image = denoise(image)
  if adaptive and min(image.shape) > _SMALL_PX:
    light = binarise_adaptive(image, window=max(image.shape) // 2 | 1)
  else:
    light = binarise_otsu(image)
  ink = _largest(~light)
  return place(np.clip(deskew(ink.astype(np.float32)), 0, 1))


def _largest(ink: np.ndarray) -> np.ndarray:
  """Ink without specks: parts of under a tenth of the largest one's pixels."""
  parts, count = ndimage.label(ink, structure=np.ones((3, 3)))
  if not count:
    return ink
  sizes = np.bincount(parts.reshape(-1))
  sizes[0] = 0
  return (sizes >= 0.1 * sizes.max())[parts] & ink
