"""Digits in batches: a grain pipeline that any step can be asked of.

Batch `step` of a training depends on (seed, step) alone, so that a resumed run
sees what a straight one would have seen. An epoch is every image once.
"""

from collections.abc import Callable, Iterator

import grain
import numpy as np

from jaxocr.data import idx

# Images [B, H, W] uint8 and labels [B] int32.
Pair = tuple[np.ndarray, np.ndarray]


def training_batches(
  digits: idx.Digits,
  *,
  batch_size: int,
  seed: int,
  process: int = 0,
  processes: int = 1,
) -> Callable[[int], Pair]:
  """step -> this process's share of that step's batch.

  Images are shuffled anew each epoch. A batch may hold the end of an epoch and
  the start of the next, so that none is short.

  Args:
    digits: All of them, in every process.
    batch_size: B, of all processes together; a multiple of them.
    seed: Of the order.
    process: Which one this is.
    processes: How many share a batch; the share is B / processes.
  """
  order = grain.MapDataset.range(len(digits.labels)).seed(seed).shuffle()
  share = order.repeat()[process::processes].batch(batch_size // processes)

  def pick(places) -> Pair:
    return digits.images[places], digits.labels[places].astype(np.int32)

  return share.map(pick).__getitem__


def evaluation_batches(
  digits: idx.Digits, *, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Every image once, in order: images, labels and mask [B] bool.

  The last batch is filled up with zeros, whose mask is False.
  """
  count = len(digits.labels)
  for first in range(0, count, batch_size):
    places = slice(first, first + batch_size)
    images = digits.images[places]
    labels = digits.labels[places].astype(np.int32)
    empty = batch_size - len(labels)
    yield (
      np.pad(images, ((0, empty), (0, 0), (0, 0))),
      np.pad(labels, (0, empty)),
      np.arange(batch_size) < len(labels),
    )
