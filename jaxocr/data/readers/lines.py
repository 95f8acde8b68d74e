"""What every reader gives: labelled images, and what became of the others."""

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any
import unicodedata

import numpy as np

from jaxocr.data import preprocess

# Why a line is dropped.
BLANK = "blank line"
NOT_UTF8 = "not UTF-8"
NUL = "NUL byte"
TOO_LARGE = "over 64 kB"
NO_TAB = "no label column"
NO_LABEL = "no label"
NO_IMAGE = "missing image"

# What is odd about a line that is kept.
TAB_INSIDE = "tab in label"
NOT_NFC = "label was not NFC"
SPACE_AROUND = "space before or after label"

MAX_LINE_BYTES = 65_536  # Of a label file; text of one line is never so long.


class DataError(ValueError):
  """A set that cannot be read; says what was found and what to give."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
  """One labelled image, not read yet."""

  key: Any  # What its set fetches it by: a path, a number.
  name: str  # For people: the path or key as the set writes it.
  label: str  # NFC, not empty.


class Tally:
  """Counts what becomes of each line; read = kept + the sum of dropped."""

  def __init__(self):
    self.entries: list[Entry] = []
    self.read = 0
    self.dropped = collections.Counter()  # Reason -> lines.
    self.noted = collections.Counter()  # Oddity of kept lines -> lines.
    self.examples: dict[str, str] = {}  # Either -> the first line it met.

  def drop(self, reason: str, where: str) -> None:
    """Counts a line that is not used."""
    self.read += 1
    self.dropped[reason] += 1
    self.examples.setdefault(reason, where)

  def add(self, key: Any, name: str, label: str, where: str) -> None:
    """Keeps a line, or drops it for its label.

    Args:
      key: As of `Entry`.
      name: As of `Entry`.
      label: Decoded, as it stands in the set.
      where: For examples: which line it is.
    """
    if not label:
      return self.drop(NO_LABEL, where)
    if "\0" in label or "\0" in name:
      return self.drop(NUL, where)
    composed = unicodedata.normalize("NFC", label)
    for oddity, holds in (
      (NOT_NFC, composed != label),
      (TAB_INSIDE, "\t" in label),
      (SPACE_AROUND, label != label.strip()),
    ):
      if holds:
        self.noted[oddity] += 1
        self.examples.setdefault(oddity, where)
    self.read += 1
    self.entries.append(Entry(key, name, composed))


@dataclasses.dataclass(frozen=True)
class Lines:
  """A set of labelled images of lines.

  `len(lines)` are kept; `lines[i]` is an image [h, w] uint8 and its label.
  Images are read when they are asked for, so a broken one shows only then: as a
  `preprocess.PreprocessError`. Can be pickled, for workers.
  """

  name: str
  kind: str  # Of the format, as `jaxocr data stats` says it.
  entries: Sequence[Entry]
  # Key -> path, encoded bytes or array, as `preprocess.load_image` takes them.
  fetch: Callable[[Any], Any]
  read: int
  dropped: Mapping[str, int]  # Reason -> lines; read = kept + their sum.
  noted: Mapping[str, int]  # Oddity of kept lines -> lines.
  examples: Mapping[str, str]  # Reason or oddity -> the first line it met.

  def __len__(self) -> int:
    return len(self.entries)

  def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
    entry = self.entries[index]
    return preprocess.load_image(self.fetch(entry.key)), entry.label

  def summary(self) -> str:
    """One line: read, kept, dropped, noted, each with its first example."""
    return summarise(
      self.name, self.read, self.dropped, self.examples, self.noted
    )


def make_lines(name: str, kind: str, fetch: Callable, tally: Tally) -> Lines:
  """A set of what was tallied."""
  return Lines(
    name,
    kind,
    tuple(tally.entries),
    fetch,
    tally.read,
    dict(tally.dropped),
    dict(tally.noted),
    dict(tally.examples),
  )


def summarise(
  name: str,
  read: int,
  dropped: Mapping[str, int],
  examples: Mapping[str, str],
  noted: Mapping[str, int] | None = None,
) -> str:
  """`name: 9 read, 7 kept, 2 dropped: 2 no label (first: line 4)`."""

  def told(counts):
    return "; ".join(
      f"{count:,} {reason} (first: {examples[reason]})"
      for reason, count in counts.items()
    )

  lost = sum(dropped.values())
  text = f"{name}: {read:,} read, {read - lost:,} kept, {lost:,} dropped"
  if dropped:
    text += f": {told(dropped)}"
  return text + (f"; of the kept {told(noted)}" if noted else "")
