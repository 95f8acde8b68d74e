"""Compiled programs are kept on disk: the next process starts at once."""

import os
import pathlib

import jax

# Programs that took less are compiled anew.
_LEAST_S = 0.2
FOLDER_VARIABLE = "JAXOCR_CACHE_DIR"


def keep() -> pathlib.Path | None:
  """Lets JAX keep what it compiles in `folder()`, and says where.

  A folder that was chosen for JAX itself stays. None: nothing is kept.
  """
  chosen = jax.config.jax_compilation_cache_dir
  if chosen:
    return pathlib.Path(chosen)
  found = folder()
  if found is None:
    return None
  jax.config.update("jax_compilation_cache_dir", os.fspath(found))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_S)
  return found


def folder() -> pathlib.Path | None:
  """Where compiled programs are kept; None where they cannot be.

  JAXOCR_CACHE_DIR, or `jaxocr` in the user's cache folder; JAXOCR_CACHE_DIR=
  (empty) keeps nothing, nor does a folder that cannot be written.
  """
  stated = os.environ.get(FOLDER_VARIABLE)
  if stated == "":
    return None
  found = pathlib.Path(stated) if stated else _user_cache() / "jaxocr"
  try:
    found.mkdir(parents=True, exist_ok=True)
  except OSError:
    return None
  return found if os.access(found, os.W_OK) else None


def _user_cache() -> pathlib.Path:
  stated = os.environ.get("XDG_CACHE_HOME")
  return pathlib.Path(stated) if stated else pathlib.Path.home() / ".cache"
