"""What a set of labelled lines holds: `jaxocr data stats`."""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import unicodedata

import numpy as np

from jaxocr.data import preprocess
from jaxocr.data import readers
from jaxocr.data.readers import lines as lines_lib
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import ctc

UNREADABLE = "unreadable image"
_QUANTILES = (0, 5, 50, 95, 100)  # Percent.
_COMMON = 12  # Characters, and labels, that are shown by name.


@dataclasses.dataclass(frozen=True)
class Stats:
  """Of one set. Quantiles are those of _QUANTILES, in percent."""

  name: str
  kind: str
  read: int
  kept: int  # Whose image could be read, where images were looked at.
  dropped: Mapping[str, int]
  noted: Mapping[str, int]
  examples: Mapping[str, str]
  labels: int  # Different ones.
  lengths: tuple[int, ...]  # Quantiles, characters.
  characters: Mapping[str, int]  # Most frequent first.
  sizes: Mapping[str, tuple[float, ...]]  # height, width, at 32 px.
  buckets: Mapping[int, int]  # Width that a line is padded to -> lines.
  crowded: int  # Lines whose label needs more frames than they have.


def measure(lines: readers.Lines, *, images: bool = True) -> Stats:
  """Looks at every line.

  Args:
    lines: The set.
    images: Whether images are read as well, which takes most of the time.
  """
  dropped, examples = dict(lines.dropped), dict(lines.examples)
  labels, sizes = [], []
  buckets, crowded = collections.Counter(), 0
  for index, entry in enumerate(lines.entries):
    if images:
      try:
        height, width = lines[index][0].shape
      except preprocess.PreprocessError as error:
        dropped[UNREADABLE] = dropped.get(UNREADABLE, 0) + 1
        examples.setdefault(UNREADABLE, f"{entry.name}: {error}")
        continue
      scaled = max(1, round(width * preprocess.HEIGHT_PX / height))
      sizes.append((height, width, scaled))
      bucket = preprocess.bucket_width(scaled)
      buckets[bucket] += 1
      crowded += frames_needed(entry.label) > bucket // ctc.FRAME_PX
    labels.append(entry.label)
  characters = collections.Counter("".join(labels))
  names = ("height", "width", f"at {preprocess.HEIGHT_PX} px")
  columns = zip(*sizes, strict=True) if sizes else ()
  return Stats(
    name=lines.name,
    kind=lines.kind,
    read=lines.read,
    kept=len(labels),
    dropped=dropped,
    noted=dict(lines.noted),
    examples=examples,
    labels=len(set(labels)),
    lengths=_quantiles([len(label) for label in labels]),
    characters=dict(
      sorted(characters.items(), key=lambda item: (-item[1], item[0]))
    ),
    sizes=dict(zip(names, map(_quantiles, columns), strict=False)),
    buckets=dict(sorted(buckets.items())),
    crowded=crowded,
  )


def frames_needed(label: Sequence) -> int:
  """Of CTC: one a character, and a blank between equal neighbours."""
  return len(label) + sum(a == b for a, b in itertools.pairwise(label))


def outside(
  characters: Mapping[str, int], alphabet: alphabet_lib.Alphabet
) -> dict[str, int]:
  """Those of `characters` that the alphabet lacks, with their counts."""
  lacking = set(alphabet.unknown("".join(characters)))
  return {c: n for c, n in characters.items() if c in lacking}


def describe(
  stats: Stats, alphabet: alphabet_lib.Alphabet | None = None
) -> str:
  """The figures for a person, with what `alphabet` lacks where it is given."""
  rows = [
    lines_lib.summarise(
      stats.name, stats.read, stats.dropped, stats.examples, stats.noted
    ),
    f"format      {stats.kind}",
    f"labels      {stats.labels:,} different",
  ]
  if stats.lengths:
    rows.append(f"length      {_told(stats.lengths)} characters")
  rows += [f"{name:11} {_told(v)} px" for name, v in stats.sizes.items()]
  if stats.buckets:
    shares = ", ".join(f"{w}: {n:,}" for w, n in stats.buckets.items())
    rows.append(f"padded to   {shares}")
    rows.append(
      f"crowded     {stats.crowded:,} need more frames than they have"
    )
  common = list(stats.characters.items())
  rows.append(
    f"characters  {len(common)} different, {sum(stats.characters.values()):,} "
    f"in all: {list_characters(common[:_COMMON])}"
    + (f", ... {list_characters(common[-3:])}" if len(common) > _COMMON else "")
  )
  if alphabet is not None:
    rows.append(f"alphabet    {charset_report(stats.characters, alphabet)}")
  return "\n".join(rows)


def charset_report(
  characters: Mapping[str, int], alphabet: alphabet_lib.Alphabet
) -> str:
  """What the alphabet lacks of `characters`, with counts and names."""
  lacking = outside(characters, alphabet)
  if not lacking:
    return f"{alphabet.name} has all {len(characters)} characters"
  shown = "; ".join(
    f"{char!r} (U+{ord(char):04X} {unicodedata.name(char, 'unnamed')}) "
    f"{count:,}"
    for char, count in lacking.items()
  )
  share = sum(lacking.values()) / max(1, sum(characters.values()))
  return (
    f"{alphabet.name} lacks {len(lacking)} of {len(characters)} characters, "
    f"{share:.2%} of the text: {shown}"
  )


def list_characters(counts: Sequence[tuple[str, int]]) -> str:
  """`'e' 120, ' ' 80`."""
  return ", ".join(f"{char!r} {count:,}" for char, count in counts)


def _quantiles(values: Sequence) -> tuple:
  if not len(values):
    return ()
  return tuple(
    int(v) for v in np.percentile(values, _QUANTILES, method="nearest")
  )


def _told(quantiles: Sequence) -> str:
  low, early, middle, late, high = quantiles
  return f"{low} to {high}, median {middle}, nine in ten {early} to {late}"
