"""Where the files of a set lie: a folder on disk, or a zip file."""

from collections.abc import Sequence
import os
import pathlib
import threading
import zipfile

from jaxocr.data.readers import lines as lines_lib


class DiskFolder:
  """A folder; names are paths below it, with slashes."""

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    self.title = self.path.resolve().name

  def names(self) -> list[str]:
    """Every file below, in order."""
    found = []
    for place, folders, files in os.walk(self.path):
      folders.sort()
      below = pathlib.Path(place).relative_to(self.path)
      found += [(below / file).as_posix() for file in files]
    return sorted(found)

  def top(self) -> list[str]:
    """The files in the folder itself, in order."""
    with os.scandir(self.path) as found:
      return sorted(item.name for item in found if item.is_file())

  def exists(self, name: str) -> bool:
    """Whether there is such a file; names may be absolute or lead upwards."""
    return os.path.isfile(self.path / name)

  def read(self, name: str) -> bytes:
    """The bytes of a file."""
    return (self.path / name).read_bytes()

  def fetch(self, name: str) -> pathlib.Path:
    """What `preprocess.load_image` takes."""
    return self.path / name


class ZipFolder:
  """A folder in a zip file, read without unpacking it. Thread-safe."""

  def __init__(self, path: str | os.PathLike, below: str = ""):
    """Reads the directory of the file.

    Args:
      path: Of the zip file.
      below: A folder in it, "" or ending in a slash.

    Raises:
      DataError: It is not a whole zip file.
    """
    self.path, self.below = pathlib.Path(path), below
    self.title = self.path.name
    self._open()
    # What Finder and the like add is no part of a set.
    self._names = {
      name.removeprefix(below)
      for name in self._zip.namelist()
      if name.startswith(below)
      and not name.endswith("/")
      and not name.startswith("__MACOSX/")
    }

  def _open(self):
    self._lock = threading.Lock()
    try:
      self._zip = zipfile.ZipFile(self.path)
    except (OSError, zipfile.BadZipFile) as error:
      raise lines_lib.DataError(
        f"{self.path}: not a whole zip file ({error}); pack it again"
      ) from error

  def __getstate__(self):
    return {k: v for k, v in vars(self).items() if k not in ("_zip", "_lock")}

  def __setstate__(self, state):
    vars(self).update(state)
    self._open()

  def names(self) -> list[str]:
    """As of DiskFolder."""
    return sorted(self._names)

  def top(self) -> list[str]:
    """As of DiskFolder."""
    return sorted(name for name in self._names if "/" not in name)

  def exists(self, name: str) -> bool:
    """As of DiskFolder, but nothing outside the folder is found."""
    return _inside(name) in self._names

  def read(self, name: str) -> bytes:
    """As of DiskFolder."""
    with self._lock:
      return self._zip.read(self.below + _inside(name))

  fetch = read


Folder = DiskFolder | ZipFolder


def inner_folder(path: str | os.PathLike) -> ZipFolder:
  """A zip file; where all it holds lies in one folder, as many do, that one."""
  folder = ZipFolder(path)
  below = ""
  while True:
    heads = {name.partition("/")[0] for name in folder.names()}
    if folder.top() or len(heads) != 1:
      return folder
    below += f"{heads.pop()}/"
    folder = ZipFolder(path, below)


def base_of(folder: Folder, label_file: str, images: Sequence[str]) -> str:
  """What to put before the paths of a label file, "" or ending in a slash.

  Label files are read with paths relative to themselves, to a folder `images`
  beside them (docTR), or to the folder above (PaddleOCR): the first that holds
  one of the images.

  Args:
    folder: Where the label file lies.
    label_file: Its name in it.
    images: Some of its paths.
  """
  beside = label_file.rpartition("/")[0]
  beside = f"{beside}/" if beside else ""
  for base in (beside, f"{beside}images/", f"{beside}../"):
    if any(folder.exists(base + image) for image in images):
      return base
  return beside


def _inside(name: str) -> str:
  """A path without `.` and `..`, as zip files write it."""
  parts = []
  for part in name.split("/"):
    if part == "..":
      if not parts:
        return ""
      parts.pop()
    elif part not in ("", "."):
      parts.append(part)
  return "/".join(parts)
