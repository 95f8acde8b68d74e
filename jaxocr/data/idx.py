"""Reader of IDX files, the format of MNIST, and of the four that make it up."""

import dataclasses
import gzip
import math
import os
import pathlib
import struct
import zlib

import numpy as np

# As LeCun, Cortes and Burges published them: (images, labels) of each part.
TRAIN = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
TEST = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
CLASSES = 10

_UINT8 = 0x08  # The format's code of the element type.


class IdxError(ValueError):
  """A file that is missing, damaged or not what it should be."""


@dataclasses.dataclass(frozen=True)
class Digits:
  """Images of one digit each."""

  images: np.ndarray  # [N, H, W] uint8, ink light (255) on dark.
  labels: np.ndarray  # [N] uint8, 0 to 9.


def load_mnist(folder: str | os.PathLike) -> tuple[Digits, Digits]:
  """The training and the test part, from the four files in `folder`.

  Raises:
    IdxError: A file is missing or cannot be used; names it.
  """
  folder = pathlib.Path(folder)
  missing = [name for name in TRAIN + TEST if not (folder / name).is_file()]
  if missing:
    raise IdxError(
      f"{folder} lacks {', '.join(missing)}; it must hold the four files of "
      f"MNIST, {', '.join(TRAIN + TEST)}"
    )
  train, test = _load_part(folder, *TRAIN), _load_part(folder, *TEST)
  if train.images.shape[1:] != test.images.shape[1:]:
    raise IdxError(
      f"{folder}: training images are {_size(train)}, test images "
      f"{_size(test)}; both must come from one data set"
    )
  return train, test


def read_idx(path: str | os.PathLike, *, rank: int) -> np.ndarray:
  """The uint8 array of a gzipped IDX file.

  The format is two zero bytes, the element type, the number of axes, each
  axis's length as a big-endian uint32, and the elements, last axis fastest.

  Args:
    path: An `.idx?-ubyte.gz` file.
    rank: How many axes it must have: 3 for images, 1 for labels.

  Returns:
    A uint8 array of the shape that the file states.

  Raises:
    IdxError: It is missing, no gzip, cut short or too long, or its first four
      bytes are others than 0, 0, 8, rank.
  """
  path = pathlib.Path(path)
  try:
    with gzip.open(path) as file:
      magic = file.read(4)
      if magic != bytes((0, 0, _UINT8, rank)):
        raise IdxError(
          f"{path} starts with bytes {magic.hex(' ') or '(none)'}; an IDX file "
          f"of {rank} axes of uint8 starts with 00 00 08 {rank:02x}; is it "
          "another of MNIST's files?"
        )
      lengths = file.read(4 * rank)
      if len(lengths) < 4 * rank:
        raise EOFError
      shape = struct.unpack(f">{rank}I", lengths)
      size = math.prod(shape)
      values = file.read()  # All: a damaged shape may be vast.
  except FileNotFoundError as error:
    raise IdxError(f"{path}: there is no such file") from error
  except EOFError as error:
    raise IdxError(f"{path} is cut short; fetch it anew") from error
  except (OSError, zlib.error) as error:
    raise IdxError(f"{path} is no sound gzip file ({error})") from error
  if len(values) != size:
    more = "more" if len(values) > size else "less"
    raise IdxError(
      f"{path} states a shape of {'x'.join(map(str, shape))}, {size} bytes, "
      f"and holds {more}; fetch it anew"
    )
  return np.frombuffer(values, np.uint8).reshape(shape)


def _load_part(folder: pathlib.Path, image_file, label_file) -> Digits:
  images = read_idx(folder / image_file, rank=3)
  labels = read_idx(folder / label_file, rank=1)
  if not images.size:
    raise IdxError(f"{folder / image_file} holds no image; fetch it anew")
  if len(images) != len(labels):
    raise IdxError(
      f"{folder}: {image_file} has {len(images)} images, {label_file} has "
      f"{len(labels)} labels; they must belong together"
    )
  if labels.max() >= CLASSES:
    raise IdxError(
      f"{folder / label_file} has label {labels.max()}; digits are 0 to 9"
    )
  return Digits(images, labels)


def _size(digits: Digits) -> str:
  return "x".join(map(str, digits.images.shape[1:]))
