"""The C library's allocator, set up for XLA's CPU backend."""

import ctypes
import sys

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
  """Makes glibc keep what is freed; call it before JAX starts its backend.

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
