"""Which format a set has: found by looking at its path."""

import os
import pathlib
import shutil
import tempfile
import weakref

from jaxocr.data.readers import folders
from jaxocr.data.readers import lines as lines_lib
from jaxocr.data.readers import named
from jaxocr.data.readers import stores
from jaxocr.data.readers import tables

_TABLE_SUFFIXES = (".txt", ".tsv", ".csv", ".jsonl")
# What a folder's label file is called, the first that is there.
_LABEL_FILES = (
  *("labels.tsv", "labels.txt", "labels.csv", "labels.json", "labels.jsonl"),
  "gt.txt",
)


def open_lines(path: str | os.PathLike) -> lines_lib.Lines:
  """Opens a set of labelled lines.

  Args:
    path: A label file, a folder, an LMDB or a folder with some below, an
      array_record file, a zip file of any of these, or `tfds:NAME[:SPLIT]`.

  Raises:
    DataError: Nothing known is there; says what was seen.
    ModuleNotFoundError: A package that the format needs is missing.
  """
  text = os.fspath(path)
  if text.startswith(stores.TFDS_PREFIX):
    return stores.read_tfds(text.removeprefix(stores.TFDS_PREFIX))
  path = pathlib.Path(path)
  if path.is_dir():
    lmdbs = stores.find_lmdbs(path)
    if lmdbs:
      return stores.read_lmdb(lmdbs, path.resolve().name)
    records = sorted(path.glob("*.array_record"))
    if len(records) == 1:
      return stores.read_records(records[0])
    return _in_folder(folders.DiskFolder(path))
  if not path.is_file():
    raise lines_lib.DataError(
      f"label file {path}: No such file or directory; give a file of "
      "path<TAB>label lines, a folder, an LMDB, a zip file, or tfds:NAME"
    )
  suffix = path.suffix.lower()
  if path.name == stores.LMDB_FILE:
    return stores.read_lmdb([path.parent], path.resolve().parent.name)
  if suffix in stores.RECORD_SUFFIXES:
    return stores.read_records(path)
  if suffix == ".zip":
    return _in_zip(path)
  folder = folders.DiskFolder(path.parent)
  if suffix == ".json":
    return named.read_json(folder, path.name)
  return tables.read_table(folder, path.name)


def _in_zip(path: pathlib.Path) -> lines_lib.Lines:
  folder = folders.inner_folder(path)
  names = folder.names()
  if any(n.rpartition("/")[2] == stores.LMDB_FILE for n in names):
    unpacked = tempfile.mkdtemp(prefix="jaxocr-lmdb-")
    stores.unpack_lmdb(folder, unpacked)
    found = stores.read_lmdb(stores.find_lmdbs(unpacked), path.name)
    # Kept as long as the set is.
    weakref.finalize(found.fetch, shutil.rmtree, unpacked, ignore_errors=True)
    return found
  return _in_folder(folder)


def _in_folder(folder: folders.Folder) -> lines_lib.Lines:
  """A set in a folder, by its label file or the names of its files."""
  top = folder.top()
  known = [name for name in _LABEL_FILES if name in top]
  others = [name for name in top if name.endswith((*_TABLE_SUFFIXES, ".json"))]
  others = [name for name in others if not name.endswith(named.GT_SUFFIX)]
  labels = known or others
  if len(labels) > 1:
    raise lines_lib.DataError(
      f"{folder.path} holds several label files ({', '.join(labels)}); give "
      "one of them"
    )
  if labels:
    if labels[0].endswith(".json"):
      return named.read_json(folder, labels[0])
    return tables.read_table(folder, labels[0])
  names = folder.names()
  if any(name.endswith(named.GT_SUFFIX) for name in names):
    return named.read_pairs(folder, names)
  if any(named.MJSYNTH_NAME.fullmatch(name) for name in names):
    return named.read_mjsynth(folder, names)
  raise lines_lib.DataError(
    f"{folder.path}: no known set ({len(names):,} files, first "
    f"{', '.join(names[:3]) or 'none'}); there is neither an LMDB nor a label "
    "file nor .gt.txt beside images; give a label file"
  )
