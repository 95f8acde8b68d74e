"""Sets of digits (or other small images with classes), whole, in memory.

MNIST comes through TFDS: from four local files or from the network, prepared
once without TensorFlow. Other sets of TFDS are read where they are prepared,
and scikit-learn's 8x8 digits need neither files nor network.
"""

import dataclasses
import io
import os
import pathlib

import numpy as np
import PIL.Image

from jaxocr.data import idx

SIZE_PX = 28
SKLEARN = "digits"
MNIST = "mnist"
_INSIDE_PX = 20  # MNIST's digits fill 20 of the 28 px.
_TEST_EVERY = 5  # Of scikit-learn's digits, which have no test part.


class DataError(ValueError):
  """A set that cannot be had; the message says how it could be."""


@dataclasses.dataclass(frozen=True)
class DigitSet:
  """A training and a test part of one set."""

  name: str
  train: idx.Digits
  test: idx.Digits
  classes: tuple[str, ...]  # Their names by label.


def load(dataset: str, *, mnist_dir: str = "", data_dir: str = "") -> DigitSet:
  """A set by its name.

  Args:
    dataset: `mnist`; `digits` (scikit-learn's 1,797, 8x8, enlarged; each fifth
      is a test image); or the name of a TFDS set with `image` and `label` that
      is prepared in `data_dir`, such as emnist, kmnist, fashion_mnist or
      svhn_cropped. Colour becomes grey, other sizes are scaled to 28x28.
    mnist_dir: Folder with MNIST's four files; empty: fetched where MNIST is not
      prepared yet.
    data_dir: Where TFDS keeps its sets; empty: where it does by default.

  Raises:
    DataError: It cannot be had; says which ways there are.
    idx.IdxError: A file in `mnist_dir` is missing, damaged or of another set.
  """
  if dataset == SKLEARN:
    return _load_sklearn()
  import tensorflow_datasets as tfds

  if dataset != MNIST:
    return _read(dataset, _prepared_builder(tfds, dataset, data_dir))
  return _read(dataset, _mnist_builder(tfds, mnist_dir, data_dir))


def _mnist_builder(tfds, mnist_dir, data_dir):
  """Our builder, prepared."""
  from jaxocr.data import digits_builder

  builder = digits_builder.JaxocrMnist(
    data_dir=data_dir or None, file_format="array_record"
  )
  # Not from TFDS's own cloud folder, which does not have this set.
  options = tfds.download.DownloadConfig(try_download_gcs=False)
  if mnist_dir:
    folder = pathlib.Path(mnist_dir).resolve()
    for name in digits_builder.SHA256:  # A wrong folder is told even if unused.
      digits_builder.check(name, folder / name)
    options = dataclasses.replace(options, manual_dir=os.fspath(folder))
  try:
    builder.download_and_prepare(download_config=options)
  except (idx.IdxError, KeyboardInterrupt):
    raise
  except Exception as error:  # Whatever a network or a disk can say.
    reason = " ".join(str(error).split()) or type(error).__name__
    raise DataError(f"{ways(dataset=MNIST)} ({reason})") from error
  return builder


def ways(*, dataset: str) -> str:
  """What to say where `dataset` cannot be had."""
  files = ", ".join(idx.TRAIN + idx.TEST)
  return (
    f"dataset={dataset} could not be fetched. Three ways: give "
    f"--cfg.mnist_dir=FOLDER that holds {files}; or run once with a network, "
    "which fetches them; or --cfg.dataset=digits, scikit-learn's 8x8 digits, "
    "which needs neither"
  )


def _prepared_builder(tfds, dataset, data_dir):
  try:
    builder = tfds.builder(
      dataset, data_dir=data_dir or None, file_format="array_record"
    )
  except (
    Exception
  ) as error:  # Unknown names, and builders that need TensorFlow.
    reason = " ".join(str(error).split())[:200]
    raise DataError(
      f"dataset={dataset} is unknown to TFDS ({reason}); give mnist, digits, "
      "or a set of TFDS that is prepared in --cfg.data_dir"
    ) from error
  if not builder.is_prepared():
    raise DataError(
      f"dataset={dataset} is not prepared in {builder.data_dir}; prepare it "
      "where TensorFlow is installed (tfds build "
      f"{dataset} --file_format=array_record), or give --cfg.dataset=mnist or "
      "--cfg.dataset=digits"
    )
  return builder


def _read(name: str, builder) -> DigitSet:
  """Both parts, decoded."""
  import tensorflow_datasets as tfds

  decoders = {"image": tfds.decode.SkipDecoding()}
  parts = []
  for split in ("train", "test"):
    source = builder.as_data_source(split=split, decoders=decoders)
    records = source.__getitems__(range(len(source)))
    images = np.stack([_decode(r["image"]) for r in records])
    if name.startswith("emnist"):
      images = images.transpose(0, 2, 1)  # As TFDS says of it.
    labels = np.array([r["label"] for r in records], np.uint8)
    parts.append(idx.Digits(images, labels))
  return DigitSet(name, *parts, tuple(builder.info.features["label"].names))


def _decode(png) -> np.ndarray:
  """An encoded image as grey [28, 28] uint8."""
  image = PIL.Image.open(io.BytesIO(png)).convert("L")
  if image.size != (SIZE_PX, SIZE_PX):
    image = image.resize((SIZE_PX, SIZE_PX), PIL.Image.Resampling.BILINEAR)
  return np.asarray(image)


def _load_sklearn() -> DigitSet:
  from sklearn import datasets

  found = datasets.load_digits()
  images = np.stack([_enlarge(image) for image in found.images])
  labels = found.target.astype(np.uint8)
  test = np.arange(len(labels)) % _TEST_EVERY == 0
  return DigitSet(
    SKLEARN,
    idx.Digits(images[~test], labels[~test]),
    idx.Digits(images[test], labels[test]),
    tuple(map(str, range(idx.CLASSES))),
  )


def _enlarge(image: np.ndarray) -> np.ndarray:
  """An 8x8 image of levels 0 to 16 in the middle of 28x28, as MNIST's are."""
  grey = PIL.Image.fromarray(np.round(image * 255 / 16).astype(np.uint8))
  inside = (_INSIDE_PX, _INSIDE_PX)
  grey = grey.resize(inside, PIL.Image.Resampling.BILINEAR)
  return np.pad(np.asarray(grey), (SIZE_PX - _INSIDE_PX) // 2)
