"""How well lines were read, by named protocols.

Every score is a (sum, count) pair: add pairs over batches, divide once at the
end. Texts are compared as given, code point by code point; labels and readings
are NFC.
"""

from collections.abc import Sequence
import re
import unicodedata

from rapidfuzz.distance import Levenshtein

Pair = tuple[float, float]


def line_accuracy(predictions: Sequence[str], truths: Sequence[str]) -> Pair:
  """Lines read exactly, spaces and case included; over lines."""
  pairs = _pairs(predictions, truths)
  return float(sum(p == t for p, t in pairs)), float(len(pairs))


def character_error_rate(
  predictions: Sequence[str], truths: Sequence[str]
) -> Pair:
  """Insertions, deletions and substitutions; over characters of the truths.

  Lower is better, and it can pass 1.
  """
  pairs = _pairs(predictions, truths)
  edits = sum(Levenshtein.distance(p, t) for p, t in pairs)
  return float(edits), float(sum(len(t) for _, t in pairs))


def normalised_edit_similarity(
  predictions: Sequence[str], truths: Sequence[str]
) -> Pair:
  """1-NED: 1 - edits / length of the longer text, summed; over lines.

  Two empty texts are alike: 1.
  """
  pairs = _pairs(predictions, truths)
  total = sum(Levenshtein.normalized_similarity(p, t) for p, t in pairs)
  return float(total), float(len(pairs))


def str36(predictions: Sequence[str], truths: Sequence[str]) -> Pair:
  """Scene-text protocol: exact match of what `fold36` leaves; over lines.

  Lines whose truth has none of the 36 characters are not counted: reading
  nothing there would be a hit.
  """
  pairs = [(fold36(p), fold36(t)) for p, t in _pairs(predictions, truths)]
  pairs = [(p, t) for p, t in pairs if t]
  return float(sum(p == t for p, t in pairs)), float(len(pairs))


def fold36(text: str) -> str:
  """NFKD, lower case, then only [0-9a-z]."""
  text = unicodedata.normalize("NFKD", text).lower()
  return re.sub("[^0-9a-z]", "", text)


PROTOCOLS = {
  "line_accuracy": line_accuracy,
  "cer": character_error_rate,
  "ned": normalised_edit_similarity,  # Named as in reports; it is 1-NED.
  "str36": str36,
}


def score_lines(
  predictions: Sequence[str], truths: Sequence[str]
) -> dict[str, Pair]:
  """Every protocol's (sum, count), keyed as in report.json."""
  return {name: score(predictions, truths) for name, score in PROTOCOLS.items()}


def divide(pair: Pair) -> float:
  """The score of a merged pair; NaN when nothing was counted."""
  total, count = pair
  return total / count if count else float("nan")


def _pairs(
  predictions: Sequence[str], truths: Sequence[str]
) -> list[tuple[str, str]]:
  if isinstance(predictions, str) or isinstance(truths, str):
    raise TypeError(
      "expected sequences of texts, got one text; wrap it in a list"
    )
  if len(predictions) != len(truths):
    raise ValueError(
      f"{len(predictions)} predictions for {len(truths)} truths; "
      "give one for each, in the same order"
    )
  return list(zip(predictions, truths, strict=True))
