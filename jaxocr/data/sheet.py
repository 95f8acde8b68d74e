"""Contact sheets: many lines of text in one picture, each above its label."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

_MARGIN_PX = 6
_CAPTION_PX = 16
_GROUND, _INK = 224, 32  # Neither the white nor the black of a line.


def contact_sheet(
  images: np.ndarray, labels: Sequence[str], *, columns: int
) -> PIL.Image.Image:
  """Draws lines row by row; spaces of the labels show as middle dots.

  Args:
    images: [N, H, W] in [0, 1].
    labels: N texts.
    columns: Lines side by side.

  Raises:
    ValueError: Shapes that don't fit together.
  """
  if images.ndim != 3 or len(images) != len(labels):
    raise ValueError(
      f"{len(labels)} labels for images {images.shape}; give [N, H, W] and N"
    )
  _, height, width = images.shape
  cell_width, cell_height = (
    width + _MARGIN_PX,
    height + _CAPTION_PX + _MARGIN_PX,
  )
  rows = -(-len(images) // columns)
  sheet = PIL.Image.new(
    "L",
    (columns * cell_width + _MARGIN_PX, rows * cell_height + _MARGIN_PX),
    _GROUND,
  )
  font = PIL.ImageFont.load_default(size=11)
  pixels = np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
  for i, (line, label) in enumerate(zip(pixels, labels, strict=True)):
    row, column = divmod(i, columns)
    x = _MARGIN_PX + column * cell_width
    y = _MARGIN_PX + row * cell_height
    sheet.paste(PIL.Image.fromarray(line), (x, y))
    # Drawn apart, so that a long label does not run into its neighbour.
    text = label.replace(" ", "\u00b7")
    caption = PIL.Image.new("L", (width, _CAPTION_PX), _GROUND)
    PIL.ImageDraw.Draw(caption).text((0, 1), text, fill=_INK, font=font)
    sheet.paste(caption, (x, y + height))
  return sheet
