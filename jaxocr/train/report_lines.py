"""How lines were read: character errors, the worst lines, the confusions."""

import collections
from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from jaxocr.text import ctc

SOURCES = ("rendered", "real")


@dataclasses.dataclass(frozen=True)
class LineResult:
  """One evaluated line: what was seen, what it says, what was read."""

  image: np.ndarray  # uint8 [H, W], grey, as a person should see it.
  truth: str
  reading: ctc.Reading  # x ranges in pixels of `image`.
  source: str  # One of SOURCES.
  path: str = ""  # Of the image, as its label file writes it.


@dataclasses.dataclass(frozen=True)
class Confusion:
  """One kind of character error and how often it happened.

  `truth` is "" for a character read where there is none, `read` is "" for a
  character that was lost.
  """

  truth: str
  read: str
  counts: Mapping[str, int]  # Source of the line -> times.

  @property
  def total(self) -> int:
    return sum(self.counts.values())


def edits(truth: str, read: str) -> list[tuple[str, int, int]]:
  """A shortest list of edits from truth to reading (Levenshtein).

  Returns:
    (kind, position in truth, position in reading); kind is "replace", "delete"
    (lost from the truth) or "insert" (read without being there).
  """
  from rapidfuzz.distance import Levenshtein

  return [tuple(op) for op in Levenshtein.editops(truth, read)]


def confusions(
  lines: Sequence[LineResult], *, top: int = 20
) -> list[Confusion]:
  """The `top` most frequent character errors; ties by character."""
  counts = collections.defaultdict(collections.Counter)
  for line in lines:
    read = line.reading.text
    for kind, i, j in edits(line.truth, read):
      lost = "" if kind == "insert" else line.truth[i]
      found = "" if kind == "delete" else read[j]
      counts[lost, found][line.source] += 1
  rows = [Confusion(t, r, dict(by)) for (t, r), by in counts.items()]
  rows.sort(key=lambda row: (-row.total, row.truth, row.read))
  return rows[:top]


def worst_lines(
  lines: Sequence[LineResult], *, count: int = 24
) -> list[LineResult]:
  """Misread lines, most edits first; of equals the most confident first."""
  wrong = [line for line in lines if line.truth != line.reading.text]
  wrong.sort(
    key=lambda line: (
      -len(edits(line.truth, line.reading.text)),
      -line.reading.confidence,
    )
  )
  return wrong[:count]


def samples(
  lines: Sequence[LineResult], *, count: int = 12
) -> list[LineResult]:
  """Lines at even distances, chosen without looking at how they were read."""
  places = np.linspace(0, len(lines) - 1, min(count, len(lines)))
  return [lines[int(place)] for place in places]
