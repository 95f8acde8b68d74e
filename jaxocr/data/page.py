"""Pages: told from lines by their shape, and cut into lines by their profile.

There is no text detection here. A projection profile is enough for a scanned
column of upright text on even paper, and for nothing else.
"""

import dataclasses

import numpy as np

from jaxocr.data import preprocess

# Crops of a line are lower than this, or much wider than high; photos and scans
# of pages are neither.
_PAGE_HEIGHT_PX = 320
_PAGE_ASPECT = 3.0  # Width over height.

_LEAST_LINE_PX = 6  # Lower bands are specks and rules.
_GAP_SHARE = 0.15  # Of a line's height: dots of i and accents are no gap.
_MARGIN_SHARE = 0.15  # Of a line's height, left around it.
_INK_SHARE = 0.004  # Of a row's or column's pixels: less is no text.


@dataclasses.dataclass(frozen=True)
class Box:
  """A part of an image; right and bottom are exclusive."""

  left: int
  top: int
  right: int
  bottom: int


def refuse_page(grey: np.ndarray) -> None:
  """Raises PreprocessError, with advice, for what has the shape of a page.

  Args:
    grey: [h, w] uint8.
  """
  height, width = grey.shape
  if height > _PAGE_HEIGHT_PX and width < _PAGE_ASPECT * height:
    raise preprocess.PreprocessError(
      f"{width}x{height} pixels look like a page or photo, not one line of "
      "text; crop a line, or cut the page with --lines (Reader.read_page). A "
      f"single line is taken below {_PAGE_HEIGHT_PX} pixels of height"
    )


def cut_lines(grey: np.ndarray) -> list[Box]:
  """Lines of text, from top to bottom.

  Args:
    grey: [h, w] uint8, ink dark or light.
  """
  ink = _ink(grey)
  bands = _bands(ink.mean(axis=1) > _INK_SHARE)
  if not bands:
    return []
  usual = float(np.median([bottom - top for top, bottom in bands]))
  bands = _joined(bands, gap=_GAP_SHARE * usual)
  boxes = []
  for top, bottom in bands:
    if bottom - top < max(_LEAST_LINE_PX, 0.3 * usual):
      continue
    columns = np.flatnonzero(ink[top:bottom].any(axis=0))
    margin = round(_MARGIN_SHARE * (bottom - top))
    boxes.append(
      Box(
        max(0, int(columns[0]) - margin),
        max(0, top - margin),
        min(grey.shape[1], int(columns[-1]) + 1 + margin),
        min(grey.shape[0], bottom + margin),
      )
    )
  return boxes


def _ink(grey: np.ndarray) -> np.ndarray:
  """[h, w] bool: what is far from the paper, on the side where text is."""
  threshold = _otsu(grey)
  dark = grey < threshold
  return dark if dark.mean() <= 0.5 else ~dark


def _otsu(grey: np.ndarray) -> int:
  """The level that parts the pixels best in two groups (Otsu 1979)."""
  counts = np.bincount(grey.ravel(), minlength=256).astype(float)
  below = np.cumsum(counts)
  sums = np.cumsum(counts * np.arange(256))
  above = below[-1] - below
  with np.errstate(divide="ignore", invalid="ignore"):
    apart = sums / below - (sums[-1] - sums) / above
    between = np.nan_to_num(below * above * apart**2)
  return int(between.argmax()) + 1


def _bands(rows: np.ndarray) -> list[tuple[int, int]]:
  """Runs of True: (first, one after the last)."""
  edges = np.flatnonzero(np.diff(rows.astype(np.int8), prepend=0, append=0))
  return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _joined(bands, *, gap: float) -> list[tuple[int, int]]:
  """Bands with no more than `gap` rows between them as one."""
  found = [bands[0]]
  for top, bottom in bands[1:]:
    if top - found[-1][1] <= gap:
      found[-1] = (found[-1][0], bottom)
    else:
      found.append((top, bottom))
  return found
