import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pytest

from jaxocr.data import page
from jaxocr.data import preprocess


@pytest.mark.parametrize(
  ("height", "width", "refused"),
  [
    (32, 100, False),
    (320, 100, False),  # A tall digit.
    (321, 963, False),
    (321, 962, True),
    (1600, 600, True),  # A receipt.
    (3000, 4000, True),  # A photo.
  ],
)
def test_pages_by_their_shape(height, width, refused):
  grey = np.zeros((height, width), np.uint8)
  if not refused:
    return page.refuse_page(grey)
  with pytest.raises(
    preprocess.PreprocessError, match=f"{width}x{height} .*--l"
  ):
    page.refuse_page(grey)


def written(texts, *, paper=255, ink=0):
  """A page with a line of print each 60 px, and where each begins."""
  image = PIL.Image.new("L", (500, 60 * len(texts) + 40), paper)
  font = PIL.ImageFont.load_default(size=24)
  for i, text in enumerate(texts):
    PIL.ImageDraw.Draw(image).text((40, 30 + 60 * i), text, fill=ink, font=font)
  return np.asarray(image)


@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (200, 90), (10, 240)])
def test_lines_of_print(paper, ink):
  # Dots, accents and points are parts of their lines.
  texts = ["Ti!l: j\u00e9, g", "iiii", "mm ..."]
  grey = written(texts, paper=paper, ink=ink)
  boxes = page.cut_lines(grey)
  assert len(boxes) == 3
  for i, box in enumerate(boxes):
    rows = grey[20 + 60 * i : 75 + 60 * i].astype(int)
    inked = 20 + 60 * i + np.flatnonzero((abs(rows - ink) < 20).any(axis=1))
    assert 20 + 60 * i < box.top <= inked[0]
    assert inked[-1] < box.bottom < 75 + 60 * i
    assert 25 < box.left < 45 and box.right < 300
  assert boxes[1].right < boxes[0].right


def test_pages_without_lines():
  assert page.cut_lines(np.full((400, 300), 255, np.uint8)) == []
  specks = np.full((400, 300), 255, np.uint8)
  specks[100:103, 20:200] = 0  # A rule.
  assert page.cut_lines(specks) == []
