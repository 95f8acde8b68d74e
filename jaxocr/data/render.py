"""Lines of text drawn on the device, from labels to images.

A line is laid out as pen positions, its glyph columns are gathered into a
straight strip, and one bilinear warp takes the strip to the image: size,
slant, rotation, perspective, curve, dot raster, low resolution and intruding
neighbour lines are all changes of the warp's coordinates and cost no further
gather. `effects` then turns ink into a photograph. Everything is pure jnp, for
one line and one key, vmapped over the batch.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.data import atlas as atlas_lib
from jaxocr.data import dice
from jaxocr.data import effects

_OVERSAMPLE = 2  # Strip columns per image column.
_BYTES = (0, 8, 16, 24)  # Bits to shift a word by, lowest byte first.

# Largest strengths, in each field's unit; other fields stop at 1. Blurs would
# saturate in silence, crops and curves push the text out of the image.
_TOPS = {
  "curve": 8.0,
  "jitter": 8.0,
  "low_resolution": 3.0,
  "blur": effects.MAX_BLUR_PX,
  "motion": effects.MAX_MOTION_PX,
}


@dataclasses.dataclass(frozen=True)
class RenderStrengths:
  """How strong each effect may be; 0 switches it off. One draw per line."""

  size: float = 0.25  # Cap height, from 28 px down by up to this log-ratio x 2.
  stretch: float = 0.45  # Log of the widest horizontal stretch, either way.
  slant: float = 0.2  # Horizontal shear, px per px.
  rotation: float = 0.02  # Rad.
  perspective: float = 0.08  # Relative change of size over the line's width.
  curve: float = 1.0  # Sag of the baseline, px.
  spacing: float = 0.2  # Extra letter space, cap heights.
  pitch: float = 0.35  # Probability of fixed pitch, as on a receipt printer.
  jitter: float = 2.0  # Crop offset up or down, px; at the sides twice that.
  weight: float = 0.8  # Erosion and dilation of strokes, 1 = a third of a stem.
  breaks: float = 0.25  # Uneven inking that opens strokes, ink thresholds.
  dots: float = 0.1  # Probability of a dot or pixel raster (matrix printers).
  low_resolution: float = 2.0  # Largest pixel of the source, px of the image.
  neighbours: float = 0.15  # Probability of parts of the lines above and below.
  rules: float = 0.1  # Probability of a ruled line, horizontal or vertical.
  fade: float = 0.45  # Largest loss of contrast.
  patches: float = 0.5  # Ink that fades in places, share of it.
  paper: float = 0.45  # Darkest paper, share of white.
  light: float = 0.12  # Uneven lighting, share of the paper's level.
  texture: float = 0.05  # Stains and grain of the paper, grey levels.
  blur: float = 0.9  # Standard deviation, px.
  motion: float = 1.0  # Half length of motion blur, px.
  noise: float = 0.07  # Sensor noise, grey levels.
  gain: float = 0.5  # Scanner's extra contrast; it lifts black by 0.3 of it.
  inverted: float = 0.07  # Probability of light ink on dark paper.

  def validate(self) -> None:
    """Raises ValueError naming the first field that is out of range."""
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      top = _TOPS.get(field.name, 1.0)
      if not 0 <= value <= top:
        raise ValueError(
          f"strengths.{field.name}={value}; between 0 and {top:g}"
        )


# No effect at all.
NOTHING = RenderStrengths(
  **{field.name: 0.0 for field in dataclasses.fields(RenderStrengths)}
)


def render_lines(
  keys: jax.Array,
  atlas: atlas_lib.GlyphAtlas,
  labels: jax.Array,
  lengths: jax.Array,
  *,
  height: int = 32,
  width: int,
  strengths: RenderStrengths = RenderStrengths(),
) -> jax.Array:
  """Draws lines of text.

  Args:
    keys: One typed PRNG key for the batch, or [B] keys, one a line (a line then
      looks the same in whatever batch or shard it is drawn).
    atlas: Glyphs of the alphabet that the labels index.
    labels: [B, L] int32 class ids, 0-padded.
    lengths: [B] int32.
    height: H, px.
    width: W, px; long labels are condensed to fit.
    strengths: Fields are floats, or scalars traced to spare compilations.

  Returns:
    [B, H, W, 1] float32 in [0, 1].
  """
  chex.assert_rank([labels, lengths], [2, 1])
  if not keys.shape:
    keys = jax.random.split(keys, labels.shape[0])
  chex.assert_equal_shape_prefix([keys, labels, lengths], 1)
  atlas = jax.tree.map(jnp.asarray, atlas)

  def draw(key, label, length):
    shape, grain = dice.fold_in(key, 0), dice.fold_in(key, 1)
    roll = dice.Dice(shape)
    ink, draw, line_px = _draw_ink(
      roll, atlas, label, length, height, width, strengths
    )
    return effects.photograph(
      roll,
      grain,
      ink,
      strengths,
      right_px=draw["left"] + line_px + draw["right"],
      pixel_px=draw["pixel"],
    )

  return jax.vmap(draw)(keys, labels, lengths)[..., None]


def _draw_ink(roll, atlas, label, length, height, width, strengths):
  """Ink [H, W] in [0, 1], the line's draws, and the text's length, px."""
  font = _choose_font(roll, atlas, label)
  draw = draws(roll, strengths)
  left, total = _lay_out(atlas, font, label, length, draw)
  cap_px, stretch = _fit(draw, total, width)
  scale_x = cap_px / atlas_lib.CAP_PX * stretch
  strip = _gather_strip(atlas, font, label, left, scale_x, width)
  strip = effects.spread_ink(
    roll, strip, weight=draw["weight"], breaks=strengths.breaks
  )
  line_px = total * scale_x
  warp = _warp(draw, atlas, cap_px, line_px, height, width, strengths)
  rows, columns, dot_mask, is_dot = warp
  ink = _sample_bilinear(strip, rows, columns)
  # A printer's dot is there or not.
  ink = jnp.where(is_dot, jnp.clip(4 * ink - 1.2, 0, 1) * dot_mask, ink)
  ink = jnp.maximum(ink, effects.ruled_lines(roll, height, width, strengths))
  return ink, draw, line_px


def draws(roll, s):
  """All scalars that vary from line to line, by name."""
  pixel = jnp.maximum(2 * roll.one() - 1, 0)  # Half of the lines are sharp.
  return dict(
    cap=28.0 * jnp.exp(-2 * s.size * roll.one()),
    stretch=jnp.exp(roll.symmetric(s.stretch)),
    spacing=s.spacing * roll.one() ** 2 - 0.03,
    gap=0.45 + 0.4 * roll.one(),
    fixed_pitch=roll.chance(s.pitch),
    pitch=0.75 + 0.35 * roll.one(),
    slant=roll.triangular(s.slant),
    rotation=roll.triangular(s.rotation),
    perspective=roll.triangular(s.perspective),
    curve=roll.triangular(s.curve),
    left=1.0 + 2 * s.jitter * roll.one() ** 2,
    right=0.5 + 2 * s.jitter * roll.one() ** 2,
    down=roll.symmetric(s.jitter),
    weight=roll.symmetric(s.weight),
    dots=roll.chance(s.dots),
    dot_rows=8.0 + 8.0 * roll.one(),
    dot_aspect=0.8 + 0.5 * roll.one(),
    dot_radius=0.4 + 0.5 * roll.one(),
    pixel=1.0 + jnp.maximum(s.low_resolution - 1, 0) * pixel,
    above=roll.chance(s.neighbours),
    below=roll.chance(s.neighbours),
    line_gap=1.25 + 0.4 * roll.one(),
    line_shift=roll.one(),
  )


def _choose_font(roll, atlas, label):
  """A font that has every character of the label, uniformly."""
  whole = jnp.all(atlas.present[:, label], axis=1)
  return roll.choose(whole.astype(jnp.float32))


def _lay_out(atlas, font, label, length, draw):
  """Left edge of each glyph's cell [L] and the line's length, atlas px."""
  advance = atlas.advance[font, label]
  bearing = atlas.bearing[font, label]
  ink_width = atlas.ink_width[font, label]
  # Fixed pitch centres each glyph's ink in cells of one width, a little wider
  # than the font's widest digit or letter needs.
  cell = draw["pitch"] * jnp.median(atlas.advance, axis=1)[font] * 1.25
  centred = (cell - ink_width) / 2
  bearing = jnp.where(draw["fixed_pitch"], centred, bearing)
  advance = jnp.where(draw["fixed_pitch"], cell, advance)
  # Some fonts' spaces are so narrow that letter spacing hides them.
  is_gap = (ink_width == 0) & (label > 0)
  gap = draw["gap"] * atlas_lib.CAP_PX
  advance = jnp.where(is_gap, jnp.maximum(advance, gap), advance)
  advance = advance + draw["spacing"] * atlas_lib.CAP_PX
  inside = jnp.arange(label.shape[0]) < length
  advance = jnp.where(inside, jnp.maximum(advance, 1.0), 0.0)
  pen = jnp.cumsum(advance) - advance
  left = pen + bearing
  # The ink's own ends bound the line: real crops are tight.
  start = jnp.min(jnp.where(inside & (ink_width > 0), left, jnp.inf))
  end = jnp.max(jnp.where(inside, left + ink_width, -jnp.inf))
  return jnp.where(inside, left - start, 1e6), jnp.maximum(end - start, 1.0)


def _fit(draw, total, width):
  """Cap height (px) and stretch with which the line fits the width."""
  room = width - draw["left"] - draw["right"]
  natural = total * draw["cap"] / atlas_lib.CAP_PX * draw["stretch"]
  excess = jnp.maximum(natural / room, 1.0)
  # Condense first, down to 0.6; then shrink.
  condense = jnp.minimum(excess, jnp.maximum(draw["stretch"] / 0.6, 1.0))
  return draw["cap"] * condense / excess, draw["stretch"] / condense


def _gather_strip(atlas, font, label, left, scale_x, width):
  """The straight line in [0, 1], column by column.

  Each strip column takes the glyph whose cell it falls into, and the one
  before as well, so that overhanging glyphs are not cut.

  Returns:
    [W * _OVERSAMPLE + 2 * effects.SPREAD_REACH, cell height]; the reach on
    either side repeats the first and the last column.
  """
  last = width * _OVERSAMPLE - 1
  reach = effects.SPREAD_REACH
  columns = np.clip(np.arange(-reach, last + reach + 1), 0, last)
  # Atlas px from the line's start.
  x = (columns + 0.5).astype(np.float32) / (_OVERSAMPLE * scale_x)
  own = jnp.sum(left[:, None] <= x[None], axis=0) - 1
  _, classes, cell_width, cell_height = atlas.columns.shape
  cells = atlas.columns.reshape(-1, cell_height)
  first = (font * classes + label) * cell_width

  def find(glyph):
    """Whether the columns lie in the glyph's cells, and where in `cells`."""
    glyph = jnp.clip(glyph, 0, label.shape[0] - 1)
    offset = jnp.floor(x - left[glyph]).astype(jnp.int32)
    inside = (offset >= 0) & (offset < cell_width)
    return inside, jnp.where(inside, first[glyph] + offset, 0)

  # The next has begun only where its bearing passes over its neighbour.
  begun, after = find(own + 1)
  before = find(own - 1)[1]
  rows = find(own)[1], jnp.where(begun, after, before)
  ink = [cells.at[row].get(mode="promise_in_bounds") for row in rows]
  return jnp.maximum(*ink).astype(jnp.float32) / 255


def _warp(draw, atlas, cap_px, line_px, height, width, strengths):
  """Strip coordinates (rows, columns) of every image pixel, and dot shapes."""
  y = jnp.arange(height)[:, None] + 0.5
  x = jnp.arange(width)[None] + 0.5
  # Low resolution: the source had pixels of this size.
  pixel = draw["pixel"]
  y = jnp.where(pixel > 1.05, (jnp.floor(y / pixel) + 0.5) * pixel, y)
  x = jnp.where(pixel > 1.05, (jnp.floor(x / pixel) + 0.5) * pixel, x)
  # Image px relative to the line's start, middle of the cap height.
  room = jnp.maximum(height - cap_px, 4.0) / 2
  down = jnp.clip(draw["down"], -room, room)
  along = x - draw["left"]
  across = y - height / 2 - down
  along, across = bend(draw, along, across, line_px, width)
  scale_y = cap_px / atlas_lib.CAP_PX
  v = across / scale_y + atlas.baseline - atlas_lib.CAP_PX / 2
  u = along * _OVERSAMPLE
  # Parts of the lines above and below: the same text, shifted, one line off.
  gap = draw["line_gap"] * atlas_lib.CAP_PX
  top = atlas.baseline - atlas_lib.CAP_PX * 1.15
  bottom = atlas.baseline + atlas_lib.CAP_PX * 0.28
  period = 2 * line_px + 1
  other_u = u + draw["line_shift"] * 2 * line_px
  other_u = other_u - period * jnp.floor(other_u / period)
  from_above = draw["above"] & (v < top)
  from_below = draw["below"] & (v > bottom)
  hidden = (~draw["above"] & (v < top - 12)) | (
    ~draw["below"] & (v > bottom + 12)
  )
  u = jnp.where(from_above | from_below, other_u, u)
  v = jnp.where(from_above, v + gap, jnp.where(from_below, v - gap, v))
  v = jnp.where(hidden, -1e3, v)
  # A raster of dots or square pixels: read the strip at the dots' centres.
  pitch_v = atlas_lib.CAP_PX / draw["dot_rows"]
  pitch_u = pitch_v * scale_y * _OVERSAMPLE * draw["dot_aspect"]
  cell_v, cell_u = jnp.floor(v / pitch_v) + 0.5, jnp.floor(u / pitch_u) + 0.5
  off_v, off_u = v / pitch_v - cell_v, u / pitch_u - cell_u
  radius = jnp.sqrt(off_v**2 + off_u**2)
  dot_mask = jnp.clip((draw["dot_radius"] - radius) * 3 + 0.5, 0, 1)
  v = jnp.where(draw["dots"], cell_v * pitch_v, v)
  u = jnp.where(draw["dots"], cell_u * pitch_u, u)
  return v - 0.5, u - 0.5, dot_mask, draw["dots"]


def bend(draw, along, across, line_px, width):
  """Where on a straight line each pixel of a bent one lies.

  Args:
    draw: rotation, curve, perspective and slant, as of `draws`.
    along: Px from the line's start, any shape.
    across: Px below its middle.
    line_px: Its length.
    width: Of the image, px.

  Returns:
    (along, across) on the straight line.
  """
  middle = along - line_px / 2
  across = across - jnp.sin(draw["rotation"]) * middle
  reach = jnp.maximum(line_px, 1.0) / 2
  across = across - draw["curve"] * ((middle / reach) ** 2 - 0.5)
  across = across * (1 + draw["perspective"] * middle / jnp.maximum(width, 1))
  return along + draw["slant"] * across, across


def _pack_corners(strip):
  """Every 2 x 2 neighbourhood of strip [w, h] as the bytes of one word.

  The last row must be empty: it parts each column from the next.

  Returns:
    [(w + 1) h or more] uint32. Word `c h + r` holds the columns c - 1 (low
    half) and c, the rows r - 1 (low byte) and r of each; 0 outside the strip.
  """
  height = strip.shape[1]
  levels = (255 * strip + 0.5).astype(jnp.uint8).reshape(-1)
  border = jnp.zeros(height + 1, jnp.uint8)
  levels = jnp.concatenate([border, levels, border]).astype(jnp.uint32)
  size = levels.shape[0] - height - 1
  words = sum(
    levels[start : start + size] << shift
    for start, shift in zip((0, 1, height, height + 1), _BYTES, strict=True)
  )
  # XLA's CPU backend would fuse the words into the gather and make them anew
  # for every pixel, an `optimization_barrier` between them or not. It does not
  # fuse a concatenation.
  return jnp.concatenate([words, words[:1]])


def _sample_bilinear(strip, rows, columns):
  """strip [w, h], its last row empty, at fractional indices [H, W].

  0 outside. The strip is taken in 8 bits, which one gather of words reads four
  at a time.
  """
  width, height = strip.shape
  rows = jnp.clip(rows + 1, 0, height - 0.001)
  columns = jnp.clip(columns + 1, 0, width + 0.999)
  top, left = jnp.floor(rows), jnp.floor(columns)
  dv, du = rows - top, columns - left
  corner = (left * height + top).astype(jnp.int32)
  words = _pack_corners(strip)
  words = words.at[corner].get(mode="promise_in_bounds")
  levels = [((words >> shift) & 0xFF).astype(jnp.float32) for shift in _BYTES]
  here = levels[0] * (1 - dv) + levels[1] * dv
  there = levels[2] * (1 - dv) + levels[3] * dv
  return (here * (1 - du) + there * du) / 255
