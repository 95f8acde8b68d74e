"""How much a confidence is worth: reliability, and a temperature that mends it.

Guo et al. 2017: one number divides all logits; it changes no greedy reading,
only how sure the network says it is. Here it is chosen for whole lines: the
cross-entropy between a line's confidence and whether it was read exactly.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

_LOWEST = 1e-6  # A confidence is kept this far from 0 and 1 in logarithms.
_RANGE = (0.25, 8.0)  # Of temperatures tried.
BINS = 10


@dataclasses.dataclass(frozen=True)
class Reliability:
  """Confidence beside accuracy, in bins of equal width."""

  counts: tuple[int, ...]  # Lines of each bin.
  confidence: tuple[float, ...]  # Mean of each bin; NaN where it is empty.
  accuracy: tuple[float, ...]  # Likewise.
  error: float  # Expected calibration error: mean difference, by lines.
  entropy: float  # Mean cross-entropy, nats.


def reliability(
  confidences: Sequence[float], right: Sequence[bool], *, bins: int = BINS
) -> Reliability:
  """Of lines, each with its confidence and whether it was read exactly."""
  sure, hits = np.asarray(confidences, float), np.asarray(right, float)
  if not sure.size or sure.shape != hits.shape:
    raise ValueError(
      f"{sure.size} confidences for {hits.size} lines; give one each, and one "
      "line at least"
    )
  place = np.minimum((sure * bins).astype(int), bins - 1)
  counts = np.bincount(place, minlength=bins)
  with np.errstate(invalid="ignore"):
    mean = np.bincount(place, sure, bins) / counts
    accuracy = np.bincount(place, hits, bins) / counts
  gaps = np.abs(np.nan_to_num(mean - accuracy)) * counts
  return Reliability(
    tuple(counts.tolist()),
    tuple(mean.tolist()),
    tuple(accuracy.tolist()),
    float(gaps.sum() / counts.sum()),
    cross_entropy(sure, hits),
  )


def cross_entropy(confidences: np.ndarray, right: np.ndarray) -> float:
  """Mean of -log of what was said of what came true."""
  sure = np.clip(confidences, _LOWEST, 1 - _LOWEST)
  return float(-np.mean(np.log(np.where(right, sure, 1 - sure))))


def greedy_confidences(
  logits: Sequence[np.ndarray], temperature: float
) -> np.ndarray:
  """Confidence of each line's greedy reading.

  Args:
    logits: [T, K] each.
    temperature: Divides them.

  Returns:
    [lines], each as `ctc.collapse` has it.
  """
  return np.array([_confidence(line / temperature) for line in logits])


def _confidence(scores: np.ndarray) -> float:
  classes = scores.argmax(axis=-1)
  scores = scores.astype(np.float64)
  top = scores.max(axis=-1, keepdims=True)
  log_top = -np.log(np.exp(scores - top).sum(axis=-1))
  starts = np.flatnonzero(np.diff(classes, prepend=-1))
  runs = np.maximum.reduceat(log_top, starts)
  sure = runs[classes[starts] != 0]
  return float(np.exp(sure.sum() if sure.size else log_top.min()))


def fit_temperature(
  logits: Sequence[np.ndarray], right: Sequence[bool]
) -> float:
  """The temperature that makes confidences come true best.

  Args:
    logits: [T, K] each, of lines that the network was not trained on.
    right: Whether each was read exactly by its greedy path.
  """
  from scipy import optimize

  hits = np.asarray(right, bool)
  if not len(hits):
    raise ValueError("no line to calibrate on; give labelled ones")
  found = optimize.minimize_scalar(
    lambda log: cross_entropy(greedy_confidences(logits, np.exp(log)), hits),
    bounds=np.log(_RANGE),
    method="bounded",
    options={"xatol": 0.005},
  )
  return float(np.exp(found.x))
