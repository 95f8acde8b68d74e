"""Sets that keep images and labels in one file: LMDB, array_record, TFDS.

| kind | what | used by |
|---|---|---|
| str-lmdb | keys num-samples, image-%09d, label-%09d, from 1 | DTRB, PARSeq |
| array-record | records of `pack_record` | `jaxocr data convert` |
| tfds | features image and text or label, as `tfds:NAME[:SPLIT]` | TFDS |
"""

import functools
import os
import pathlib
import struct
import threading

from jaxocr.data.readers import folders
from jaxocr.data.readers import lines as lines_lib

LMDB_FILE = "data.mdb"
COUNT_KEY = b"num-samples"
IMAGE_KEY, LABEL_KEY = "image-%09d", "label-%09d"
RECORD_SUFFIXES = (".array_record", ".arrayrecord")
TFDS_PREFIX = "tfds:"
_LENGTH = struct.Struct("<I")  # Bytes of the label, before it.


class _Fetch:
  """A handle that is opened once a process and left out of pickles."""

  def __init__(self, *args):
    self._args = args
    self._lock, self._handle = threading.Lock(), None

  def __getstate__(self):
    return self._args

  def __setstate__(self, args):
    self.__init__(*args)

  @property
  def handle(self):
    with self._lock:
      if self._handle is None:
        self._handle = self._open(*self._args)
      return self._handle

  @staticmethod
  def _open(*args):
    raise NotImplementedError


class _Lmdb(_Fetch):
  """(folder number, line number) -> encoded image."""

  @staticmethod
  def _open(*paths):
    return [_environment(path) for path in paths]

  def __call__(self, key: tuple[int, int]) -> bytes:
    place, number = key
    with self.handle[place].begin() as transaction:
      return bytes(transaction.get((IMAGE_KEY % number).encode()))


@functools.cache
def _environment(path: str):
  """An LMDB; a process may open it but once, however many sets hold it."""
  return import_lmdb().open(path, readonly=True, lock=False, readahead=False)


def find_lmdbs(path: str | os.PathLike) -> list[pathlib.Path]:
  """Folders with an LMDB, `path` itself and below, in order."""
  return sorted(file.parent for file in pathlib.Path(path).rglob(LMDB_FILE))


def read_lmdb(paths: list[pathlib.Path], name: str) -> lines_lib.Lines:
  """Reads LMDBs as scene-text recognisers share them, one after another.

  Raises:
    DataError: One of them cannot be opened, or has no num-samples.
    ModuleNotFoundError: The package lmdb is not installed.
  """
  lmdb = import_lmdb()
  fetch = _Lmdb(*(os.fspath(path.resolve()) for path in paths))
  tally = lines_lib.Tally()
  try:
    opened = fetch.handle
  except lmdb.Error as error:
    raise lines_lib.DataError(f"{name}: not a whole LMDB ({error})") from error
  for place, (path, environment) in enumerate(zip(paths, opened, strict=True)):
    with environment.begin() as transaction:
      _tally_lmdb(transaction, place, path, len(paths) > 1, tally)
  return lines_lib.make_lines(name, "str-lmdb", fetch, tally)


def _tally_lmdb(transaction, place, path, several, tally) -> None:
  stated = transaction.get(COUNT_KEY)
  try:
    count = int(stated)
  except (TypeError, ValueError) as error:
    raise lines_lib.DataError(
      f"{path}: num-samples is {stated!r}; an LMDB of text lines has keys "
      "num-samples, image-000000001, label-000000001, ..."
    ) from error
  number = 0
  while True:
    number += 1
    label = transaction.get((LABEL_KEY % number).encode())
    if number > count and label is None:
      return
    name = IMAGE_KEY % number
    where = f"{path.name}/{name}" if several else name
    if number > count:
      tally.drop("beyond num-samples", where)
    elif label is None:
      tally.drop(lines_lib.NO_LABEL, where)
    elif len(label) > lines_lib.MAX_LINE_BYTES:
      tally.drop(lines_lib.TOO_LARGE, f"{where}, {len(label):,} bytes")
    elif transaction.get(name.encode()) is None:
      tally.drop(lines_lib.NO_IMAGE, where)
    else:
      try:
        tally.add((place, number), where, bytes(label).decode(), where)
      except UnicodeDecodeError:
        tally.drop(lines_lib.NOT_UTF8, where)


def pack_record(image: bytes, label: str) -> bytes:
  """One record of an array_record file: length of the label, label, image."""
  text = label.encode()
  return _LENGTH.pack(len(text)) + text + image


def unpack_record(record: bytes) -> tuple[bytes, bytes]:
  """(image, label in UTF-8) of `pack_record`."""
  (length,) = _LENGTH.unpack_from(record)
  start = _LENGTH.size
  return record[start + length :], record[start : start + length]


class _Records(_Fetch):
  """Number of a record -> encoded image."""

  @staticmethod
  def _open(path):
    from array_record.python import array_record_data_source

    return array_record_data_source.ArrayRecordDataSource(path)

  def __call__(self, key: int) -> bytes:
    (record,) = self.handle.__getitems__([key])
    return unpack_record(record)[0]


def read_records(path: str | os.PathLike) -> lines_lib.Lines:
  """Reads an array_record file of ours.

  Raises:
    DataError: It cannot be read.
  """
  name, tally = pathlib.Path(path).name, lines_lib.Tally()
  fetch = _Records(os.fspath(path))
  try:
    for number in range(len(fetch.handle)):
      (record,) = fetch.handle.__getitems__([number])
      where = f"record {number}"
      try:
        image, label = unpack_record(record)
        if not image:
          tally.drop(lines_lib.NO_IMAGE, where)
        else:
          tally.add(number, where, label.decode(), where)
      except UnicodeDecodeError:
        tally.drop(lines_lib.NOT_UTF8, where)
      except struct.error:
        tally.drop(lines_lib.NO_LABEL, where)
  except (OSError, RuntimeError, ValueError) as error:
    raise lines_lib.DataError(
      f"{path}: not a whole array_record file ({error})"
    ) from error
  return lines_lib.make_lines(name, "array-record", fetch, tally)


class _Tfds(_Fetch):
  """Number of an example -> encoded image or array."""

  @staticmethod
  def _open(name, split):
    import tensorflow_datasets as tfds

    from jaxocr.data import digits_builder  # Makes `jaxocr_mnist` known.

    del digits_builder
    builder = tfds.builder(name, file_format="array_record")
    decoders = {"image": tfds.decode.SkipDecoding()}
    return builder, builder.as_data_source(split=split, decoders=decoders)

  def __call__(self, key: int):
    return self.handle[1][key]["image"]


def read_tfds(name: str) -> lines_lib.Lines:
  """Reads a prepared set of TFDS, `NAME` or `NAME:SPLIT`; all splits if none.

  Raises:
    DataError: TFDS does not have it prepared, or it has no images or labels.
  """
  base, _, split = name.partition(":")
  fetch = _Tfds(base, split or "all")
  try:
    builder, source = fetch.handle
  except Exception as error:  # Unknown names, and all that a builder may raise.
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    raise lines_lib.DataError(
      f"{TFDS_PREFIX}{name}: TFDS cannot give it ({reason}); prepare it with "
      f"`tfds build {base} --file_format=array_record`"
    ) from error
  features = builder.info.features
  column = next((c for c in ("text", "label") if c in features), None)
  if column is None or "image" not in features:
    raise lines_lib.DataError(
      f"{TFDS_PREFIX}{name} has the features {', '.join(features)}; image, and "
      "text or label, are needed"
    )
  classes = getattr(features[column], "names", None)
  tally = lines_lib.Tally()
  for number in range(len(source)):
    value, where = source[number][column], f"example {number}"
    if classes is not None:
      value = classes[int(value)]
    try:
      label = value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
      tally.drop(lines_lib.NOT_UTF8, where)
    else:
      tally.add(number, where, label, where)
  return lines_lib.make_lines(f"{TFDS_PREFIX}{name}", "tfds", fetch, tally)


def unpack_lmdb(folder: folders.ZipFolder, into: str) -> None:
  """Writes the LMDBs of a zip file to a folder: they are mapped, not read."""
  for name in folder.names():
    if name.rpartition("/")[2] == LMDB_FILE:
      target = pathlib.Path(into, name)
      target.parent.mkdir(parents=True, exist_ok=True)
      target.write_bytes(folder.read(name))


def import_lmdb():
  """The package, or an error that says how to get it."""
  try:
    import lmdb
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      "LMDB sets need the package lmdb: pip install lmdb"
    ) from error
  return lmdb
