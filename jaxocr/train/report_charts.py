"""Pictures for report.html that need no library: SVG curves and PNG bytes."""

import base64
from collections.abc import Sequence
import dataclasses
import html
import math
import struct
import zlib

import numpy as np

# Plot area in SVG units; the picture scales to the width of its card.
_WIDTH, _HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 26
_MAX_POINTS = 400  # Of one curve; more cannot be told apart at this size.


@dataclasses.dataclass(frozen=True)
class Curve:
  """One line of a chart: `points` are (step, value), steps rising."""

  label: str
  points: Sequence[tuple[float, float]]


def chart(curves: Sequence[Curve], *, log: bool = False) -> str:
  """An SVG line chart of at most three curves, axes and labels included.

  Colours come from the page's CSS classes `c0` to `c2`. Each point says its
  step and value when hovered. Values that a log axis cannot show are left out.

  Args:
    curves: What to draw; empty ones are skipped.
    log: Use a decimal log axis for the values, which must then be positive.

  Returns:
    The `<svg>` element, or "" when there is no point to draw.
  """
  scale = math.log10 if log else float
  drawn = []
  for curve in curves:
    points = [(s, v) for s, v in curve.points if math.isfinite(v)]
    points = _thin([(s, v) for s, v in points if not log or v > 0])
    if points:
      drawn.append(Curve(curve.label, points))
  if not drawn:
    return ""

  steps = [s for curve in drawn for s, _ in curve.points]
  values = [v for curve in drawn for _, v in curve.points]
  x_ticks = ticks(min(steps), max(steps), count=4)
  y_ticks = (
    log_ticks(min(values), max(values))
    if log
    else ticks(min(values), max(values), count=5)
  )
  x_low, x_high = min(steps), max(*steps, min(steps) + 1e-9)
  y_low = min(scale(y_ticks[0]), scale(min(values)))
  y_high = max(scale(y_ticks[-1]), scale(max(values)))

  def x(step):
    share = (step - x_low) / (x_high - x_low)
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

  def y(value):
    share = (scale(value) - y_low) / max(y_high - y_low, 1e-12)
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

  parts = [
    f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
    f' aria-label="{html.escape(_summary(drawn))}">'
  ]
  parts += [_y_tick(tick, y(tick)) for tick in y_ticks]
  parts += [_x_tick(t, x(t)) for t in x_ticks if x_low <= t <= x_high]
  for index, curve in enumerate(drawn):
    parts.append(_curve(curve, index, x, y))
  parts.append("</svg>")
  return "".join(parts)


def ticks(low: float, high: float, *, count: int) -> list[float]:
  """About `count` round numbers that cover [low, high], ends included."""
  span = (high - low) or abs(high) or 1.0
  rough = span / max(count - 1, 1)
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
  first = math.floor(low / step + 1e-9)
  last = max(math.ceil(high / step - 1e-9), first + 1)
  return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
  """1, 2 and 5 of each decade that cover [low, high], thinned to a few."""
  first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
  for marks in ((1, 2, 5), (1, 3), (1,)):
    all_ticks = [
      float(f"{m}e{p}") for p in range(first, last + 1) for m in marks
    ]
    start = max((t for t in all_ticks if t <= low), default=all_ticks[0])
    end = min((t for t in all_ticks if t >= high), default=all_ticks[-1])
    chosen = [t for t in all_ticks if start <= t <= end]
    if len(chosen) <= 7:
      break
  return chosen


def number(value: float) -> str:
  """A number as short as an axis wants it: 12k, 0.003, 1e-06."""
  if abs(value) >= 1e6:
    return f"{value / 1e6:g}M"
  if abs(value) >= 1e4:
    return f"{value / 1e3:g}k"
  return f"{value:.3g}" if abs(value) < 1e3 else f"{value:.0f}"


def png_uri(image: np.ndarray) -> str:
  """A grey uint8 image [H, W] as a `data:image/png` URI."""
  image = np.ascontiguousarray(image)
  if image.ndim != 2 or image.dtype != np.uint8:
    raise ValueError(
      f"got an image of shape {image.shape} and dtype {image.dtype}; a line of"
      " the report is uint8 [H, W]"
    )
  height, width = image.shape
  # Each row starts with its filter type; 0 stores the bytes as they are.
  rows = np.pad(image, ((0, 0), (1, 0))).tobytes()
  data = b"\x89PNG\r\n\x1a\n" + b"".join(
    (
      _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
      _chunk(b"IDAT", zlib.compress(rows, 9)),
      _chunk(b"IEND", b""),
    )
  )
  return data_uri(data)


def data_uri(png: bytes) -> str:
  """A PNG file as a URI."""
  return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _chunk(kind: bytes, payload: bytes) -> bytes:
  checksum = zlib.crc32(kind + payload)
  return (
    struct.pack(">I", len(payload))
    + kind
    + payload
    + struct.pack(">I", checksum)
  )


def _thin(points: list) -> list:
  """Every n-th point, the last one always among them."""
  stride = -(-len(points) // _MAX_POINTS)
  return points[::-1][::stride][::-1] if stride > 1 else points


def _summary(curves: Sequence[Curve]) -> str:
  return "; ".join(
    f"{c.label}: {c.points[0][1]:.4g} at step {c.points[0][0]:.0f} to"
    f" {c.points[-1][1]:.4g} at step {c.points[-1][0]:.0f}"
    for c in curves
  )


def _y_tick(value: float, y: float) -> str:
  """A number left of the plot and its line across."""
  return (
    f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
    f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}"'
    f' text-anchor="end">{number(value)}</text>'
  )


def _x_tick(value: float, x: float) -> str:
  """A number below the plot."""
  return (
    f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - 8}"'
    f' text-anchor="middle">{number(value)}</text>'
  )


def _curve(curve: Curve, index: int, x, y) -> str:
  """The polyline of a curve, its end dot and a hover target per point."""
  path = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in curve.points)
  label = html.escape(curve.label)
  end_step, end_value = curve.points[-1]
  targets = "".join(
    f'<circle class="hover" cx="{x(s):.1f}" cy="{y(v):.1f}" r="5">'
    f"<title>{label}, step {s:.0f}: {v:.4g}</title></circle>"
    for s, v in curve.points
  )
  return (
    f'<polyline class="line c{index}" points="{path}"/>'
    f'<circle class="end c{index}" cx="{x(end_step):.1f}"'
    f' cy="{y(end_value):.1f}" r="3.5"/>{targets}'
  )
