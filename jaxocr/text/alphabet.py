"""The characters a recogniser can tell apart, and their class ids."""

from collections.abc import Iterable
import dataclasses
import functools
import pathlib
import unicodedata

import numpy as np

NUMERIC = "0123456789.,:/()%$*+- "
LATIN = "".join(map(chr, range(0x20, 0x7F)))  # Printable ASCII.

_NAMED = {"numeric": NUMERIC, "latin": LATIN}


@dataclasses.dataclass(frozen=True)
class Alphabet:
  """An ordered set of characters; class id = index + 1, 0 is the CTC blank.

  Space is a character like any other. Hashable, so it can be a static argument.

  Raises:
    ValueError: No characters, one of them twice, one that NFC would change, or
      a control character (a label file could not hold it).
  """

  characters: str
  name: str = "custom"

  def __post_init__(self):
    if not self.characters:
      raise ValueError(f"alphabet {self.name!r} is empty; give it characters")
    repeated = [c for c in self.characters if self.characters.count(c) > 1]
    if repeated:
      raise ValueError(
        f"alphabet {self.name!r} repeats {_show(_unique(repeated))}; "
        "list each character once"
      )
    for char in self.characters:
      if unicodedata.normalize("NFC", char) != char:
        raise ValueError(
          f"alphabet {self.name!r} holds {_show(char)}, which NFC writes as "
          f"{_show(unicodedata.normalize('NFC', char))}; list that instead"
        )
      if unicodedata.category(char) in ("Cc", "Cs"):
        raise ValueError(
          f"alphabet {self.name!r} holds {_show(char)}, a control character; "
          "remove it"
        )

  @property
  def size(self) -> int:
    """A, the number of characters."""
    return len(self.characters)

  @property
  def num_classes(self) -> int:
    """K = A + 1, the blank included."""
    return self.size + 1

  @functools.cached_property
  def _class_of(self) -> dict[str, int]:
    return {char: i + 1 for i, char in enumerate(self.characters)}

  def encode(self, text: str) -> np.ndarray:
    """Class ids [len(NFC of text)] int32 of a text.

    Raises:
      ValueError: Names the characters outside the alphabet.
    """
    unknown = self.unknown(text)
    if unknown:
      raise ValueError(
        f"{text!r} has characters outside the alphabet {self.name!r}: "
        f"{_show(unknown)}; drop the text or extend the alphabet"
      )
    text = unicodedata.normalize("NFC", text)
    return np.array([self._class_of[char] for char in text], np.int32)

  def decode(self, ids: Iterable[int]) -> str:
    """The text of class ids; zeros, a label's padding, are skipped.

    Raises:
      ValueError: An id below 0 or above the alphabet's size.
    """
    ids = np.asarray(list(ids), np.int64)
    wrong = ids[(ids < 0) | (ids > self.size)]
    if wrong.size:
      raise ValueError(
        f"class id {wrong[0]} is not in 0..{self.size} of alphabet "
        f"{self.name!r}; was the model trained with another alphabet?"
      )
    return "".join(self.characters[i - 1] for i in ids if i)

  def unknown(self, text: str) -> str:
    """Characters of `text` (as NFC) that are outside, each once, in order."""
    text = unicodedata.normalize("NFC", text)
    return _unique(char for char in text if char not in self._class_of)


def load_alphabet(name_or_path: str | pathlib.Path) -> Alphabet:
  """A named alphabet, or one read from a file with one character a line.

  The file is UTF-8; a line that holds one space means the space, and empty
  lines are skipped. A name wins over a file of that name.

  Raises:
    ValueError: Neither a name nor a readable file, or a line of the file is not
      a single character.
  """
  if str(name_or_path) in _NAMED:
    return Alphabet(_NAMED[str(name_or_path)], name=str(name_or_path))
  path = pathlib.Path(name_or_path)
  try:
    text = path.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(f"alphabet file {path} is not UTF-8: {error}") from error
  except OSError as error:
    raise ValueError(
      f"alphabet {str(path)!r} is neither {' nor '.join(_NAMED)} nor a file "
      f"({error.strerror}); give a name or a file of one character a line"
    ) from error
  characters = []
  # Not splitlines(): that would also cut at U+2028 and the like.
  for number, line in enumerate(text.split("\n"), start=1):
    char = unicodedata.normalize("NFC", line)
    if len(char) > 1:
      raise ValueError(
        f"{path}, line {number}: {char!r} is {len(char)} characters; "
        "write one a line"
      )
    characters.append(char)
  return Alphabet("".join(characters), name=path.stem)


def _unique(chars: Iterable[str]) -> str:
  return "".join(dict.fromkeys(chars))


def _show(chars: str) -> str:
  return ", ".join(f"{char!r} (U+{ord(char):04X})" for char in chars)
