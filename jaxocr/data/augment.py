"""Real lines made to look like others: the renderer's effects on photographs.

Geometry is that of `render.bend`, light and lens those of `effects.photograph`,
with what a photograph already has taken as ink. Pure jnp, a key a line.
"""

import jax
import jax.numpy as jnp
from jax.scipy import ndimage

from jaxocr.data import dice
from jaxocr.data import effects
from jaxocr.data import render

# Real lines have been bent, lit and blurred once; a third of what rendered ones
# get keeps them readable.
REAL_STRENGTHS = render.RenderStrengths(
  **dict(slant=0.07, rotation=0.01, perspective=0.03, curve=0.4, jitter=1.0),
  **dict(low_resolution=1.0, fade=0.2, patches=0.15, paper=0.15, light=0.05),
  **dict(texture=0.02, blur=0.4, motion=0.4, noise=0.03, gain=0.2),
  inverted=0.07,
)


def augment_lines(
  keys: jax.Array,
  image: jax.Array,
  width_px: jax.Array,
  strengths: render.RenderStrengths,
) -> jax.Array:
  """Bends, lights and blurs lines, each in its own way.

  Args:
    keys: [B] typed PRNG keys.
    image: [B, H, W] float32 in [0, 1].
    width_px: [B] int32, of the lines without padding.
    strengths: Of its fields count slant, rotation, perspective, curve, jitter
      and those of `effects.photograph`. What is drawn (weight, dots, rules) is
      there already.

  Returns:
    [B, H, W, 1] float32 in [0, 1].
  """
  _, height, width = image.shape

  def change(key, line, line_px):
    shape, grain = dice.fold_in(key, 0), dice.fold_in(key, 1)
    roll = dice.Dice(shape)
    draw = render.draws(roll, strengths)
    y = jnp.arange(height, dtype=jnp.float32)[:, None] + 0.5
    x = jnp.arange(width, dtype=jnp.float32)[None] + 0.5
    across = y - height / 2 - draw["down"]
    along, across = render.bend(draw, x + 0 * y, across, line_px, width)
    # Edges are repeated: outside there is more of the same paper.
    bent = ndimage.map_coordinates(
      line,
      [across + height / 2 - 0.5, along - 0.5],
      order=1,
      mode="nearest",
    )
    return effects.photograph(
      roll,
      grain,
      1 - bent,
      strengths,
      right_px=line_px,
      pixel_px=jnp.float32(1.0),
    )

  changed = jax.vmap(change)(keys, image, width_px.astype(jnp.float32))
  return changed[..., None]
