"""CTC prefix beam search: the most probable labelling, not alignment.

After Hannun et al. 2014 (alg. 1), with a score of the text besides. A prefix
keeps the probability of its alignments that end in a blank apart from that of
those that end in its last character: a character doubles only after a blank.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any, Protocol

import chex
import numpy as np

_NEVER = -math.inf


class Scorer(Protocol):
  """What a text is worth besides its frames, character by character."""

  def start(self) -> Any:
    """The state before the first character."""

  def step(self, state: Any, class_id: int) -> tuple[Any, float]:
    """The state after a character, and what it adds to the log-probability."""

  def end(self, state: Any) -> float:
    """What the end of the text adds."""


@dataclasses.dataclass(frozen=True)
class Hypothesis:
  """One labelling."""

  ids: tuple[int, ...]  # Class ids.
  log_prob: float  # Of all its alignments that the search has seen.
  score: float  # With what the scorers add.


class _Prefix:
  """What is known of a prefix at a frame."""

  __slots__ = ("blank", "label", "states", "text")

  def __init__(self, states, text):
    self.blank = self.label = _NEVER  # Log-probabilities by last frame.
    self.states, self.text = states, text  # Of the scorers, and their sum.

  @property
  def log_prob(self) -> float:
    return _add(self.blank, self.label)


def beam_search(
  log_probs: np.ndarray,
  *,
  width: int,
  scorers: Sequence[Scorer] = (),
  floor: float = _NEVER,
) -> list[Hypothesis]:
  """The best labellings of one line, best first.

  Without scorers, and wide enough to drop no prefix, the first is the most
  probable labelling.

  Args:
    log_probs: [T, K] log-softmax of a line's logits; class 0 is the blank.
    width: Prefixes kept after each frame.
    scorers: Added to the log-probability of a text.
    floor: Classes below this log-probability start no character at a frame.
  """
  chex.assert_rank(log_probs, 2)
  if width < 1:
    raise ValueError(f"beam width={width}; it must be 1 or more")
  first = _Prefix(tuple(s.start() for s in scorers), 0.0)
  first.blank = 0.0
  beams = {(): first}
  likely = [np.flatnonzero(frame[1:] > floor) + 1 for frame in log_probs]
  for frame, classes in zip(log_probs.tolist(), likely, strict=True):
    beams = _next(beams, frame, classes.tolist(), scorers)
    if len(beams) > width:
      best = sorted(
        beams.items(), key=lambda item: -item[1].log_prob - item[1].text
      )
      beams = dict(best[:width])
  found = [
    Hypothesis(ids, p.log_prob, p.log_prob + p.text + _ends(p, scorers))
    for ids, p in beams.items()
  ]
  return sorted(found, key=lambda h: -h.score)


def _next(beams, frame, classes, scorers) -> dict[tuple[int, ...], _Prefix]:
  """Prefixes after one more frame."""
  after: dict[tuple[int, ...], _Prefix] = {}
  for ids, prefix in beams.items():
    whole = prefix.log_prob
    last = ids[-1] if ids else 0
    same = after.get(ids)
    if same is None:
      same = after[ids] = _Prefix(prefix.states, prefix.text)
    same.blank = _add(same.blank, whole + frame[0])
    if last:
      same.label = _add(same.label, prefix.label + frame[last])
    for class_id in classes:
      # Equal neighbours are one character unless a blank is between them.
      before = prefix.blank if class_id == last else whole
      if before == _NEVER:
        continue
      longer = (*ids, class_id)
      grown = after.get(longer)
      if grown is None:
        # It may be a beam already: then its states are these as well.
        grown = after[longer] = _grow(prefix, class_id, scorers)
      grown.label = _add(grown.label, before + frame[class_id])
  return after


def _grow(prefix: _Prefix, class_id: int, scorers) -> _Prefix:
  states, text = [], prefix.text
  for scorer, state in zip(scorers, prefix.states, strict=True):
    state, worth = scorer.step(state, class_id)
    states.append(state)
    text += worth
  return _Prefix(tuple(states), text)


def _ends(prefix: _Prefix, scorers) -> float:
  pairs = zip(scorers, prefix.states, strict=True)
  return sum(scorer.end(state) for scorer, state in pairs)


def _add(a: float, b: float) -> float:
  """log(exp(a) + exp(b))."""
  if a < b:
    a, b = b, a
  return a if b == _NEVER else a + math.log1p(math.exp(b - a))


def align(log_probs: np.ndarray, ids: Sequence[int]) -> np.ndarray:
  """The most probable alignment of a labelling (Viterbi).

  Args:
    log_probs: [T, K].
    ids: Class ids, without blanks.

  Returns:
    [T] int32: the class of each frame.

  Raises:
    ValueError: T frames are too few.
  """
  states = np.zeros(2 * len(ids) + 1, np.int64)
  states[1::2] = ids
  # A character may follow another without a blank unless they are equal.
  skips = np.zeros(len(states), bool)
  skips[3::2] = states[3::2] != states[1:-2:2]
  score = np.full(len(states), _NEVER)
  score[:2] = log_probs[0, states[:2]]
  came = np.zeros((len(log_probs), len(states)), np.int64)
  for t in range(1, len(log_probs)):
    one = np.concatenate([[_NEVER], score[:-1]])
    two = np.concatenate([[_NEVER] * 2, score[:-2]])[: len(states)]
    ways = np.stack([score, one, np.where(skips, two, _NEVER)])
    came[t] = np.argmax(ways, axis=0)
    score = ways.max(axis=0) + log_probs[t, states]
  place = len(states) - 1
  if len(states) > 1 and score[-2] > score[-1]:
    place -= 1
  if score[place] == _NEVER:
    raise ValueError(
      f"{len(ids)} characters do not fit {len(log_probs)} frames"
    )
  path = np.zeros(len(log_probs), np.int32)
  for t in range(len(log_probs) - 1, -1, -1):
    path[t] = states[place]
    place -= came[t, place]
  return path
