"""Does an exported digit network say what its bundle says? On test images."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxocr.data import digits
from jaxocr.export import card
from jaxocr.export import check
from jaxocr.export import digit_model

BATCHES = (1, 3, 32)


def golden_class(engine, stated: dict[str, Any]) -> int:
  """What an engine reads in the golden image of a `digit_card`."""
  image = card.golden_image(stated["golden"])
  return int(engine.logits(digit_model.pixels(image[None])).argmax())


def told(
  engine, reference, stated: dict[str, Any], found: digits.DigitSet
) -> Iterator[str]:
  """Compares a file with its network; what there is to say, line by line.

  Args:
    engine: Of the file, see `engines.SESSIONS`.
    reference: The network's `digit_model.JaxEngine`.
    stated: The file's JSON.
    found: Whose test images are read.
  """
  read, wanted = golden_class(engine, stated), stated["golden"]["class"]
  yield f"golden image: class {read}" + (
    "" if read == wanted else f", but the bundle reads {wanted}"
  )
  images, labels = found.test.images, found.test.labels
  for batch in BATCHES:
    image = digit_model.pixels(images[:batch])
    error = np.abs(engine.logits(image) - reference.logits(image)).max()
    yield f"batch {batch}: largest logit error {error:.2g}"
  before, after = (read_all(e, images) for e in (reference, engine))
  right = [np.mean(read == labels) for read in (before, after)]
  yield (
    f"{found.name}: {len(labels):,} test images, "
    f"{np.sum(before == after):,} classes identical, "
    f"accuracy {right[0]:.4f} -> {right[1]:.4f}"
  )
  one = digit_model.pixels(images[:1])
  yield (
    f"latency of an image, median of {check.TURNS}: "
    f"{check.time_ms(engine, one):.3f} ms; the bundle in JAX "
    f"{check.time_ms(reference, one):.3f} ms"
  )


def read_all(engine, images: np.ndarray, *, batch_size: int = 100):
  """Classes [N] of images [N, H, W] uint8, batch by batch of one shape."""
  classes = []
  for start in range(0, len(images), batch_size):
    batch = images[start : start + batch_size]
    missing = batch_size - len(batch)
    filled = np.pad(batch, ((0, missing), (0, 0), (0, 0)))
    read = engine.logits(digit_model.pixels(filled)).argmax(-1)
    classes.append(read[: len(batch)])
  return np.concatenate(classes)
