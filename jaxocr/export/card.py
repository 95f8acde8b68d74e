"""The small JSON beside an exported file: what a phone or page has to know.

It holds the alphabet, the preprocessing, where the weights are from, and one
golden line: its pixels and what must be read in them, as a self-test.
"""

import base64
import json
import os
import pathlib
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from jaxocr import files
from jaxocr.data import atlas
from jaxocr.data import preprocess
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import ctc

VERSION = 1
# Tried in this order; the first that is in the alphabet and read right.
_TEXTS = ("12.50", "2026", "RM 12.50", "Total", "total")
_MARGIN_PX = 6
_WIDTH_PX = 128  # Most fit, so that a network is compiled for one width.


def path_of(exported: str | os.PathLike) -> pathlib.Path:
  """Where the JSON of an exported file lies: `line.onnx.json`."""
  exported = pathlib.Path(exported)
  return exported.with_name(exported.name + ".json")


def make(model, engine) -> dict[str, Any]:
  """The JSON of a `reader.Model`.

  Args:
    model: The recogniser.
    engine: The bundle's own, an `engines.JaxEngine`: what it reads is expected
      of the exported file.
  """
  meta = model.stored.meta
  return {
    "card": VERSION,
    "content_hash": meta["content_hash"],
    "alphabet": meta["alphabet"],
    "preprocess": {
      **meta["preprocess"],
      "grey": "float32, 0 black to 1 white, as in the image",
      "scale": "to the height, bilinear if it grows, area means if it shrinks",
      "pad": "on the right with the median of the border",
      "widths": list(preprocess.BUCKETS),
    },
    "input": {"name": "image", "shape": ["N", 1, model.height, "W"]},
    "output": {
      "name": "logits",
      "shape": ["N", "T", model.alphabet.num_classes],
    },
    "decode": "class of each frame; runs merged to one; class 0 left out; "
    "class k is character k - 1 of the alphabet",
    "golden": golden(model.alphabet, model.height, engine),
  }


def golden(
  alphabet: alphabet_lib.Alphabet, height: int, engine
) -> dict[str, Any]:
  """A drawn line and what is read in it.

  Returns:
    `width`, `height`, `pixels` (base64 of one byte each, row by row), `drawn`,
    `text` and `classes`, the best class of each frame.
  """
  texts = [text for text in _TEXTS if not alphabet.unknown(text)]
  texts.append("".join(alphabet.characters.split())[:6] or alphabet.characters)
  tried = []
  for text in texts:
    pixels = draw(text, height)
    logits = engine.logits(pixels[None, :, :, None].astype(np.float32) / 255)
    (reading,) = ctc.greedy_decode(logits, alphabet)
    tried.append((text, pixels, reading.text, np.argmax(logits[0], -1)))
    if reading.text == text:
      break
  # The one read right; without one, the first.
  drawn, pixels, read, classes = tried[
    -1 if tried[-1][0] == tried[-1][2] else 0
  ]
  return {
    "width": pixels.shape[1],
    "height": height,
    "pixels": base64.b64encode(pixels.tobytes()).decode(),
    "drawn": drawn,
    "text": read,
    "classes": classes.tolist(),
  }


def golden_image(stated: dict[str, Any]) -> np.ndarray:
  """Pixels [H, W] uint8 of a `golden`."""
  pixels = np.frombuffer(base64.b64decode(stated["pixels"]), np.uint8)
  return pixels.reshape(stated["height"], stated["width"])


def draw(text: str, height: int) -> np.ndarray:
  """A text in the first default font, dark on light, [height, W] uint8."""
  face = atlas.default_fonts()[0].path
  font = PIL.ImageFont.truetype(face, round(height * 0.75))
  needed = round(font.getlength(text)) + 2 * _MARGIN_PX
  width = preprocess.bucket_width(max(_WIDTH_PX, needed))
  image = PIL.Image.new("L", (width, height), 230)
  PIL.ImageDraw.Draw(image).text(
    (_MARGIN_PX, height // 2), text, fill=30, font=font, anchor="lm"
  )
  return np.asarray(image)


def save(exported: str | os.PathLike, stated: dict[str, Any]) -> None:
  """Writes it beside an exported file."""
  with files.aside(path_of(exported)) as part:
    part.write_text(
      json.dumps(stated, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


def load(exported: str | os.PathLike) -> dict[str, Any]:
  """Reads what lies beside an exported file.

  Raises:
    ValueError: It is missing or not of this version.
  """
  path = path_of(exported)
  try:
    stated = json.loads(path.read_text(encoding="utf-8"))
    version = stated["card"]
  except FileNotFoundError as error:
    raise ValueError(
      f"{path} is missing; `jaxocr export` writes it beside {exported}"
    ) from error
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path}: damaged ({error}); `jaxocr export` writes it anew"
    ) from error
  if version != VERSION:
    raise ValueError(
      f"{path}: version {version}, this one reads {VERSION}; export it again, "
      "or update jaxocr"
    )
  return stated
