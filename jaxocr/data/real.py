"""Real lines to evaluate on: a label file, and batches of equal widths."""

import collections
from collections.abc import Iterator, Sequence
import dataclasses
import os
import pathlib
import unicodedata

import numpy as np

from jaxocr.data import batch as batch_lib
from jaxocr.data import preprocess
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import ctc

# Why a line of the file is not used.
BLANK = "blank line"
NOT_UTF8 = "not UTF-8"
NO_LABEL = "no label"
OUTSIDE = "characters outside the alphabet"
UNREADABLE = "unreadable"
TOO_LONG = "too long"


@dataclasses.dataclass(frozen=True)
class RealLine:
  """One usable line of text."""

  path: str  # As the label file writes it.
  label: str  # NFC.
  ids: np.ndarray  # [len(label)] int32 class ids.
  pixels: np.ndarray  # [32, w] uint8, as the network sees it but not padded.


@dataclasses.dataclass(frozen=True)
class RealLines:
  """What a label file gave; read = kept + the sum of dropped."""

  name: str  # Of the label file.
  items: tuple[RealLine, ...]
  read: int
  dropped: dict[str, int]  # Reason -> lines.
  examples: dict[str, str]  # Reason -> the first line it met.

  @property
  def kept(self) -> int:
    return len(self.items)

  def summary(self) -> str:
    """One line: read, kept, dropped, and each reason with its first example."""
    reasons = [
      f"{count} {reason} (first: {self.examples[reason]})"
      for reason, count in self.dropped.items()
    ]
    dropped = sum(self.dropped.values())
    text = f"{self.name}: {self.read} read, {self.kept} kept, {dropped} dropped"
    return text + (": " + "; ".join(reasons) if reasons else "")


class _Drop(Exception):
  """(reason, what the line holds)."""


def read_labels(
  tsv: str | os.PathLike,
  alphabet: alphabet_lib.Alphabet,
  *,
  max_width: int = preprocess.MAX_WIDTH_PX,
) -> RealLines:
  """Reads a file of `path<TAB>label` lines and the images that it names.

  UTF-8, with or without BOM and CR. Paths are relative to the file; a label may
  hold tabs, being all that follows the first. A line that cannot be used is
  counted under its reason, never an error.

  Args:
    tsv: The label file.
    alphabet: Of the model to evaluate.
    max_width: Widest line used, pixels at the network's height.

  Raises:
    ValueError: The label file itself cannot be read.
  """
  tsv = pathlib.Path(tsv)
  try:
    data = tsv.read_bytes().removeprefix(b"\xef\xbb\xbf")
  except OSError as error:
    raise ValueError(
      f"label file {tsv}: {error.strerror}; give a file of path<TAB>label lines"
    ) from error
  rows = data.split(b"\n")
  if not rows[-1]:
    rows.pop()  # What follows the last line's end.
  items = []
  dropped = collections.Counter()
  examples = {}
  for number, row in enumerate(rows, start=1):
    try:
      items.append(_read_line(row, tsv.parent, alphabet, max_width))
    except _Drop as drop:
      reason, example = drop.args
      dropped[reason] += 1
      examples.setdefault(
        reason, f"line {number}" + (example and f", {example}")
      )
  return RealLines(tsv.name, tuple(items), len(rows), dict(dropped), examples)


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


def _read_line(
  row: bytes,
  folder: pathlib.Path,
  alphabet: alphabet_lib.Alphabet,
  max_width: int,
) -> RealLine:
  """Reads one line of a label file, or raises _Drop."""
  try:
    text = row.removesuffix(b"\r").decode()
  except UnicodeDecodeError as error:
    raise _Drop(NOT_UTF8, repr(row[:40])) from error
  if not text.strip():
    raise _Drop(BLANK, "")
  path, _, label = text.partition("\t")
  label = unicodedata.normalize("NFC", label)
  if not label:
    raise _Drop(NO_LABEL, path)
  unknown = alphabet.unknown(label)
  if unknown:
    raise _Drop(OUTSIDE, f"{path}: {unknown!r} in {label!r}")
  try:
    line, _ = preprocess.line_array(preprocess.load_image(folder / path))
  except preprocess.TooWideError as error:
    raise _Drop(TOO_LONG, f"{path}: {error}") from error
  except preprocess.PreprocessError as error:
    raise _Drop(UNREADABLE, f"{path}: {error}") from error
  width = line.shape[1]
  if width > max_width:
    raise _Drop(TOO_LONG, f"{path}: {width} px wide, over {max_width}")
  ids = alphabet.encode(label)
  # CTC needs a frame for each character and a blank between equal neighbours.
  needed = len(ids) + int(np.sum(ids[1:] == ids[:-1]))
  frames = preprocess.bucket_width(width) // ctc.FRAME_PX
  if needed > frames:
    raise _Drop(TOO_LONG, f"{path}: label needs {needed} frames of {frames}")
  return RealLine(path, label, ids, np.round(line * 255).astype(np.uint8))
