"""Images of text lines in, text out: what everybody but a trainer uses.

reader = Reader.load()  # The one that is shipped, or a run, file or name.
for reading in reader.read(["line.png", array]):
  print(reading)
"""

import collections
from collections.abc import Sequence
import dataclasses
import os
import pathlib

import jax
import numpy as np

from jaxocr import zoo
from jaxocr.data import preprocess
from jaxocr.export import bundle
from jaxocr.export import engines
from jaxocr.models import crnn
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import ctc

BUNDLE_NAME = bundle.BUNDLE_NAME

# Lines at once: a power of two, so that few shapes are compiled, and of few
# enough columns in all that wide lines don't exhaust the memory.
_MAX_BATCH = 64
_MAX_BATCH_COLUMNS = 32_768


@dataclasses.dataclass(frozen=True)
class ReadError:
  """Why an image could not be read."""

  message: str  # One line.


@dataclasses.dataclass(frozen=True)
class Model:
  """What a bundle holds, and what its metadata describe."""

  stored: bundle.Bundle
  network: crnn.CRNN
  alphabet: alphabet_lib.Alphabet
  height: int  # Of the network's input, pixels.
  frame_px: float  # Pixels of the input for one frame.


def find_model(model: str | os.PathLike | None = None) -> pathlib.Path:
  """The bundle file that is meant.

  Args:
    model: A run's folder, a bundle file, or a name in the zoo; a path that
      exists wins over a name. None: the zoo's default.

  Raises:
    FileNotFoundError: There is none, or a run without one.
  """
  if model is None:
    return zoo.path()
  path = pathlib.Path(model)
  if path.is_dir():
    path = path / BUNDLE_NAME
    if not path.is_file():
      raise FileNotFoundError(
        f"{path.parent} holds no {BUNDLE_NAME}: no run, or one that has not "
        "ended; the command that started it finishes it"
      )
  elif not path.exists():
    names = zoo.names()
    if str(model) in names:
      return zoo.path(str(model))
    raise FileNotFoundError(
      f"no run or model at {path}; give a run's folder, a bundle file or a "
      f"shipped model's name ({', '.join(names) or 'there is none'})"
    )
  return path


def load_model(path: str | os.PathLike) -> Model:
  """Reads a bundle file and makes its network.

  Raises:
    OSError: It cannot be opened.
    ValueError: Not a bundle that this version can use.
  """
  try:
    found = bundle.load_bundle(path)
    meta = found.meta
    network = crnn.CRNN(**meta["architecture"])
    alphabet = alphabet_lib.Alphabet(**meta["alphabet"])
    sizes = meta["preprocess"]
    height, frame_px = sizes["height"], sizes["frame_px"]
  except (KeyError, TypeError) as error:
    raise ValueError(
      f"{path}: its metadata does not describe a CRNN of this version "
      f"({error}); update jaxocr or train again"
    ) from error
  if network.num_classes != alphabet.num_classes:
    raise ValueError(
      f"{path}: {network.num_classes} classes for an alphabet of "
      f"{alphabet.size}; the file is inconsistent, train again"
    )
  return Model(found, network, alphabet, height, frame_px)


class Reader:
  """Reads lines with a trained recogniser."""

  def __init__(
    self,
    model,
    variables,
    alphabet: alphabet_lib.Alphabet,
    *,
    height: int = preprocess.HEIGHT_PX,
    frame_px: float = ctc.FRAME_PX,
  ):
    """Makes a reader of a network; `load` is the usual way.

    Args:
      model: Flax module that maps [B, height, W, 1] to logits [B, T, K], or an
        `engines.Engine`.
      variables: Of a Flax module, as they are to be applied.
      alphabet: Of K - 1 characters.
      height: Of the network's input, pixels.
      frame_px: W / T.
    """
    self.alphabet = alphabet
    self._variables = jax.device_put(variables)
    self._height = height
    self._frame_px = frame_px
    self._best_path = _make_best_path(model)

  @classmethod
  def load(cls, model: str | os.PathLike | None = None) -> "Reader":
    """A reader of a trained recogniser.

    Args:
      model: See `find_model`; None for the one that is shipped.

    Raises:
      FileNotFoundError: There is none, or a run without one.
      ValueError: Not a bundle that this version can use.
    """
    found = load_model(find_model(model))
    return cls(
      found.network,
      found.stored.variables(),
      found.alphabet,
      height=found.height,
      frame_px=found.frame_px,
    )

  @classmethod
  def of_engine(cls, engine: engines.Engine) -> "Reader":
    """A reader that computes with another engine than JAX."""
    return cls(
      engine,
      None,
      engine.alphabet,
      height=engine.height,
      frame_px=engine.frame_px,
    )

  def read(self, images: Sequence) -> list[ctc.Reading | ReadError]:
    """Reads lines.

    Args:
      images: Each what `preprocess.load_image` takes: path, bytes, PIL image or
        array.

    Returns:
      One entry for each image, in order. Places of characters are in pixels of
      the image, after EXIF has turned it upright.
    """
    if isinstance(images, (str, bytes, os.PathLike)):
      raise TypeError("expected a list of images, got one; wrap it in a list")
    results: list = [None] * len(images)
    lines = {}
    buckets = collections.defaultdict(list)
    for index, image in enumerate(images):
      try:
        grey = preprocess.load_image(image)
        line, x_scale = preprocess.line_array(grey, height=self._height)
      except preprocess.PreprocessError as error:
        results[index] = ReadError(str(error))
        continue
      lines[index] = _Line(line, x_scale, grey.shape[1])
      buckets[preprocess.bucket_width(line.shape[1])].append(index)
    for width, indices in sorted(buckets.items()):
      size = _batch_limit(width)
      for start in range(0, len(indices), size):
        chosen = indices[start : start + size]
        readings = self._read_batch([lines[i] for i in chosen], width)
        for index, reading in zip(chosen, readings, strict=True):
          results[index] = reading
    return results

  def _read_batch(self, lines: "list[_Line]", width: int) -> list[ctc.Reading]:
    rows = 1 << (len(lines) - 1).bit_length()
    image = np.zeros((rows, self._height, width, 1), np.float32)
    for row, line in zip(image, lines, strict=False):
      row[:, :, 0] = preprocess.pad_to_bucket(line.pixels, width)
    classes, probabilities = jax.device_get(
      self._best_path(self._variables, image)
    )
    return [
      ctc.collapse(
        classes[i],
        probabilities[i],
        self.alphabet,
        frame_px=self._frame_px,
        x_scale=line.x_scale,
        width_px=line.width_px,
      )
      for i, line in enumerate(lines)
    ]


def _make_best_path(model):
  """(variables, image) to classes and probabilities, as of `ctc.best_path`."""
  if hasattr(model, "logits"):
    decode = jax.jit(ctc.best_path)
    return lambda _, image: decode(model.logits(image))
  return jax.jit(lambda v, x: ctc.best_path(model.apply(v, x, train=False)))


@dataclasses.dataclass(frozen=True)
class _Line:
  pixels: np.ndarray  # [height, w] float32.
  x_scale: float
  width_px: int  # Of the image as given.


def _batch_limit(width: int) -> int:
  """Most lines of a width read at once, a power of two."""
  fit = max(1, _MAX_BATCH_COLUMNS // width)
  return min(_MAX_BATCH, 1 << (fit.bit_length() - 1))
