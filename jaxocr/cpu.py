"""What XLA's CPU backend needs around it, and what it runs on."""

import ctypes
import functools
import os
import re
import sys

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_WIDTH_FLAG = "--xla_cpu_prefer_vector_width"


def set_up() -> None:
  """Keeps freed memory, prefers wide vectors; before JAX starts its backend."""
  keep_freed_memory()
  prefer_wide_vectors()


def keep_freed_memory() -> bool:
  """Makes glibc keep what is freed.

  XLA's CPU backend allocates its scratch memory, hundreds of megabytes, anew in
  every step. By default glibc hands it back to the kernel each time, and up to
  half of a step goes into page faults.

  Returns:
    Whether it was done: on Linux with glibc.
  """
  if not sys.platform.startswith("linux"):
    return False
  libc = ctypes.CDLL(None)
  if not hasattr(libc, "gnu_get_libc_version"):
    return False
  settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1))
  return all([libc.mallopt(name, value) for name, value in settings])


@functools.cache
def has_wide_vectors(cpuinfo: str = "/proc/cpuinfo") -> bool:
  """Whether the processor has vectors of 512 bits, as far as Linux says so."""
  try:
    with open(cpuinfo, encoding="utf-8") as file:
      found = re.search(r"^flags\s*:.*\bavx512f\b", file.read(), re.MULTILINE)
  except OSError:
    return False  # Not Linux.
  return bool(found)


def prefer_wide_vectors(cpuinfo: str = "/proc/cpuinfo") -> bool:
  """Makes XLA use vectors of 512 bits where the processor has them.

  Its default is 256 everywhere. A width that the user's XLA_FLAGS ask for
  stays.

  Args:
    cpuinfo: What Linux says of the processor.

  Returns:
    Whether the flag was added.
  """
  given = os.environ.get("XLA_FLAGS", "")
  if not has_wide_vectors(cpuinfo) or _WIDTH_FLAG in given:
    return False
  os.environ["XLA_FLAGS"] = f"{given} {_WIDTH_FLAG}=512".strip()
  return True
