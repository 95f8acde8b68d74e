"""CTC greedy decoding: logits to text, confidences and places in the image."""

from collections.abc import Sequence
import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.text import alphabet as alphabet_lib

# Image columns to a frame of logits, in every network here.
FRAME_PX = 4


@dataclasses.dataclass(frozen=True)
class Character:
  """One character that was read, and where."""

  char: str
  confidence: float  # In [0, 1]: the highest probability in its run of frames.
  x0: float  # Left edge, pixels of the image as given.
  x1: float  # Right edge, exclusive; x0 for one seen only in the padding.


@dataclasses.dataclass(frozen=True)
class Reading:
  """What was read from one line."""

  text: str
  # Product of its characters'; of an empty text that of the frame which is
  # least surely blank.
  confidence: float
  characters: tuple[Character, ...]
  rejected: bool = False  # Less sure than was asked for: the text is empty.

  @property
  def score(self) -> float:
    """The confidence."""
    return self.confidence

  @property
  def chars(self) -> list[tuple[str, float, float, float]]:
    """(char, score, x0, x1) of each character."""
    return [(c.char, c.confidence, c.x0, c.x1) for c in self.characters]


def best_path(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The most probable class of each frame (Graves et al. 2006, eq. 4).

  Args:
    logits: [B, T, K], any float type; the softmax is taken in float32.

  Returns:
    Classes [B, T] int32 and their probabilities [B, T] float32 in (0, 1].
  """
  chex.assert_rank(logits, 3)
  logits = logits.astype(jnp.float32)
  classes = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  log_top = jnp.max(logits, axis=-1) - jax.nn.logsumexp(logits, axis=-1)
  return classes, jnp.exp(log_top)


def collapse(
  classes: np.ndarray,
  probabilities: np.ndarray,
  alphabet: alphabet_lib.Alphabet,
  *,
  frame_px: float = FRAME_PX,
  x_scale: float = 1.0,
  width_px: float | None = None,
) -> Reading:
  """Merges each run of equal classes to one character and drops the blanks.

  Args:
    classes: [T] integers, class of each frame.
    probabilities: [T], their probabilities.
    alphabet: Of the model that gave the classes.
    frame_px: Width of a frame in the network's input.
    x_scale: Pixels of the original image per pixel of the network's input.
    width_px: Width of the original image; places are clipped to it.
  """
  classes = np.asarray(classes)
  probabilities = np.asarray(probabilities)
  chex.assert_rank(classes, 1)
  chex.assert_equal_shape((classes, probabilities))
  limit = float("inf") if width_px is None else float(width_px)
  step = frame_px * x_scale
  starts = np.flatnonzero(np.diff(classes, prepend=-1))
  ends = np.append(starts[1:], len(classes))
  characters = tuple(
    Character(
      char=alphabet.decode(classes[start : start + 1]),
      confidence=float(probabilities[start:end].max()),
      x0=min(float(start * step), limit),
      x1=min(float(end * step), limit),
    )
    for start, end in zip(starts, ends, strict=False)
    if classes[start] != 0
  )
  sure = [c.confidence for c in characters] or [probabilities.min(initial=1)]
  return Reading(
    text="".join(character.char for character in characters),
    confidence=float(np.prod(sure)),
    characters=characters,
  )


def greedy_decode(
  logits: jax.Array,
  alphabet: alphabet_lib.Alphabet,
  *,
  frame_px: float = FRAME_PX,
  x_scales: Sequence[float] | None = None,
  widths_px: Sequence[float] | None = None,
) -> list[Reading]:
  """Best path and collapse of a batch.

  Where speed counts: jit the network with `best_path`, then `collapse` rows.

  Args:
    logits: [B, T, K].
    alphabet: With A + 1 = K.
    frame_px: As for `collapse`.
    x_scales: B numbers, as `x_scale` of `collapse`; all 1 when None.
    widths_px: B numbers, as `width_px` of `collapse`; no clipping when None.
  """
  chex.assert_axis_dimension(logits, -1, alphabet.num_classes)
  batch = len(logits)
  classes, probabilities = jax.device_get(best_path(logits))
  x_scales = [1.0] * batch if x_scales is None else x_scales
  widths_px = [None] * batch if widths_px is None else widths_px
  return [
    collapse(*line, alphabet, frame_px=frame_px, x_scale=scale, width_px=width)
    for *line, scale, width in zip(
      classes, probabilities, x_scales, widths_px, strict=True
    )
  ]
