"""Files that are never half-written, and why one cannot be read."""

from collections.abc import Iterator
import contextlib
import os
import pathlib


@contextlib.contextmanager
def aside(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Gives a path beside `path` to write to; renames it there at the end.

  Whoever opens `path` sees the old file or the whole new one, also after a loss
  of power. When the block raises, what it wrote is removed and `path` stays as
  it was.
  """
  target = pathlib.Path(path)
  part = target.with_name(target.name + ".part")
  try:
    yield part
    with part.open("r+b") as file:
      os.fsync(file.fileno())  # Else the rename may reach the disk first.
    os.replace(part, target)
  except BaseException:
    part.unlink(missing_ok=True)
    raise


def reason(error: Exception) -> str:
  """Why, in one line and without the path, which the caller names."""
  text = getattr(error, "strerror", None) or str(error)
  return " ".join(text.split()) or type(error).__name__
