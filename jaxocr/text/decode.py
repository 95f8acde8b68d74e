"""From logits to readings, by whichever way was asked for.

On the host, in NumPy, whoever computed the logits. Allowed characters and the
temperature change the logits before any search; the rest is greedy (the best
path) or a prefix beam search with a lexicon and a language model.
"""

from collections.abc import Sequence
import dataclasses
import math
import os

import chex
import numpy as np

from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import beam as beam_lib
from jaxocr.text import ctc
from jaxocr.text import lexicon as lexicon_lib
from jaxocr.text import ngram

# Prefixes kept, where a search is asked for without saying how wide.
BEAM = 16
# Of a word that is not listed, nats.
LEXICON_PENALTY = 3.0
# Of a language model's log-probability.
LM_WEIGHT = 0.3
# Classes that start no character at a frame: the search would hardly look at
# them, and a line takes a tenth of the time without.
_FLOOR = math.log(1e-4)


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How logits become text. The default is greedy."""

  # Prefixes kept by beam search; 0 takes the best path.
  beam: int = 0
  # Worth of a text besides its frames; needs a beam.
  scorers: tuple[beam_lib.Scorer, ...] = ()
  # Characters that may be read; None: all of the alphabet.
  allowed: str | None = None
  # Divides the logits: above 1 makes the network less sure, see `calibrate`.
  temperature: float = 1.0
  # Readings less sure than this are rejected: their text is empty.
  reject_below: float = 0.0

  def validate(self, alphabet: alphabet_lib.Alphabet) -> None:
    """Raises ValueError for the first thing that cannot work."""
    if self.beam < 0:
      raise ValueError(f"beam={self.beam}; it must be 0 (greedy) or more")
    if self.scorers and not self.beam:
      raise ValueError(
        "a lexicon or a language model needs a beam search; give a beam, say 16"
      )
    if not 0 < self.temperature < math.inf:
      raise ValueError(f"temperature={self.temperature}; it must be above 0")
    if not 0 <= self.reject_below <= 1:
      raise ValueError(
        f"reject_below={self.reject_below}; it must be in [0, 1]"
      )
    if self.allowed is not None:
      unknown = alphabet.unknown(self.allowed)
      if unknown or not self.allowed:
        raise ValueError(
          f"allowed characters {self.allowed!r}: {unknown!r} are not in the "
          f"alphabet {alphabet.name!r}; give one or more of "
          f"{alphabet.characters!r}"
        )


GREEDY = Decoding()


def log_softmax(
  logits: np.ndarray,
  decoding: Decoding,
  alphabet: alphabet_lib.Alphabet,
) -> np.ndarray:
  """Log-probabilities [..., K] of those classes that are allowed."""
  scores = logits.astype(np.float32)
  if decoding.temperature != 1:
    scores = scores / np.float32(decoding.temperature)
  if decoding.allowed is not None:
    shut = np.ones(alphabet.num_classes, bool)
    shut[0] = False  # The blank: it is no character.
    shut[alphabet.encode(decoding.allowed)] = False
    scores = np.where(shut, -np.inf, scores)
  scores = scores - scores.max(axis=-1, keepdims=True)
  return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))


def decode(
  logits: np.ndarray,
  alphabet: alphabet_lib.Alphabet,
  decoding: Decoding = GREEDY,
  *,
  frame_px: float = ctc.FRAME_PX,
  x_scales: Sequence[float] | None = None,
  widths_px: Sequence[float] | None = None,
) -> list[ctc.Reading]:
  """Reads a batch.

  Args:
    logits: [B, T, K].
    alphabet: With A + 1 = K.
    decoding: How.
    frame_px: As for `ctc.collapse`.
    x_scales: B numbers, as `x_scale` of `ctc.collapse`; all 1 when None.
    widths_px: B numbers, as `width_px` there; no clipping when None.

  Returns:
    B readings. What beam search reads is placed by its most probable alignment,
    and is as sure as the frames of that.
  """
  chex.assert_rank(logits, 3)
  chex.assert_axis_dimension(logits, -1, alphabet.num_classes)
  log_probs = log_softmax(np.asarray(logits), decoding, alphabet)
  classes = log_probs.argmax(axis=-1)
  if decoding.beam:
    for line, path in zip(log_probs, classes, strict=True):
      path[:] = _searched(line, path, decoding)
  sure = np.take_along_axis(log_probs, classes[..., None], axis=-1)[..., 0]
  probabilities = np.exp(sure)
  batch = len(log_probs)
  x_scales = [1.0] * batch if x_scales is None else x_scales
  widths_px = [None] * batch if widths_px is None else widths_px
  return [
    _judged(
      ctc.collapse(
        *line, alphabet, frame_px=frame_px, x_scale=scale, width_px=width
      ),
      decoding,
    )
    for *line, scale, width in zip(
      classes, probabilities, x_scales, widths_px, strict=True
    )
  ]


def _searched(
  log_probs: np.ndarray, path: np.ndarray, decoding: Decoding
) -> np.ndarray:
  """Class of each frame, of the best labelling that a search finds."""
  (best, *_) = beam_lib.beam_search(
    log_probs, width=decoding.beam, scorers=decoding.scorers, floor=_FLOOR
  )
  starts = np.flatnonzero(np.diff(path, prepend=-1))
  if tuple(c for c in path[starts].tolist() if c) == best.ids:
    return path
  return beam_lib.align(log_probs, best.ids)


def _judged(reading: ctc.Reading, decoding: Decoding) -> ctc.Reading:
  if reading.confidence >= decoding.reject_below:
    return reading
  return dataclasses.replace(reading, text="", rejected=True)


def make_decoding(
  alphabet: alphabet_lib.Alphabet,
  *,
  beam: int | None = None,
  lexicon: str | os.PathLike | None = None,
  lexicon_penalty: float = LEXICON_PENALTY,
  lm: str | os.PathLike | None = None,
  lm_weight: float = LM_WEIGHT,
  allowed: str | None = None,
  temperature: float = 1.0,
  reject_below: float = 0.0,
) -> Decoding:
  """A decoding from files and numbers.

  Args:
    alphabet: Of the model.
    beam: Prefixes kept; None: 16 where a lexicon or a text is given, else 0.
    lexicon: File of one word a line, see `Lexicon`.
    lexicon_penalty: Of other words, nats.
    lm: File of text, whose characters an `NGram` counts.
    lm_weight: Of it.
    allowed: As of `Decoding`.
    temperature: As of `Decoding`.
    reject_below: As of `Decoding`.

  Raises:
    ValueError: A file cannot be read, or something is out of range.
  """
  scorers = []
  if lexicon is not None:
    words = lexicon_lib.read_words(lexicon)
    scorers.append(
      lexicon_lib.Lexicon(words, alphabet, penalty=lexicon_penalty)
    )
  if lm is not None:
    texts = ngram.read_texts(lm)
    scorers.append(ngram.NGram(texts, alphabet, weight=lm_weight))
  if beam is None:
    beam = BEAM if scorers else 0
  decoding = Decoding(
    beam=beam,
    scorers=tuple(scorers),
    allowed=allowed,
    temperature=temperature,
    reject_below=reject_below,
  )
  decoding.validate(alphabet)
  return decoding
