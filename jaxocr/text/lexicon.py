"""A list of words as a scorer of beam search: other words cost something."""

from collections.abc import Iterable
import os
import pathlib

from jaxocr import files
from jaxocr.text import alphabet as alphabet_lib

_START, _OTHER = 0, -1  # States: before a word, in one that is not listed.


class Lexicon:
  """Words, in a trie. Case does not matter.

  A word is a run of letters; digits, spaces and points end it and cost nothing.
  A word that is not listed costs `penalty` once, as soon as no listed one
  begins as it does. The cost is for a word, not for a letter, so that neither
  short nor long ones gain.
  """

  def __init__(
    self,
    words: Iterable[str],
    alphabet: alphabet_lib.Alphabet,
    *,
    penalty: float,
  ):
    """Makes the trie.

    Args:
      words: What is listed; parts between signs are words of their own.
      alphabet: Whose class ids the search gives.
      penalty: Of a word that is not listed, in nats: 3 makes it as good as a
        listed one that is twenty times less probable by its frames. Very large:
        only listed words, where any is possible.
    """
    if not penalty >= 0:
      raise ValueError(f"lexicon penalty={penalty}; it must be 0 or more")
    self._penalty = penalty
    self._letters = [None] + [
      c.lower() if c.isalpha() else None for c in alphabet.characters
    ]
    self._next: list[dict[str, int]] = [{}]
    self._ends: set[int] = set()
    self.size = 0
    for word in words:
      for part in _letter_runs(word):
        self._insert(part)
    if not self.size:
      raise ValueError("the lexicon has no word of letters; give one a line")

  def _insert(self, word: str) -> None:
    node = _START
    for letter in word.lower():
      following = self._next[node]
      if letter not in following:
        following[letter] = len(self._next)
        self._next.append({})
      node = following[letter]
    self.size += node not in self._ends
    self._ends.add(node)

  def start(self) -> int:
    """As of `beam.Scorer`."""
    return _START

  def step(self, state: int, class_id: int) -> tuple[int, float]:
    """As of `beam.Scorer`."""
    letter = self._letters[class_id]
    if letter is None:
      return _START, self.end(state)
    if state == _OTHER:
      return _OTHER, 0.0
    following = self._next[state].get(letter)
    if following is None:
      return _OTHER, -self._penalty
    return following, 0.0

  def end(self, state: int) -> float:
    """As of `beam.Scorer`."""
    cut_short = state > _START and state not in self._ends
    return -self._penalty if cut_short else 0.0


def read_words(path: str | os.PathLike) -> list[str]:
  """Words of a file, the first of each line: `word` or `word count`.

  Raises:
    ValueError: It cannot be read.
  """
  try:
    text = pathlib.Path(path).read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(
      f"word list {path}: {files.reason(error)}; give a UTF-8 file "
      "of one word a line"
    ) from error
  return [line.split()[0] for line in text.split("\n") if line.strip()]


def _letter_runs(text: str) -> list[str]:
  return "".join(c if c.isalpha() else " " for c in text).split()
