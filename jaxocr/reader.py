"""Images of text lines in, text out: what everybody but a trainer uses.

reader = jaxocr.load()  # The one that is shipped, or a run, file or name.
for reading in reader(["line.png", array]):
  print(reading.text, reading.score, reading.chars)

An image goes to a batch of lines of its width; an engine makes logits of the
batch (`engines.Logits`); `text.decode` makes text of these.
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
import PIL.Image

from jaxocr import compiled
from jaxocr import zoo
from jaxocr.compress import rules as rules_lib
from jaxocr.data import page as page_lib
from jaxocr.data import preprocess
from jaxocr.export import bundle
from jaxocr.export import engines
from jaxocr.models import crnn
from jaxocr.models import fold
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import ctc
from jaxocr.text import decode

BUNDLE_NAME = bundle.BUNDLE_NAME

# A batch has as many lines as fit in so many columns of pixels, whatever comes:
# one shape a width, so one program a width, and one line costs as little.
_BATCH_COLUMNS = 4096
_MAX_BATCH = 32


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

  def deployed(self) -> tuple[crnn.CRNN, dict]:
    """Network and variables as a training's last evaluation computes.

    BatchNorm is in the kernels, also where the file keeps it apart.
    """
    collections = self.stored.collections
    if "batch_stats" not in collections:
      return self.network, self.stored.variables()
    params = fold.pack_folded(
      rules_lib.unpack(self.stored.params), collections, rules_lib.ALL_FLOAT
    )
    kept = {k: v for k, v in collections.items() if k != "batch_stats"}
    network = self.network.clone(folded=True)
    return network, {"params": rules_lib.unpack(params), **kept}


@dataclasses.dataclass(frozen=True)
class PageLine:
  """One line of a page."""

  box: page_lib.Box  # Where it is, pixels of the upright image.
  reading: ctc.Reading | ReadError  # Places in pixels of the whole page.


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
    if "network" in meta["architecture"]:
      raise ValueError(
        f"{path} reads single digits ({meta['architecture']['network']}), not "
        "lines; `jaxocr inspect` reads a photo of a digit with it, `jaxocr "
        "export` writes it for other engines"
      )
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
  """Reads lines with a trained recogniser; may be shared by threads."""

  def __init__(
    self,
    logits: engines.Logits,
    alphabet: alphabet_lib.Alphabet,
    *,
    height: int = preprocess.HEIGHT_PX,
    frame_px: float = ctc.FRAME_PX,
    decoding: decode.Decoding = decode.GREEDY,
    batch_columns: int = _BATCH_COLUMNS,
  ):
    """Makes a reader of an engine; `load` is the usual way.

    Args:
      logits: The engine.
      alphabet: Of K - 1 characters.
      height: Of the network's input, pixels.
      frame_px: W / T.
      decoding: How logits become text.
      batch_columns: Columns of pixels of a batch; more suit a GPU.

    Raises:
      ValueError: `decoding` asks for what cannot be.
    """
    decoding.validate(alphabet)
    self.alphabet, self.decoding = alphabet, decoding
    self._logits = logits
    self._height, self._frame_px = height, frame_px
    self._batch_columns = batch_columns

  @classmethod
  def load(
    cls,
    model: str | os.PathLike | None = None,
    *,
    batch_columns: int = _BATCH_COLUMNS,
    **decoding: Any,
  ) -> "Reader":
    """A reader of a trained recogniser.

    Compiled programs are kept on disk, see `compiled.keep`.

    Args:
      model: See `find_model`; None for the one that is shipped.
      batch_columns: See `Reader`.
      **decoding: Arguments of `decode.make_decoding`: beam, lexicon, ...

    Raises:
      FileNotFoundError: There is none, or a run without one.
      ValueError: Not a bundle that this version can use, or `decoding` asks for
        what cannot be.
    """
    compiled.keep()
    found = load_model(find_model(model))
    return cls(
      engines.make_logits(*found.deployed()),
      found.alphabet,
      height=found.height,
      frame_px=found.frame_px,
      decoding=decode.make_decoding(found.alphabet, **decoding),
      batch_columns=batch_columns,
    )

  def __call__(self, images) -> list[ctc.Reading | ReadError]:
    """As `read`; one image by itself gives a list of one."""
    single = (str, bytes, os.PathLike, np.ndarray, PIL.Image.Image)
    return self.read([images] if isinstance(images, single) else images)

  @classmethod
  def of_engine(cls, engine: engines.Engine, **decoding: Any) -> "Reader":
    """A reader that computes with another engine than JAX.

    Args:
      engine: Of an exported file, say.
      **decoding: Arguments of `decode.make_decoding`: beam, lexicon, ...
    """
    return cls(
      engine.logits,
      engine.alphabet,
      height=engine.height,
      frame_px=engine.frame_px,
      decoding=decode.make_decoding(engine.alphabet, **decoding),
    )

  def read(self, images: Sequence) -> list[ctc.Reading | ReadError]:
    """Reads lines.

    Args:
      images: Each what `preprocess.load_image` takes: path, bytes, PIL image or
        array.

    Returns:
      One entry for each image, in order. Places of characters are in pixels of
      the image, after EXIF has turned it upright. What cannot be read, and what
      looks like a page, is a ReadError.
    """
    if isinstance(images, (str, bytes, os.PathLike)):
      raise TypeError("expected a list of images, got one; wrap it in a list")
    results: list = [None] * len(images)
    lines = {}
    for index, image in enumerate(images):
      try:
        grey = preprocess.load_image(image)
        page_lib.refuse_page(grey)
        line, x_scale = preprocess.line_array(grey, height=self._height)
      except preprocess.PreprocessError as error:
        results[index] = ReadError(str(error))
        continue
      lines[index] = _Line(line, x_scale, grey.shape[1])
    for chosen, logits in self._batches(
      {k: v.pixels for k, v in lines.items()}
    ):
      readings = decode.decode(
        logits,
        self.alphabet,
        self.decoding,
        frame_px=self._frame_px,
        x_scales=[lines[i].x_scale for i in chosen],
        widths_px=[lines[i].width_px for i in chosen],
      )
      for index, reading in zip(chosen, readings, strict=True):
        results[index] = reading
    return results

  def read_page(self, image) -> list[PageLine]:
    """Cuts a page into lines by its projection profile, and reads these.

    There is no text detection: lines have to run from edge to edge in one
    column, upright, on even paper.

    Raises:
      PreprocessError: The image cannot be read.
    """
    grey = preprocess.load_image(image)
    boxes = page_lib.cut_lines(grey)
    crops = [grey[b.top : b.bottom, b.left : b.right] for b in boxes]
    return [
      PageLine(box, _moved(reading, box.left))
      for box, reading in zip(boxes, self.read(crops), strict=True)
    ]

  def logits(self, lines: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Logits [T, K] of lines [height, w] float32, for who decodes himself."""
    found: list = [None] * len(lines)
    for chosen, logits in self._batches(dict(enumerate(lines))):
      for index, line in zip(chosen, logits, strict=True):
        found[index] = line
    return found

  def _batches(self, lines: Mapping[int, np.ndarray]):
    """Yields (n keys of `lines`, their logits [n, T, K]), narrow ones first."""
    buckets = collections.defaultdict(list)
    for index, line in lines.items():
      buckets[preprocess.bucket_width(line.shape[1])].append(index)
    for width, indices in sorted(buckets.items()):
      size = max(1, min(_MAX_BATCH, self._batch_columns // width))
      for start in range(0, len(indices), size):
        chosen = indices[start : start + size]
        image = np.zeros((size, self._height, width, 1), np.float32)
        for row, index in enumerate(chosen):
          line = preprocess.pad_to_bucket(lines[index], width)
          image[row, :, :, 0] = line
        yield chosen, self._logits(image)[: len(chosen)]


@dataclasses.dataclass(frozen=True)
class _Line:
  pixels: np.ndarray  # [height, w] float32.
  x_scale: float
  width_px: int  # Of the image as given.


def _moved(reading, x: float):
  """A reading of a crop whose left edge is at x of the page."""
  if isinstance(reading, ReadError):
    return reading
  moved = tuple(
    dataclasses.replace(c, x0=c.x0 + x, x1=c.x1 + x) for c in reading.characters
  )
  return dataclasses.replace(reading, characters=moved)
