"""One format into another, and a set into parts.

Images go over as they are encoded, byte for byte; only arrays (some TFDS sets)
are written as PNG.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import hashlib
import io
import os
import pathlib
import shutil

import numpy as np
import PIL.Image

from jaxocr.data import preprocess
from jaxocr.data import readers
from jaxocr.data import stats
from jaxocr.data.readers import lines as lines_lib
from jaxocr.data.readers import stores

# LMDB reserves address space, not disk; a page more than the largest set.
_MAP_BYTES = 1 << 40
_COMMIT_EVERY = 1000  # Lines of a transaction.

Write = Callable[[bytes, str], None]  # (encoded image, label)


@contextlib.contextmanager
def lmdb_writer(path: pathlib.Path) -> Iterator[Write]:
  """Writes an LMDB in the layout of scene-text recognisers."""
  lmdb = stores.import_lmdb()
  count, cache = 0, []

  def flush():
    with environment.begin(write=True) as transaction:
      for key, value in cache:
        transaction.put(key, value)
    cache.clear()

  def write(image, label):
    nonlocal count
    count += 1
    cache.append(((stores.IMAGE_KEY % count).encode(), image))
    cache.append(((stores.LABEL_KEY % count).encode(), label.encode()))
    if count % _COMMIT_EVERY == 0:
      flush()

  with lmdb.open(os.fspath(path), map_size=_MAP_BYTES) as environment:
    yield write
    cache.append((stores.COUNT_KEY, str(count).encode()))
    flush()


@contextlib.contextmanager
def records_writer(path: pathlib.Path) -> Iterator[Write]:
  """Writes an array_record file in a folder, for access by number."""
  from array_record.python import array_record_module

  path.mkdir(parents=True)
  file = path / "lines.array_record"
  writer = array_record_module.ArrayRecordWriter(
    os.fspath(file), "group_size:1"
  )
  try:
    yield lambda image, label: writer.write(stores.pack_record(image, label))
  finally:
    writer.close()


@contextlib.contextmanager
def text_writer(path: pathlib.Path) -> Iterator[Write]:
  """Writes a folder with labels.tsv and images, as PaddleOCR takes it."""
  (path / "images").mkdir(parents=True)
  count = 0
  with (path / "labels.tsv").open("w", encoding="utf-8", newline="\n") as file:

    def write(image, label):
      nonlocal count
      if "\n" in label or "\r" in label:
        raise lines_lib.DataError(
          f"label {label[:40]!r} holds a line break, which a text file of "
          "labels cannot; convert to lmdb or array_record"
        )
      count += 1
      name = f"images/{count:09d}{_suffix(image)}"
      (path / name).write_bytes(image)
      file.write(f"{name}\t{label}\n")

    yield write


WRITERS = {
  "lmdb": lmdb_writer,
  "array_record": records_writer,
  "paddle": text_writer,
}


def convert(lines: readers.Lines, out: str | os.PathLike, *, to: str) -> str:
  """Writes a set in another format.

  Args:
    lines: The set.
    out: A folder that does not exist yet.
    to: One of WRITERS.

  Returns:
    What was written and what was not, for a person.

  Raises:
    DataError: `out` exists.
  """
  return split(lines, {pathlib.Path(out): 1.0}, to=to)


def split(
  lines: readers.Lines,
  shares: Mapping[pathlib.Path, float],
  *,
  to: str,
  seed: int = 0,
) -> str:
  """Writes a set in parts.

  The bytes of an image, with the seed, decide where it goes: copies of one
  image stay together, and a set that grows keeps its parts.

  Args:
    lines: The set.
    shares: New folder -> share of the lines; they are divided by their sum.
    to: One of WRITERS.
    seed: Another one gives other parts.

  Returns:
    What was written and what was not, for a person.

  Raises:
    DataError: A folder exists.
  """
  for path in shares:
    if path.exists():
      raise lines_lib.DataError(f"{path} exists; give a new folder")
  bounds = np.cumsum(list(shares.values())) / sum(shares.values())
  counts = [0] * len(shares)
  dropped, examples = dict(lines.dropped), dict(lines.examples)
  with contextlib.ExitStack() as stack:
    parts = [_part(path) for path in shares]
    for part, path in zip(parts, shares, strict=True):
      stack.enter_context(_whole_or_none(part, path))
    writers = [stack.enter_context(WRITERS[to](part)) for part in parts]
    for entry in lines.entries:
      try:
        image = encoded(lines.fetch(entry.key))
      except preprocess.PreprocessError as error:
        dropped[stats.UNREADABLE] = dropped.get(stats.UNREADABLE, 0) + 1
        examples.setdefault(stats.UNREADABLE, f"{entry.name}: {error}")
        continue
      place = int(np.searchsorted(bounds, _chance(image, seed), "right"))
      place = min(place, len(counts) - 1)
      writers[place](image, entry.label)
      counts[place] += 1
  rows = [lines_lib.summarise(lines.name, lines.read, dropped, examples)]
  rows += [
    f"{path}: {count:,} lines"
    for path, count in zip(shares, counts, strict=True)
  ]
  return "\n".join(rows)


def encoded(source) -> bytes:
  """The bytes of an image file, once it is sure that it can be read.

  Args:
    source: Path, bytes or array, as a set fetches it.

  Raises:
    PreprocessError: It cannot be read.
  """
  grey = preprocess.load_image(source)
  if isinstance(source, os.PathLike):
    return pathlib.Path(source).read_bytes()
  if isinstance(source, bytes):
    return source
  file = io.BytesIO()
  PIL.Image.fromarray(grey).save(file, "PNG")
  return file.getvalue()


def _chance(image: bytes, seed: int) -> float:
  """In [0, 1), of an image."""
  digest = hashlib.sha256(seed.to_bytes(8, "little") + image).digest()
  return int.from_bytes(digest[:8], "little") / 2**64


def _part(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(path.name + ".part")


@contextlib.contextmanager
def _whole_or_none(part: pathlib.Path, path: pathlib.Path) -> Iterator[None]:
  """Renames `part` to `path` at the end; removes it when the block raises."""
  if part.exists():
    shutil.rmtree(part)  # Of a run that was killed.
  path.parent.mkdir(parents=True, exist_ok=True)
  try:
    yield
    os.replace(part, path)
  except BaseException:
    shutil.rmtree(part, ignore_errors=True)
    raise


def _suffix(image: bytes) -> str:
  with PIL.Image.open(io.BytesIO(image)) as opened:
    return f".{(opened.format or 'png').lower()}"
