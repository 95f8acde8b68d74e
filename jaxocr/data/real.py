"""Real lines to evaluate on: a set of them, and batches of equal widths."""

import collections
from collections.abc import Iterator, Sequence
import dataclasses
import os

import numpy as np

from jaxocr.data import batch as batch_lib
from jaxocr.data import preprocess
from jaxocr.data import readers
from jaxocr.data import stats
from jaxocr.data.readers import lines as lines_lib
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import ctc

# Why a line of the set is not used, besides what `readers.lines` names.
OUTSIDE = "characters outside the alphabet"
UNREADABLE = "unreadable"
TOO_WIDE = "image too wide"
TOO_LONG = "label too long for its frames"
# Reasons why a model cannot write a label: its reading of the line is wrong.
REFUSALS = (OUTSIDE, TOO_LONG)


@dataclasses.dataclass(frozen=True)
class RealLine:
  """One line of text."""

  path: str  # As the set writes it.
  label: str  # NFC.
  ids: np.ndarray  # [len(label)] int32 class ids; none where it is refused.
  pixels: np.ndarray  # [32, w] uint8, as the network sees it but not padded.
  refused: str = ""  # One of REFUSALS, or "" for a label it can write.


@dataclasses.dataclass(frozen=True)
class RealLines:
  """What a set gave; read = kept + the sum of dropped.

  Lines whose label the model cannot write are counted as dropped, and kept
  apart: whoever judges by all lines counts them as misread.
  """

  name: str  # Of the set.
  items: tuple[RealLine, ...]
  read: int
  dropped: dict[str, int]  # Reason -> lines.
  examples: dict[str, str]  # Reason -> the first line it met.
  all_items: tuple[RealLine, ...]  # And the refused ones, in the set's order.

  @property
  def kept(self) -> int:
    return len(self.items)

  def summary(self) -> str:
    """One line: read, kept, dropped, and each reason with its first example."""
    return lines_lib.summarise(
      self.name, self.read, self.dropped, self.examples
    )


class _Drop(Exception):
  """(reason, example)."""


def read_labels(
  path: str | os.PathLike,
  alphabet: alphabet_lib.Alphabet,
  *,
  max_width: int = preprocess.MAX_WIDTH_PX,
) -> RealLines:
  """Reads a set of lines in any format that `readers.open_lines` knows.

  A line that cannot be used is counted under its reason, never an error.

  Args:
    path: A label file of `path<TAB>label` lines, an LMDB, a zip file, ...
    alphabet: Of the model to evaluate.
    max_width: Widest line used, pixels at the network's height.

  Raises:
    ValueError: The set itself cannot be read.
  """
  lines = readers.open_lines(path)
  items = []
  dropped = collections.Counter(lines.dropped)
  examples = dict(lines.examples)
  for index, entry in enumerate(lines.entries):
    try:
      pixels = _pixels(lines, index, max_width)
      refused, example = _refusal(entry.label, pixels.shape[1], alphabet)
    except _Drop as drop:
      pixels, (refused, example) = None, drop.args
    if refused:
      dropped[refused] += 1
      examples.setdefault(refused, f"{entry.name}: {example}")
    if pixels is not None:
      ids = np.zeros(0, np.int32) if refused else alphabet.encode(entry.label)
      items.append(RealLine(entry.name, entry.label, ids, pixels, refused))
  return RealLines(
    lines.name,
    tuple(item for item in items if not item.refused),
    lines.read,
    dict(dropped),
    examples,
    tuple(items),
  )


def batches(
  lines: RealLines, *, batch_size: int
) -> Iterator[tuple[batch_lib.Batch, np.ndarray]]:
  """Batches of one bucket width each, narrow ones first; no line is left out.

  All have batch_size rows and one label length, so that a bucket compiles once;
  rows beyond the lines are zeros, with mask 0.

  Args:
    lines: The lines.
    batch_size: B.

  Yields:
    A batch of numpy arrays, and the indices [n] into `lines.items` of its first
    n rows.
  """
  buckets = collections.defaultdict(list)
  for index, line in enumerate(lines.items):
    buckets[preprocess.bucket_width(line.pixels.shape[1])].append(index)
  label_length = max((len(line.ids) for line in lines.items), default=0)
  for width, indices in sorted(buckets.items()):
    for start in range(0, len(indices), batch_size):
      chosen = indices[start : start + batch_size]
      rows = [lines.items[i] for i in chosen]
      batch = _make_batch(rows, batch_size, width, label_length)
      yield batch, np.array(chosen, np.int32)


def _make_batch(
  rows: Sequence[RealLine], batch_size: int, width: int, label_length: int
) -> batch_lib.Batch:
  height = rows[0].pixels.shape[0]
  image = np.zeros((batch_size, height, width, 1), np.float32)
  label = np.zeros((batch_size, label_length), np.int32)
  length = np.zeros(batch_size, np.int32)
  mask = np.zeros(batch_size, np.float32)
  for i, row in enumerate(rows):
    line = row.pixels.astype(np.float32) / 255
    image[i, :, :, 0] = preprocess.pad_to_bucket(line, width)
    label[i, : len(row.ids)] = row.ids
    length[i] = len(row.ids)
    mask[i] = 1
  return batch_lib.Batch(image=image, label=label, length=length, mask=mask)


def _pixels(lines: readers.Lines, index: int, max_width: int) -> np.ndarray:
  """A line as the network sees it, or raises _Drop."""
  try:
    line, _ = preprocess.line_array(lines[index][0])
  except preprocess.TooWideError as error:
    raise _Drop(TOO_WIDE, str(error)) from error
  except preprocess.PreprocessError as error:
    raise _Drop(UNREADABLE, str(error)) from error
  width = line.shape[1]
  if width > max_width:
    raise _Drop(TOO_WIDE, f"{width} px wide, over {max_width}")
  return np.round(line * 255).astype(np.uint8)


def _refusal(
  label: str, width: int, alphabet: alphabet_lib.Alphabet
) -> tuple[str, str]:
  """Why a model cannot write a label, and an example; ("", "") if it can."""
  unknown = alphabet.unknown(label)
  if unknown:
    return OUTSIDE, f"{unknown!r} in {label!r}"
  needed = stats.frames_needed(label)
  frames = preprocess.bucket_width(width) // ctc.FRAME_PX
  if needed > frames:
    return TOO_LONG, f"label needs {needed} frames of {frames}"
  return "", ""
