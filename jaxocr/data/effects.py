"""What happens to ink on its way to a grey image: press, paper, light, lens.

Each function works on one line. Noise comes from one draw of random bits per
pixel, cut into bytes; slow fields are coarse grids enlarged by constant
matrices. Blurs are mixed from products with constant matrices: they become one
matrix product for the whole batch, where shifted adds are fused and computed
again for every tap.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.data import dice

_FIELD_ROWS = 4  # Of the grid behind a slow random field.
_BLUR_PX = 0.7  # Standard deviation of the narrower of two constant blurs.
MAX_BLUR_PX = 2 * _BLUR_PX  # Of the wider one; stronger blurs stop at it.
MAX_MOTION_PX = 2  # Reach of the constant motion blur, likewise.


def spread_ink(
  roll: dice.Dice, ink: jax.Array, *, weight: jax.Array, breaks: float
) -> jax.Array:
  """Erodes or dilates strokes, unevenly.

  Ink that spreads is a blurred shape cut at a threshold: a low one dilates, a
  high one erodes, one that wanders over the line breaks strokes here and
  thickens them there.

  Args:
    roll: Random numbers of the line.
    ink: Coverage [h, w] in [0, 1].
    weight: Scalar in [-1, 1]: thinner to bolder.
    breaks: How far the threshold wanders.

  Returns:
    Coverage [h, w] in [0, 1].
  """
  soft = _blur_both(ink, 1.0)
  wander = slow_field(roll, *ink.shape, columns_px=24)
  uneven = breaks * jnp.maximum(2 * roll.one() - 1, 0)
  threshold = 0.42 - 0.28 * weight + uneven * wander
  return jnp.clip((soft - threshold) * 2.5 + 0.5, 0, 1)


def ruled_lines(roll: dice.Dice, height: int, width: int, s) -> jax.Array:
  """Ink [H, W] of a horizontal and a vertical rule, near the crop's edges."""
  u = roll.take(8)
  near = jnp.where(u[0] < 0.5, 2.5 * u[1], height - 2.5 * u[1])
  y = jnp.arange(height)[:, None] + 0.5
  x = jnp.arange(width)[None] + 0.5
  across = jnp.clip(
    0.6 + u[2] - jnp.abs(y - near + (u[7] - 0.5) * x / width), 0, 1
  )
  dashed = (u[3] < 0.3) & (jnp.mod(x, 4 + 6 * u[4]) < 2 + 2 * u[4])
  across = jnp.where(dashed, 0.0, across)
  # Upright rules stand left of the text, where its margin is.
  upright = jnp.clip(0.6 + u[2] - jnp.abs(x - 1.2 * u[5]), 0, 1)
  across = jnp.where(u[6] < s.rules, across, 0.0)
  upright = jnp.where(u[6] > 1 - s.rules / 3, upright, 0.0)
  return jnp.maximum(across, upright)


def photograph(
  roll: dice.Dice,
  key: jax.Array,
  ink: jax.Array,
  s,
  *,
  right_px: jax.Array,
  pixel_px: jax.Array,
) -> jax.Array:
  """Turns ink into a grey image.

  Args:
    roll: Random numbers of the line.
    key: PRNG key, for the noise of single pixels.
    ink: Coverage [H, W] in [0, 1].
    s: `render.RenderStrengths`.
    right_px: Where the line's crop ends; what lies right of it is flat
      background in most lines, as `preprocess.pad_to_bucket` makes it.
    pixel_px: Size of the source's pixels, which enlarging has smoothed.

  Returns:
    [H, W] float32 in [0, 1].
  """
  height, width = ink.shape
  u = roll.take(15)
  grain, coarse = _noise_fields(key, height, width)
  contrast = 1 - s.fade * u[0] ** 1.5
  paper = 1 - s.paper * u[1] ** 2
  light = s.light * slow_field(roll, height, width) * u[2]
  stains = s.texture * slow_field(roll, height, width, columns_px=5) * u[3]
  fading = 1 - s.patches * u[4] ** 2 * (1 + slow_field(roll, height, width))
  level = paper * (1 + light) + stains + 0.5 * s.texture * u[5] * coarse
  # Noise before the lens is grain of paper and print; after it, the sensor's.
  amount = s.noise * u[6] ** 2
  level = level + amount * u[7] * 2 * grain * (0.3 + ink)
  image = level * (1 - ink * contrast * jnp.clip(fading, 0, 1))
  image = _blur(image, s.blur * u[8] ** 1.5 + 0.5 * (pixel_px - 1))
  image = _motion_blur(
    image, s.motion * jnp.maximum(2 * u[9] - 1, 0), u[10] < 0.3
  )
  image = image + 0.6 * amount * jnp.roll(grain, 7, axis=1)
  # The scanner's own black and white point: some clip the paper to pure white.
  gain = 1 + s.gain * u[11] ** 2
  lift = 0.3 * s.gain * u[12] ** 3
  image = jnp.clip(1 - (1 - image) * gain + lift, 0, 1)
  # Behind the crop's right edge there is only padding.
  inside = jnp.arange(width)[None] + 0.5 < right_px
  border = jnp.where(inside, image[:1] + image[-1:], 0.0) / 2
  flat = jnp.sum(border) / jnp.maximum(jnp.sum(inside), 1)
  image = jnp.where(inside | (u[13] < 0.25), image, flat)
  return jnp.where(u[14] < s.inverted, 1 - image, image)


def slow_field(
  roll: dice.Dice, height: int, width: int, *, columns_px: int = 48
) -> jax.Array:
  """Smooth random field [height, width] in [-1, 1]."""
  rows, columns = _FIELD_ROWS, max(2, -(-width // columns_px) + 1)
  grid = 2 * roll.take(rows, columns) - 1
  return _interpolation(rows, height) @ grid @ _interpolation(columns, width).T


def _interpolation(points: int, size: int) -> np.ndarray:
  """Constant matrix [size, points] of linear interpolation."""
  place = np.linspace(0, points - 1, size)
  weights = 1 - np.abs(place[:, None] - np.arange(points))
  return np.maximum(weights, 0).astype(np.float32)


def _noise_fields(key, height, width):
  """Two fields [H, W], roughly normal: fine, and two px coarse."""
  bits = jax.random.bits(key, (height, width), jnp.uint32)
  parts = [(bits >> shift) & 0xFF for shift in (0, 8, 16, 24)]
  a, b, c, d = [part.astype(jnp.float32) / 127.5 - 1 for part in parts]
  coarse = c + d
  coarse = coarse + jnp.roll(coarse, 1, 0)
  coarse = (coarse + jnp.roll(coarse, 1, 1)) * 0.6
  return (a + b) * 1.2, coarse


def _gaussian(size: int, sigma: float) -> np.ndarray:
  """Constant matrix [size, size] of a Gaussian blur, edges repeated."""
  offsets = np.arange(-4 * size, 5 * size)
  inside = np.clip(offsets, 0, size - 1)
  place = np.arange(size)[:, None]
  weights = np.exp(-((place - offsets) ** 2) / (2 * sigma**2))
  matrix = np.zeros((size, size))
  np.add.at(matrix.T, inside, weights.T)
  return (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)


def _blur_both(x: jax.Array, sigma: float) -> jax.Array:
  """Gaussian blur of [h, w] by two products with constant matrices."""
  height, width = x.shape
  return _gaussian(height, sigma) @ (x @ _gaussian(width, sigma).T)


def _blur(x, sigma):
  """Gaussian blur of up to `MAX_BLUR_PX`, mixed from two constant ones."""
  once = _blur_both(x, _BLUR_PX)
  twice = _blur_both(once, 3**0.5 * _BLUR_PX)
  variance = (sigma / _BLUR_PX) ** 2
  near = jnp.clip(variance, 0, 1)
  far = jnp.clip((variance - 1) / 3, 0, 1)
  return x + near * (once - x) + near * far * (twice - once)


def _segment(size: int, reach: int) -> np.ndarray:
  """Constant matrix [size, size]: mean of 2 reach + 1 neighbours."""
  distance = np.abs(np.arange(size)[:, None] - np.arange(size))
  matrix = (distance <= reach).astype(np.float32)
  return matrix / matrix.sum(axis=1, keepdims=True)


def _motion_blur(x, reach, upright):
  """Mean over a segment, up to `MAX_MOTION_PX` either way, along one axis."""
  height, width = x.shape
  across = x @ _segment(width, MAX_MOTION_PX).T
  down = _segment(height, MAX_MOTION_PX) @ x
  amount = jnp.clip(reach / MAX_MOTION_PX, 0, 1)
  return x + amount * (jnp.where(upright, down, across) - x)
