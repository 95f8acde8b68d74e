"""What happens to ink on its way to a grey image: press, paper, light, lens.

Each function works on one line. Noise comes from one draw of random bits, cut
into bytes; slow fields are coarse grids enlarged by constant matrices. Blurs
are rows of taps, which a line mixes from constant ones.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.data import dice

_FIELD_ROWS = 4  # Of the grid behind a slow random field.
_BLUR_PX = 0.7  # Standard deviation of the narrower of two constant blurs.
MAX_BLUR_PX = 2 * _BLUR_PX  # Of the wider one; stronger blurs stop at it.
MAX_MOTION_PX = 2  # Reach of the constant motion blur, likewise.
SPREAD_REACH = 4  # Columns on either side that decide how ink spreads.
_LENS_REACH = 8  # Of the taps: 6 of the wider blur and 2 of motion.


def spread_ink(
  roll: dice.Dice, ink: jax.Array, *, weight: jax.Array, breaks: float
) -> jax.Array:
  """Erodes or dilates strokes, unevenly.

  Ink that spreads is a blurred shape cut at a threshold: a low one dilates, a
  high one erodes, one that wanders over the line breaks strokes here and
  thickens them there.

  Args:
    roll: Random numbers of the line.
    ink: Coverage [w + 2 * SPREAD_REACH, h] in [0, 1], column by column.
    weight: Scalar in [-1, 1]: thinner to bolder.
    breaks: How far the threshold wanders.

  Returns:
    Coverage [w, h + 1] in [0, 1]. The row added at the end is empty; added
    here it costs nothing.
  """
  width, height = ink.shape[0] - 2 * SPREAD_REACH, ink.shape[1]
  taps = _gaussian(1.0, SPREAD_REACH)
  band = np.tensordot(taps, _bands(height, SPREAD_REACH), 1).T
  soft = ink @ np.pad(band, ((0, 0), (0, 1)))
  soft = sum(tap * soft[k : k + width] for k, tap in enumerate(taps))
  wander = slow_field(roll, height + 1, width, columns_px=24).T
  uneven = breaks * jnp.maximum(2 * roll.one() - 1, 0)
  threshold = 0.42 - 0.28 * weight + uneven * wander
  spread = jnp.clip((soft - threshold) * 2.5 + 0.5, 0, 1)
  return spread * (np.arange(height + 1) < height)[None]


def ruled_lines(roll: dice.Dice, height: int, width: int, s) -> jax.Array:
  """Ink [H, W] of a horizontal and a vertical rule, near the crop's edges."""
  u = roll.take(8)
  near = jnp.where(u[0] < 0.5, 2.5 * u[1], height - 2.5 * u[1])
  y = jnp.arange(height)[:, None] + 0.5
  x = jnp.arange(width)[None] + 0.5
  across = jnp.clip(
    0.6 + u[2] - jnp.abs(y - near + (u[7] - 0.5) * x / width), 0, 1
  )
  # XLA's remainder is a call of fmod for each pixel.
  period = 4 + 6 * u[4]
  place = x - period * jnp.floor(x / period)
  dashed = (u[3] < 0.3) & (place < 2 + 2 * u[4])
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
  grain, coarse, sensor = _noise_fields(key, height, width)
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
  image = _lens(
    image,
    blur_px=s.blur * u[8] ** 1.5 + 0.5 * (pixel_px - 1),
    motion_px=s.motion * jnp.maximum(2 * u[9] - 1, 0),
    upright=u[10] < 0.3,
  )
  image = image + 0.6 * amount * sensor
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
  wide = grid @ _interpolation(columns, width).T
  # A sum and not a product of matrices: it becomes part of what reads it.
  weights = _interpolation(rows, height)
  return sum(weights[:, k, None] * wide[k][None] for k in range(rows))


def _interpolation(points: int, size: int) -> np.ndarray:
  """Constant matrix [size, points] of linear interpolation."""
  place = np.linspace(0, points - 1, size)
  weights = 1 - np.abs(place[:, None] - np.arange(points))
  return np.maximum(weights, 0).astype(np.float32)


def _noise_fields(key, height, width):
  """Three fields [H, W], roughly normal: fine, two px coarse, fine again.

  All are one field of noise, looked at in places that are pixels apart.
  """
  # Two pixels to a word.
  half = width // 2 + 4
  bits = dice.bits(key, (height + 4) * half).reshape(height + 4, half)
  bits = jnp.concatenate([bits & 0xFFFF, bits >> 16], axis=1)
  white = ((bits & 0xFF) + (bits >> 8)).astype(jnp.float32) / 127.5 - 2

  def look(down, right):
    return white[down : down + height, right : right + width]

  coarse = look(3, 0) + look(3, 1) + look(4, 0) + look(4, 1)
  return 1.2 * look(0, 0), 0.6 * coarse, 1.2 * look(0, 7)


def _gaussian(sigma: float, reach: int) -> np.ndarray:
  """Taps [2 reach + 1] of a Gaussian blur."""
  weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
  return (weights / weights.sum()).astype(np.float32)


def _bands(size: int, reach: int) -> np.ndarray:
  """Constant [2 reach + 1, size, size]: the matrix that each tap stands for.

  Edges are repeated.
  """
  places = np.arange(size)
  bands = np.zeros((2 * reach + 1, size, size), np.float32)
  for tap, offset in enumerate(range(-reach, reach + 1)):
    bands[tap, places, np.clip(places + offset, 0, size - 1)] = 1
  return bands


def _lens_kernels() -> np.ndarray:
  """Taps [2, 3, 2 _LENS_REACH + 1] of no, narrow and wide blur.

  First without motion, then with all of it.
  """
  still = _gaussian(1e-3, _LENS_REACH)
  near = _gaussian(_BLUR_PX, _LENS_REACH)
  far = np.convolve(near, _gaussian(3**0.5 * _BLUR_PX, _LENS_REACH), "same")
  kernels = np.stack([still, near, far])
  segment = np.full(2 * MAX_MOTION_PX + 1, 1 / (2 * MAX_MOTION_PX + 1))
  moved = np.stack([np.convolve(taps, segment, "same") for taps in kernels])
  both = np.stack([kernels, moved])
  return (both / both.sum(axis=-1, keepdims=True)).astype(np.float32)


def _lens_taps(blur_px, motion_px):
  """Taps [2 _LENS_REACH + 1] along an axis without motion and one with it."""
  variance = (blur_px / _BLUR_PX) ** 2
  near = jnp.clip(variance, 0, 1)
  far = jnp.clip((variance - 1) / 3, 0, 1)
  mix = jnp.stack([1 - near, near * (1 - far), near * far])
  sharp, moved = mix @ _lens_kernels()
  return sharp, sharp + jnp.clip(motion_px / MAX_MOTION_PX, 0, 1) * (
    moved - sharp
  )


def _lens(x, *, blur_px, motion_px, upright):
  """Blur of [H, W], up to `MAX_BLUR_PX`, and motion along one axis.

  Motion is a mean over a segment, up to `MAX_MOTION_PX` either way.
  """
  height, width = x.shape
  sharp, moved = _lens_taps(blur_px, motion_px)
  down = jnp.where(upright, moved, sharp)
  across = jnp.where(upright, sharp, moved)
  # Down as a product and across as a sum: a product's result is stored, while
  # of two sums the first would be made anew for each tap of the second.
  x = jnp.tensordot(down, _bands(height, _LENS_REACH), 1) @ x
  x = jnp.pad(x, ((0, 0), (_LENS_REACH, _LENS_REACH)), mode="edge")
  return sum(
    across[k] * x[:, k : k + width] for k in range(2 * _LENS_REACH + 1)
  )
