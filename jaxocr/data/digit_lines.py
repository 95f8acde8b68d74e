"""Lines of handwritten numbers: an atlas whose cells are real digits.

The renderer takes the same atlas as for fonts. A "font" here is a drawer of
digits of many hands, a few of each class; each character of a line is another
of them, so that a doubled digit is not a doubled image.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.data import atlas as atlas_lib
from jaxocr.data import batch as batch_lib
from jaxocr.data import idx
from jaxocr.data import render
from jaxocr.text import alphabet as alphabet_lib

EACH = 20  # Images of a class in a drawer.
_GAP_PX = 3.0  # Between digits, at the atlas' size, before letter spacing.


def build_atlas(digits: idx.Digits) -> atlas_lib.GlyphAtlas:
  """Digits in drawers; glyph g shows digit (g - 1) % 10 in each of them.

  Classes are of unequal size: what does not fill a last drawer is left over.

  Args:
    digits: [N, 28, 28], light on dark.

  Raises:
    ValueError: Some class has less than EACH images.
  """
  by_class = [
    np.flatnonzero(digits.labels == digit) for digit in range(idx.CLASSES)
  ]
  drawers = min(map(len, by_class)) // EACH
  if not drawers:
    raise ValueError(
      f"the rarest digit has {min(map(len, by_class))} images; lines take "
      f"{EACH} of each at least"
    )
  # [drawers, EACH, classes]: the class changes fastest.
  chosen = np.stack(
    [of[: drawers * EACH].reshape(drawers, EACH) for of in by_class], axis=-1
  )
  images = digits.images[chosen.reshape(drawers, -1)]
  columns = images.transpose(0, 1, 3, 2)  # Of a cell, one after the other.
  ink = columns.max(axis=3) > 0
  first = ink.argmax(axis=2)
  width = ink.shape[2] - ink[:, :, ::-1].argmax(axis=2) - first
  places = np.arange(columns.shape[2])[None, None] + first[..., None]
  moved = np.take_along_axis(
    columns, np.minimum(places, columns.shape[2] - 1)[..., None], axis=2
  )
  moved *= (places < columns.shape[2])[..., None]
  empty = ((0, 0), (1, 0))  # Class 0 is an empty cell.
  width = np.pad(width, empty).astype(np.float32)
  middle = columns.shape[3] / 2
  return atlas_lib.GlyphAtlas(
    columns=np.pad(moved, (*empty, (0, 0), (0, 0))),
    advance=np.where(width > 0, width + _GAP_PX, 0).astype(np.float32),
    bearing=np.zeros_like(width),
    ink_width=width,
    present=np.ones(width.shape, bool),
    # MNIST's middle is that of a line of capitals.
    baseline=np.float32(middle + atlas_lib.CAP_PX / 2),
    names=tuple(f"drawer {i}" for i in range(drawers)),
    characters="0123456789" * EACH,
  )


def make_source(
  train: idx.Digits,
  test: idx.Digits,
  alphabet: alphabet_lib.Alphabet,
  *,
  height: int,
  width: int,
  lengths: tuple[int, int],
  strengths: render.RenderStrengths,
  test_strengths: render.RenderStrengths,
) -> tuple[Any, Any, Callable]:
  """Assets of the two parts, and `sample(assets, keys [B]) -> Batch`.

  Args:
    train: Digits to learn from.
    test: Digits to judge by.
    alphabet: Which has all ten digits.
    height: H, px.
    width: W, px.
    lengths: The fewest and the most digits of a line.
    strengths: Of the renderer, for lines to learn from.
    test_strengths: Likewise, for lines to judge by.
  """
  fewest, most = lengths
  class_ids = jnp.array(
    [1 + alphabet.characters.index(d) for d in "0123456789"], jnp.int32
  )

  def sample(assets, keys) -> batch_lib.Batch:
    atlas, strengths = assets

    def draw(key):
      for_length, for_digits, for_image = jax.random.split(key, 3)
      length = jax.random.randint(for_length, (), fewest, most + 1)
      glyph = 1 + jax.random.randint(for_digits, (most,), 0, EACH * idx.CLASSES)
      inside = jnp.arange(most) < length
      label = class_ids[(glyph - 1) % idx.CLASSES]
      return (
        jnp.where(inside, glyph, 0).astype(jnp.int32),
        jnp.where(inside, label, 0),
        length.astype(jnp.int32),
        for_image,
      )

    glyph, label, length, for_image = jax.vmap(draw)(keys)
    image = render.render_lines(
      for_image,
      atlas,
      glyph,
      length,
      height=height,
      width=width,
      strengths=render.RenderStrengths(**strengths),
    )
    mask = jnp.ones(label.shape[:1], jnp.float32)
    return batch_lib.Batch(image=image, label=label, length=length, mask=mask)

  learnt, judged = map(dataclasses.asdict, (strengths, test_strengths))
  return (build_atlas(train), learnt), (build_atlas(test), judged), sample
