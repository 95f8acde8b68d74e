"""Rendered lines as a source of batches, to be called inside a jitted step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxocr.data import atlas as atlas_lib
from jaxocr.data import batch as batch_lib
from jaxocr.data import corpus as corpus_lib
from jaxocr.data import render

Assets = Any  # Pytree of arrays: an argument of the step, not a constant in it.


def make_synthetic_source(
  atlas: atlas_lib.GlyphAtlas,
  corpus: corpus_lib.Corpus,
  *,
  height: int = 32,
  width: int,
  max_length: int,
  strengths: render.RenderStrengths,
) -> tuple[Assets, Callable[[Assets, jax.Array], batch_lib.Batch]]:
  """Returns (assets, sample).

  `sample(assets, keys)` draws one line per key [B]: the i-th line depends on
  the i-th key alone, so that a batch is the same on any number of devices.

  Raises:
    ValueError: For a strength out of range.
  """
  strengths.validate()

  def sample(assets: Assets, keys: jax.Array) -> batch_lib.Batch:
    atlas, corpus = assets
    pairs = jax.vmap(jax.random.split)(keys)
    label, length = corpus_lib.sample_labels(
      pairs[:, 0], corpus, max_length=max_length
    )
    image = render.render_lines(
      pairs[:, 1],
      atlas,
      label,
      length,
      height=height,
      width=width,
      strengths=strengths,
    )
    mask = jnp.ones(label.shape[:1], jnp.float32)
    return batch_lib.Batch(image=image, label=label, length=length, mask=mask)

  return (atlas, corpus), sample
