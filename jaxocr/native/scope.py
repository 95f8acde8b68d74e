"""Where layers may use the C++: in training on one CPU device."""

from collections.abc import Callable, Iterator
import contextlib
import contextvars
import functools

import jax
import jax.numpy as jnp

from jaxocr.native import build

_ACTIVE = contextvars.ContextVar("native kernels", default=False)


def lacking(devices: int) -> str:
  """Why training over so many devices goes without the C++ where it could.

  "" where it is used, and where it is of no use.
  """
  return build.missing() if _of_use(devices) else ""


def _of_use(devices: int) -> bool:
  return devices == 1 and jax.default_backend() == "cpu"


@contextlib.contextmanager
def kernels(devices: int = 1) -> Iterator[None]:
  """Lets what is traced inside use the C++, where there is any.

  Outside, layers are XLA's alone: what judges and reads gives the same numbers
  with a compiler on the machine and without one.

  Args:
    devices: How many the traced program is for. Over several, XLA would gather
      what enters a foreign function on each of them.
  """
  token = _ACTIVE.set(_of_use(devices))
  try:
    yield
  finally:
    _ACTIVE.reset(token)


def applied(function: Callable, devices: int) -> Callable:
  """`function`, traced within `kernels`."""

  @functools.wraps(function)
  def within(*args, **kwargs):
    with kernels(devices):
      return function(*args, **kwargs)

  return within


def active(*arrays: jax.Array) -> bool:
  """Whether to use the C++ on these: it knows float32 only."""
  known = all(x.dtype == jnp.float32 for x in arrays)
  return _ACTIVE.get() and known and not build.missing()
