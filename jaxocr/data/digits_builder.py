"""MNIST as a TFDS data set that is prepared without TensorFlow.

`tfds`'s own `mnist` extracts and encodes with TensorFlow. Here the four files
are fetched as they are, or taken from TFDS's manual folder, and the images go
in as PNG bytes. Features are those of `tfds`'s `mnist`.
"""

from collections.abc import Iterator
import gzip
import hashlib
import io
import pathlib
import zlib

import numpy as np
import PIL.Image
import requests
import tensorflow_datasets as tfds

from jaxocr.data import idx

URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_TIMEOUT_S = 10
# Of what the four files hold; archives of it may differ.
SHA256 = {
  "train-images-idx3-ubyte.gz": (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
  ),
  "train-labels-idx1-ubyte.gz": (
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
  ),
  "t10k-images-idx3-ubyte.gz": (
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
  ),
  "t10k-labels-idx1-ubyte.gz": (
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
  ),
}


class JaxocrMnist(tfds.core.GeneratorBasedBuilder):
  """The builder, called `jaxocr_mnist`."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "PNG bytes, prepared without TensorFlow."}  # noqa: RUF012
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    f"Put {', '.join(SHA256)} there; without that folder they are fetched."
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description="The MNIST database of handwritten digits.",
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(28, 28, 1)),
          "label": tfds.features.ClassLabel(num_classes=idx.CLASSES),
        }
      ),
      supervised_keys=("image", "label"),
      disable_shuffling=True,  # The order of the files.
      homepage="http://yann.lecun.com/exdb/mnist/",
    )

  def _split_generators(self, dl_manager):
    names = (*idx.TRAIN, *idx.TEST)
    try:
      folder = pathlib.Path(dl_manager.manual_dir)
      paths = {name: folder / name for name in names}
    except AssertionError:  # None was given: fetch, and extract nothing.
      # TFDS would ask again and again for minutes.
      requests.head(URL + names[0], timeout=_TIMEOUT_S).raise_for_status()
      paths = dl_manager.download({name: URL + name for name in names})
    for name in names:
      check(name, paths[name])
    return {
      "train": self._generate_examples(*(paths[n] for n in idx.TRAIN)),
      "test": self._generate_examples(*(paths[n] for n in idx.TEST)),
    }

  def _generate_examples(self, images, labels) -> Iterator[tuple[int, dict]]:
    pixels = idx.read_idx(images, rank=3)
    classes = idx.read_idx(labels, rank=1)
    for place, (image, label) in enumerate(zip(pixels, classes, strict=True)):
      yield place, {"image": png(image), "label": int(label)}


def check(name: str, path) -> None:
  """Raises idx.IdxError unless `path` holds MNIST's `name`.

  Args:
    name: One of the four.
    path: Where it lies, under whatever name.
  """
  try:
    with gzip.open(path) as file:
      found = hashlib.file_digest(file, "sha256").hexdigest()
  except FileNotFoundError as error:
    raise idx.IdxError(
      f"{path}: there is no such file; fetch it from {URL}{name}"
    ) from error
  except (OSError, EOFError, zlib.error) as error:
    raise idx.IdxError(
      f"{path} is no sound gzip file ({error}); fetch it anew from {URL}{name}"
    ) from error
  if found != SHA256[name]:
    raise idx.IdxError(
      f"{path} is not MNIST's {name}: what it holds has SHA-256 {found}, not "
      f"{SHA256[name]}; fetch it anew from {URL}{name}"
    )


def png(image: np.ndarray) -> io.BytesIO:
  """Grey [H, W] uint8 as a PNG file."""
  file = io.BytesIO()
  PIL.Image.fromarray(image).save(file, "PNG")
  file.seek(0)
  return file
