"""Does an exported file say what the bundle says? Run in its engine, on lines.

What is compared is logits, the strings that are read, and how long it takes.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr import exact
from jaxocr.data import atlas as atlas_lib
from jaxocr.data import corpus as corpus_lib
from jaxocr.data import preprocess
from jaxocr.data import real
from jaxocr.data import render
from jaxocr.data import source
from jaxocr.export import card
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import ctc

# Of the lines that logits are compared on: as narrow, as usual, wide, and one
# that has to be padded.
WIDTHS = (64, 128, 320, 509)
BATCHES = (1, 3)
LARGE_BATCH = 32  # In which the bundle is compared with itself,
OWN_WIDTHS = (64, 128)  # at these widths.
LATENCY_PX = 128
# Where a feature lies this near to a sign's threshold, the last bits of a float
# decide, and engines add in another order.
NEAR = 1e-5
FAR = 1e-4  # Of logits: what rounding alone does not make.
_CHARACTER_PX = 12  # As little as in real lines.
TURNS = 30


@dataclasses.dataclass(frozen=True)
class Lines:
  """Lines of one kind, and what they say."""

  name: str
  items: tuple[real.RealLine, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What two engines read in the same lines."""

  name: str
  lines: int
  identical: int  # Strings.
  right: tuple[int, int]  # Strings as labelled, before and after.
  differing: tuple[tuple[str, str, str], ...]  # Path, before, after.
  errors: np.ndarray  # [lines], largest difference of a line's logits.


def rendered_lines(
  alphabet: alphabet_lib.Alphabet,
  count: int,
  *,
  width: int = LATENCY_PX,
  seed: int = 0,
) -> Lines:
  """Lines as training draws them, from the default fonts."""
  max_length = width // _CHARACTER_PX
  assets, sample = source.make_synthetic_source(
    atlas_lib.build_atlas(atlas_lib.default_fonts(), alphabet),
    corpus_lib.make_corpus(alphabet, max_length=max_length),
    height=preprocess.HEIGHT_PX,
    width=width,
    max_length=max_length,
    strengths=render.RenderStrengths(),
  )
  keys = jax.random.split(jax.random.key(seed), count)
  batch = jax.device_get(jax.jit(exact.products(sample))(assets, keys))
  items = []
  for i, ids in enumerate(batch.label):
    pixels = np.clip(batch.image[i, :, :, 0], 0, 1)
    items.append(
      real.RealLine(
        f"rendered {i}",
        alphabet.decode(ids),
        ids[: batch.length[i]],
        np.round(pixels * 255).astype(np.uint8),
      )
    )
  return Lines("rendered", tuple(items))


def images(lines: Lines, width: int, batch: int) -> np.ndarray:
  """The first lines side by side, cut at a width, padded as the reader pads.

  Returns:
    [batch, H, bucket of `width`, 1] float32 in [0, 1].
  """
  strips = np.concatenate([item.pixels for item in lines.items], axis=1)
  rows = []
  for i in range(batch):
    cut = np.roll(strips, -i * width, axis=1)[:, :width]
    line = cut.astype(np.float32) / 255
    rows.append(preprocess.pad_to_bucket(line))
  return np.stack(rows)[..., None]


def logit_errors(
  engine, reference, lines: Lines
) -> Iterator[tuple[int, int, float]]:
  """(width, batch, largest difference of logits), through one session."""
  for width in WIDTHS:
    for batch in BATCHES:
      image = images(lines, width, batch)
      found, wanted = engine.logits(image), reference.logits(image)
      yield width, batch, float(np.max(np.abs(found - wanted)))


def own_error(reference, lines: Lines) -> float:
  """Largest difference of an engine's logits to its own in a larger batch.

  Sums of floats depend on the order that a batch's size calls for, so that no
  other engine can be held to less.
  """
  worst = 0.0
  for width in OWN_WIDTHS:
    image = images(lines, width, LARGE_BATCH)
    beside = reference.logits(image)
    alone = [reference.logits(row[None]) for row in image]
    worst = max(worst, float(np.max(np.abs(np.concatenate(alone) - beside))))
  return worst


def all_logits(
  engine, lines: Lines, *, batch_size: int = 16
) -> list[np.ndarray]:
  """Logits [T, K] of each line, padding included."""
  found = [np.zeros((0, 0), np.float32)] * len(lines.items)
  known = real.RealLines(
    lines.name, lines.items, len(found), {}, {}, lines.items
  )
  for batch, indices in real.batches(known, batch_size=batch_size):
    rows = engine.logits(batch.image)
    for row, index in zip(rows, indices, strict=False):
      found[index] = row
  return found


def best_text(logits: np.ndarray, alphabet) -> str:
  """The best path of a line's logits."""
  classes = np.argmax(logits, axis=-1)
  return ctc.collapse(classes, np.ones(len(classes)), alphabet).text


def compare(engine, reference, lines: Lines) -> Comparison:
  """Logits and strings of an exported file beside those of the bundle."""
  logits = [all_logits(e, lines) for e in (reference, engine)]
  before, after = (
    [best_text(row, engine.alphabet) for row in rows] for rows in logits
  )
  labels = [item.label for item in lines.items]
  differing = tuple(
    (item.path, b, a)
    for item, b, a in zip(lines.items, before, after, strict=True)
    if a != b
  )
  return Comparison(
    lines.name,
    len(labels),
    len(labels) - len(differing),
    tuple(
      sum(text == label for text, label in zip(read, labels, strict=True))
      for read in (before, after)
    ),
    differing,
    np.array([_error(b, a) for b, a in zip(*logits, strict=True)]),
  )


def _error(before, after):
  """Largest difference; infinite where there are other frames or classes."""
  if before.shape != after.shape:
    return np.inf
  return np.max(np.abs(before - after), initial=0.0)


def make_near_threshold(model) -> Callable[[np.ndarray], np.ndarray]:
  """Counts features that enter a sign within NEAR of its threshold.

  Args:
    model: A `reader.Model`.

  Returns:
    Images [B, H, W, 1] to counts [B]; zeros for a network without signs.
  """
  if not model.network.binary_activations:
    return lambda image: np.zeros(len(image), int)

  @jax.jit
  @exact.products
  def look(variables, image):
    _, seen = model.network.apply(
      variables,
      image,
      capture_intermediates=lambda module, _: module.name == "threshold",
      mutable=["intermediates"],
    )
    return [
      jnp.sum(jnp.abs(features) < NEAR, axis=(1, 2, 3))
      for features in jax.tree.leaves(seen)
    ]

  variables = model.stored.variables()
  return lambda image: np.sum(look(variables, image), axis=0)


def golden_text(engine, stated) -> str:
  """What an engine reads in the golden line of a `card`."""
  pixels = card.golden_image(stated["golden"])
  line = real.RealLine("golden", "", np.zeros(0, np.int32), pixels)
  (logits,) = all_logits(engine, Lines("golden", (line,)), batch_size=1)
  return best_text(logits, engine.alphabet)


def latency_ms(engine, height: int = preprocess.HEIGHT_PX) -> float:
  """Median time for one line of LATENCY_PX."""
  return time_ms(engine, np.full((1, height, LATENCY_PX, 1), 0.5, np.float32))


def time_ms(engine, image: np.ndarray) -> float:
  """Median time for one batch."""
  engine.logits(image)  # Compiles, allocates.
  times = []
  for _ in range(TURNS):
    start = time.perf_counter()
    engine.logits(image)
    times.append(time.perf_counter() - start)
  return statistics.median(times) * 1e3


def told(comparison: Comparison, most: int = 5) -> Sequence[str]:
  """A comparison as lines of text."""
  before, after = comparison.right
  n = comparison.lines
  if not n:
    return [f"{comparison.name}: no lines"]
  said = [
    f"{comparison.name}: {n} lines, {comparison.identical} strings identical, "
    f"accuracy {before / n:.4f} -> {after / n:.4f}",
    f"  a line's largest logit error: median {np.median(comparison.errors):.1e}"
    f", {np.sum(comparison.errors > FAR)} above {FAR:g}, largest "
    f"{comparison.errors.max():.1e}",
  ]
  for path, wanted, found in comparison.differing[:most]:
    said.append(f"  {path}: {wanted!r} became {found!r}")
  return said
