"""A character n-gram model as a scorer of beam search."""

import collections
from collections.abc import Iterable
import math
import os
import pathlib

from jaxocr import files
from jaxocr.text import alphabet as alphabet_lib

_END = ""  # What follows the last character.


class NGram:
  """P(character | the n - 1 before it), interpolated (Witten and Bell 1991).

  P(c | h) = (count(h c) + kinds(h) P(c | shorter h)) / (count(h) + kinds(h)),
  where kinds(h) is how many different characters follow h; below the shortest
  all characters are alike.

  A character is worth weight * (log P + entropy), entropy being the mean of
  -log P over the texts it was made from: a usual character costs nothing, so
  that neither short nor long readings gain.
  """

  def __init__(
    self,
    texts: Iterable[str],
    alphabet: alphabet_lib.Alphabet,
    *,
    order: int = 5,
    weight: float = 0.3,
  ):
    """Counts, and measures the entropy.

    Args:
      texts: One line each; characters outside the alphabet end a text and begin
        another.
      alphabet: Whose class ids the search gives.
      order: n, 1 or more.
      weight: Of log P beside the frames' log-probability.
    """
    if order < 1 or not weight >= 0:
      raise ValueError(
        f"order={order}, weight={weight}; order must be 1 or more and weight 0 "
        "or more"
      )
    self._characters = " " + alphabet.characters
    self._order, self._weight = order, weight
    self._uniform = 1 / (alphabet.size + 1)
    self._counts = collections.defaultdict(collections.Counter)
    self._cached: dict[tuple[str, str], float] = {}
    parts = [p for text in texts for p in _known_parts(text, alphabet)]
    for part in parts:
      for before, after in self._windows(part):
        for start in range(len(before) + 1):
          self._counts[before[start:]][after] += 1
    seen = sum(len(part) + 1 for part in parts)
    if not seen:
      raise ValueError(
        f"no text for the n-gram model has a character of {alphabet.name!r}"
      )
    total = sum(
      -math.log(self.probability(after, before))
      for part in parts
      for before, after in self._windows(part)
    )
    self.entropy = total / seen  # Nats a character.

  def probability(self, character: str, before: str) -> float:
    """P(character | before); "" is the end of a text."""
    key = (before, character)
    found = self._cached.get(key)
    if found is None:
      found = self._cached[key] = self._probability(character, before)
    return found

  def _probability(self, character: str, before: str) -> float:
    if before:
      shorter = self.probability(character, before[1:])
    else:
      shorter = self._uniform
    counts = self._counts.get(before)
    if not counts:
      return shorter
    kinds = len(counts)
    return (counts[character] + kinds * shorter) / (counts.total() + kinds)

  def start(self) -> str:
    """As of `beam.Scorer`."""
    return ""

  def step(self, state: str, class_id: int) -> tuple[str, float]:
    """As of `beam.Scorer`."""
    character = self._characters[class_id]
    return self._recent(state + character), self._worth(character, state)

  def end(self, state: str) -> float:
    """As of `beam.Scorer`."""
    return self._worth(_END, state)

  def _worth(self, character: str, before: str) -> float:
    log_prob = math.log(self.probability(character, before))
    return self._weight * (log_prob + self.entropy)

  def _recent(self, text: str) -> str:
    return text[max(0, len(text) - self._order + 1) :]

  def _windows(self, text: str):
    """(characters before, character) for each, and for the end."""
    for place, character in enumerate([*text, _END]):
      yield text[max(0, place - self._order + 1) : place], character


def _known_parts(text: str, alphabet: alphabet_lib.Alphabet) -> list[str]:
  """Runs of characters that the alphabet has."""
  unknown = set(alphabet.unknown(text))
  if not unknown:
    return [text] if text else []
  runs = "".join("\n" if c in unknown else c for c in text).split("\n")
  return [run for run in runs if run.strip()]


def read_texts(path: str | os.PathLike) -> list[str]:
  """Lines of a text file.

  Raises:
    ValueError: It cannot be read.
  """
  try:
    return pathlib.Path(path).read_text(encoding="utf-8-sig").split("\n")
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(
      f"text {path}: {files.reason(error)}; give a UTF-8 file of text"
    ) from error
