"""Weights of a recogniser as the start of one with another alphabet."""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

import numpy as np

from jaxocr.export import bundle
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.train import ship

HEAD = "head"  # The only layer that knows of characters.


@dataclasses.dataclass(frozen=True)
class Matched:
  """What became of the characters."""

  matched: str  # In both: they keep what was learnt of them.
  new: str  # Start at random.
  dropped: str

  def describe(self) -> str:
    """One line for a person."""
    parts = [
      f"{len(chars)} {name}" + (f" ({chars!r})" if chars and shown else "")
      for name, chars, shown in (
        ("matched", self.matched, False),
        ("new", self.new, True),
        ("dropped", self.dropped, True),
      )
    ]
    return f"characters of the head: {', '.join(parts)}"


def load_start(path: str | os.PathLike) -> bundle.Bundle:
  """A run's or file's weights, to train on from.

  Raises:
    ValueError: There is none, it is damaged, or it is packed.
  """
  if os.path.isdir(path):
    path = os.path.join(path, bundle.BUNDLE_NAME)
  if not os.path.isfile(path):
    raise ValueError(
      f"start={path}: there is no such file; give a run or a file of "
      "--experiment=crnn"
    )
  found = bundle.load_bundle(path)
  if found.meta["architecture"].get("folded"):
    raise ValueError(
      f"start={path} is packed for reading, its moments are gone; give the run "
      "of --experiment=crnn that it came from"
    )
  return found


def adapt(
  found: bundle.Bundle, alphabet: alphabet_lib.Alphabet, *, seed: int
) -> tuple[ship.Weights, Matched]:
  """Weights for another alphabet.

  Rows of the head that belong to characters of both alphabets, and the blank's,
  are kept; those of new characters are drawn as large as the others are.

  Args:
    found: As of `load_start`.
    alphabet: The new one.
    seed: Of what is drawn.
  """
  weights = ship.load_weights(found)
  old = alphabet_lib.Alphabet(**found.meta["alphabet"])
  places = {char: i + 1 for i, char in enumerate(old.characters)}
  known = [places.get(char) for char in alphabet.characters]
  rng = np.random.default_rng(seed)

  def rows(leaf, spread):
    """The last axis is the classes'."""
    leaf = np.asarray(leaf)
    shape = (*leaf.shape[:-1], alphabet.num_classes)
    made = rng.normal(leaf[..., 1:].mean(), spread, shape).astype(leaf.dtype)
    made[..., 0] = leaf[..., 0]
    for place, before in enumerate(known, start=1):
      if before is not None:
        made[..., place] = leaf[..., before]
    return made

  head: Mapping[str, Any] = weights.params[HEAD]
  adapted = {
    # A bias has one value a class, whose spread says little.
    name: rows(leaf, np.asarray(leaf).std() if name == "kernel" else 0.0)
    for name, leaf in head.items()
  }
  params = {**weights.params, HEAD: adapted}
  matched = Matched(
    "".join(c for c in alphabet.characters if c in places),
    "".join(c for c in alphabet.characters if c not in places),
    old.characters.translate({ord(c): None for c in alphabet.characters}),
  )
  return dataclasses.replace(weights, params=params), matched
