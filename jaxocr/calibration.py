"""Reliability of a recogniser on a set, before and after a temperature.

Each second line fits the temperature; the figures are of the others.
"""

import dataclasses
import os

import numpy as np

from jaxocr import files
from jaxocr import reader as reader_lib
from jaxocr.data import real
from jaxocr.text import calibrate as calibrate_lib
from jaxocr.text import decode


@dataclasses.dataclass(frozen=True)
class Calibration:
  """What was fitted, and what it gives on lines that it was not fitted to."""

  temperature: float
  fitted_to: int  # Lines.
  before: calibrate_lib.Reliability
  after: calibrate_lib.Reliability


def calibrate(
  model: str | os.PathLike | None, path: str | os.PathLike
) -> Calibration:
  """Of a model, by a set.

  Raises:
    ValueError: The set cannot be read, or has under two lines.
  """
  reader = reader_lib.Reader.load(model)
  items = real.read_labels(path, reader.alphabet).all_items
  if len(items) < 2:
    raise ValueError(f"{path}: {len(items)} readable lines; give two or more")
  logits = reader.logits(
    [item.pixels.astype(np.float32) / 255 for item in items]
  )
  right = [
    decode.decode(line[None], reader.alphabet)[0].text == item.label
    for line, item in zip(logits, items, strict=True)
  ]
  temperature = calibrate_lib.fit_temperature(logits[::2], right[::2])

  def measured(divisor):
    sure = calibrate_lib.greedy_confidences(logits[1::2], divisor)
    return calibrate_lib.reliability(sure, right[1::2])

  return Calibration(
    temperature, len(right[::2]), measured(1.0), measured(temperature)
  )


def describe(found: Calibration) -> str:
  """The temperature and the bins, for a person."""
  rows = [
    f"temperature {found.temperature:.3f}, fitted to {found.fitted_to:,} lines",
    f"of {sum(found.before.counts):,} other lines:",
    "            calibration error  cross-entropy",
  ]
  for name, of in (("as it is", found.before), ("calibrated", found.after)):
    rows.append(f"{name:11} {of.error:18.4f} {of.entropy:14.4f}")
  rows.append("confidence   lines  said   true   (calibrated)")
  bins = len(found.after.counts)
  for i, count in enumerate(found.after.counts):
    if count:
      rows.append(
        f"{i / bins:.1f} to {(i + 1) / bins:.1f} {count:8,}  "
        f"{found.after.confidence[i]:.3f}  {found.after.accuracy[i]:.3f}"
      )
  return "\n".join(rows)


def draw(found: Calibration, out: str | os.PathLike) -> None:
  """Writes the reliability diagram as PNG."""
  from matplotlib import figure

  picture = figure.Figure(figsize=(8, 4), layout="constrained")
  panels = picture.subplots(1, 2, sharey=True)
  named = (("as it is", found.before), ("calibrated", found.after))
  for panel, (name, of) in zip(panels, named, strict=True):
    bins = len(of.counts)
    places = (np.arange(bins) + 0.5) / bins
    panel.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    panel.bar(places, of.accuracy, 0.9 / bins, color="#4878a8")
    for x, height, count in zip(places, of.accuracy, of.counts, strict=True):
      if count:
        panel.annotate(
          str(count), (x, height), ha="center", va="bottom", fontsize=7
        )
    panel.set(
      title=f"{name}: error {of.error:.3f}",
      xlabel="confidence",
      xlim=(0, 1),
      ylim=(0, 1.05),
    )
  panels[0].set_ylabel("share of lines read exactly")
  with files.aside(out) as part:
    picture.savefig(part, format="png", dpi=120)
