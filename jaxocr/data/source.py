"""Rendered and real lines as batches, to be drawn inside a jitted step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxocr.data import atlas as atlas_lib
from jaxocr.data import augment
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


def make_mixed_source(
  atlas: atlas_lib.GlyphAtlas,
  corpus: corpus_lib.Corpus,
  *,
  height: int = 32,
  max_length: int,
  strengths: render.RenderStrengths,
  real_strengths: render.RenderStrengths,
) -> tuple[Assets, Callable[[Assets, jax.Array], batch_lib.Batch]]:
  """Returns (assets, sample) of batches that hold rendered and real lines.

  `sample((assets, host), keys)` takes a `mixture.HostLines` besides: its rows
  that are real are augmented, the others rendered, all as wide as it is. Labels
  of rendered lines have up to `max_length` characters.

  Raises:
    ValueError: For a strength out of range.
  """
  strengths.validate()
  real_strengths.validate()

  def sample(assets: Assets, keys: jax.Array) -> batch_lib.Batch:
    assets, host = assets
    _, draw = make_synthetic_source(
      *assets,
      height=height,
      width=host.image.shape[2],
      max_length=max_length,
      strengths=strengths,
    )
    drawn = draw(assets, keys)
    others = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    image = host.image.astype(jnp.float32) / 255
    changed = augment.augment_lines(others, image, host.width, real_strengths)
    longest = max(max_length, host.label.shape[1])

    def labels(ids):
      return jnp.pad(ids, ((0, 0), (0, longest - ids.shape[1])))

    real = host.real
    return batch_lib.Batch(
      image=jnp.where(real[:, None, None, None], changed, drawn.image),
      label=jnp.where(real[:, None], labels(host.label), labels(drawn.label)),
      length=jnp.where(real, host.length, drawn.length),
      mask=drawn.mask,
    )

  return (atlas, corpus), sample
