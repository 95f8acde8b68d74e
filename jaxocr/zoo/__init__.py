"""Trained recognisers that come with the package, one file each."""

import pathlib

_FOLDER = pathlib.Path(__file__).parent
_SUFFIX = ".safetensors"
DEFAULT = "numeric-1bit"


def names() -> list[str]:
  """What is there, in order."""
  return sorted(file.stem for file in _FOLDER.glob(f"*{_SUFFIX}"))


def path(name: str = DEFAULT) -> pathlib.Path:
  """The file of a recogniser.

  Raises:
    FileNotFoundError: There is none of that name; lists those there are.
  """
  found = names()
  if name not in found:
    raise FileNotFoundError(
      f"no shipped model {name!r}; there are {', '.join(found) or 'none'}"
    )
  return _FOLDER / f"{name}{_SUFFIX}"
