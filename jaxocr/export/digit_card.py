"""The small JSON beside an exported digit network, as `card` has it for lines.

Its golden image is a drawn digit, and the class that must be read in it.
"""

import base64
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from jaxocr.data import atlas
from jaxocr.data import digit_augment
from jaxocr.data import digit_image
from jaxocr.data import digits
from jaxocr.export import card
from jaxocr.export import digit_model

_PHOTO_PX = 84  # Of the drawing that a digit is taken from.


def make(model: digit_model.DigitModel, engine) -> dict[str, Any]:
  """The JSON of a digit network.

  Args:
    model: The network.
    engine: Its `digit_model.JaxEngine`: what it reads is expected of the
      exported file.
  """
  size = digits.SIZE_PX
  meta = model.stored.meta
  return {
    "card": card.VERSION,
    "content_hash": meta["content_hash"],
    "classes": list(model.classes),
    "preprocess": {
      "size": size,
      "grey": "float32, 0 background to 1 ink",
      "digit": "20 px in its larger direction, centre of mass in the middle",
      # Whoever runs the file need not do it.
      "standardised": (
        f"by the file: (grey - {digit_augment.MEAN}) / {digit_augment.STD}"
        if model.standard
        else "no"
      ),
    },
    "input": {"name": "image", "shape": ["N", 1, size, size]},
    "output": {"name": "logits", "shape": ["N", len(model.classes)]},
    "decode": "the class of the largest logit, counted from 0",
    "golden": golden(model.classes, engine),
  }


def golden(classes: tuple[str, ...], engine) -> dict[str, Any]:
  """A drawn class and what is read in it, if possible the same.

  Returns:
    `width`, `height`, `pixels` (base64 of one byte each, row by row), `drawn`,
    `class` and `text`, its name.
  """
  drawn = [name for name in classes if len(name) == 1] or ["0"]
  images = np.stack([draw(name) for name in drawn])
  read = engine.logits(digit_model.pixels(images)).argmax(-1)
  right = [i for i, k in enumerate(read) if classes[k] == drawn[i]]
  chosen = right[0] if right else 0
  return {
    "width": digits.SIZE_PX,
    "height": digits.SIZE_PX,
    "pixels": base64.b64encode(images[chosen].tobytes()).decode(),
    "drawn": drawn[chosen],
    "class": int(read[chosen]),
    "text": classes[read[chosen]],
  }


def draw(name: str) -> np.ndarray:
  """One character in the first default font as MNIST has digits, uint8."""
  face = atlas.default_fonts()[0].path
  photo = PIL.Image.new("L", (_PHOTO_PX, _PHOTO_PX), 255)
  PIL.ImageDraw.Draw(photo).text(
    (_PHOTO_PX // 2, _PHOTO_PX // 2),
    name,
    fill=0,
    font=PIL.ImageFont.truetype(face, _PHOTO_PX * 2 // 3),
    anchor="mm",
  )
  return digit_image.from_photo(np.asarray(photo))
