"""Compiled programs are kept on disk: the next process starts at once."""

import os
import pathlib

import jax

# Programs that took less are compiled anew.
_LEAST_S = 0.2
FOLDER_VARIABLE = "JAXOCR_CACHE_DIR"


def keep() -> pathlib.Path | None:
  """Lets JAX keep what it compiles, and says where.

  In JAXOCR_CACHE_DIR, or `jaxocr` in the user's cache folder; JAXOCR_CACHE_DIR=
  (empty) keeps nothing. A folder that was chosen for JAX itself stays. What
  cannot be written is not kept. None: nothing is.
  """
  chosen = jax.config.jax_compilation_cache_dir
  if chosen:
    return pathlib.Path(chosen)
  stated = os.environ.get(FOLDER_VARIABLE)
  if stated == "":
    return None
  folder = pathlib.Path(stated) if stated else _user_cache() / "jaxocr"
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError:
    return None
  if not os.access(folder, os.W_OK):
    return None
  jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_S)
  return folder


def _user_cache() -> pathlib.Path:
  stated = os.environ.get("XDG_CACHE_HOME")
  return pathlib.Path(stated) if stated else pathlib.Path.home() / ".cache"
