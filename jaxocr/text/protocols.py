"""How papers compare what was read with what is there, by name.

A protocol folds both texts before they are compared. What it leaves of a label
decides as well whether the line counts: reading nothing would be a hit where
nothing is left, so such lines are left out and counted as `empty`. A label that
the model cannot write counts as misread, like any other.

| name | what is left | as in |
|---|---|---|
| str36 | NFKD, lower case, 0-9 a-z | PARSeq, DTRB |
| str62 | NFKD, 0-9 a-z A-Z | PARSeq |
| str94 | NFKD, printable ASCII without the space | PARSeq |
| raw | everything, spaces included | |
"""

from collections.abc import Callable, Sequence
import dataclasses
import re
import unicodedata

from rapidfuzz.distance import Levenshtein

from jaxocr.text import scores


def fold62(text: str) -> str:
  """NFKD, then only [0-9a-zA-Z]."""
  return re.sub("[^0-9a-zA-Z]", "", unicodedata.normalize("NFKD", text))


def fold94(text: str) -> str:
  """NFKD, then only printable ASCII other than the space."""
  return re.sub("[^!-~]", "", unicodedata.normalize("NFKD", text))


FOLDS: dict[str, Callable[[str], str]] = {
  "raw": lambda text: text,
  "str36": scores.fold36,
  "str62": fold62,
  "str94": fold94,
}

# Lines of the test sets that papers name by their counts; of some there are
# two versions, and a figure means little without saying which.
KNOWN_SETS = {
  "iiit5k": (3000,),
  "svt": (647,),
  "ic13": (857, 1015),
  "ic15": (1811, 2077),
  "svtp": (645,),
  "cute80": (288,),
}
# Other spellings of the folders' names.
_SPELLINGS = {
  "icdar2013": "ic13",
  "icdar2015": "ic15",
  "iiit": "iiit5k",
  "cute": "cute80",
}


@dataclasses.dataclass(frozen=True)
class Figures:
  """Sums over lines; they add up, and are divided once."""

  n: int = 0  # Lines that count.
  empty: int = 0  # Lines of whose label the protocol leaves nothing.
  exact: int = 0
  similarity: float = 0.0  # Sum of 1 - edits / length of the longer text.
  edits: int = 0
  characters: int = 0  # Of the labels.
  confidence: float = 0.0

  def __add__(self, other: "Figures") -> "Figures":
    names = [field.name for field in dataclasses.fields(self)]
    return Figures(*(getattr(self, n) + getattr(other, n) for n in names))

  @property
  def accuracy(self) -> float:
    """Share of lines read exactly."""
    return scores.divide((self.exact, self.n))

  @property
  def ned(self) -> float:
    """1-NED."""
    return scores.divide((self.similarity, self.n))

  @property
  def cer(self) -> float:
    """Edits over characters of the labels."""
    return scores.divide((self.edits, self.characters))

  @property
  def mean_confidence(self) -> float:
    """Mean over lines."""
    return scores.divide((self.confidence, self.n))

  @property
  def mean_length(self) -> float:
    """Mean length of a label, as folded."""
    return scores.divide((self.characters, self.n))


def score(
  readings: Sequence[str],
  truths: Sequence[str],
  confidences: Sequence[float],
  *,
  protocol: str,
) -> Figures:
  """Figures of lines under one of FOLDS.

  Raises:
    ValueError: An unknown protocol, or lists of different lengths.
  """
  fold = fold_of(protocol)
  total = Figures()
  for read, truth, sure in zip(readings, truths, confidences, strict=True):
    read, truth = fold(read), fold(truth)
    if not truth and protocol != "raw":
      total += Figures(empty=1)
      continue
    edits = Levenshtein.distance(read, truth)
    total += Figures(
      n=1,
      exact=int(read == truth),
      similarity=Levenshtein.normalized_similarity(read, truth),
      edits=edits,
      characters=len(truth),
      confidence=sure,
    )
  return total


def fold_of(protocol: str) -> Callable[[str], str]:
  """What a protocol makes of a text."""
  if protocol not in FOLDS:
    raise ValueError(
      f"protocol={protocol!r}; it must be one of {', '.join(FOLDS)}"
    )
  return FOLDS[protocol]


def known_set(name: str, lines: int) -> str:
  """The name of a set for a table, with which of its versions this is.

  `IC15_1811` with 1811 lines is `ic15 (1811)`; with another count it says so.
  Names that no paper uses come back as they are.
  """
  known = next(filter(None, map(_known, name.split("/"))), None)
  if known is None:
    return name
  versions = KNOWN_SETS[known]
  if lines in versions:
    return f"{known} ({lines})"
  usual = " or ".join(map(str, versions))
  return f"{name} ({lines} lines, papers have {usual})"


def _known(name: str) -> str | None:
  """The key of KNOWN_SETS that is meant, if any."""
  plain = re.sub("[^a-z0-9]", "", name.lower())
  if plain in KNOWN_SETS:
    return plain
  for counts in KNOWN_SETS.values():
    for count in counts:
      plain = plain.removesuffix(str(count))
  plain = _SPELLINGS.get(plain, plain)
  return plain if plain in KNOWN_SETS else None
