"""Compiling what is called later, while something else runs.

XLA takes half a minute for a training step, and a training step leaves much of
a second core idle. Of a run in stages only the first has to wait.
"""

from collections.abc import Callable
from concurrent import futures
import functools
from typing import Any

import jax


class Early:
  """A jitted function that can be compiled before its first call."""

  def __init__(self, function: Callable):
    """Compiles nothing yet.

    Args:
      function: From `jax.jit`.
    """
    self._function = function
    self._compiling: futures.Future | None = None
    self._called = False

  def compile(self, *args: Any) -> None:
    """Begins to compile in the background, unless it was begun before.

    Args:
      *args: As of all calls to come, or their shapes
        (`jax.ShapeDtypeStruct`).
    """
    # Several processes would have to compile in one order.
    if self._called or self._compiling or jax.process_count() > 1:
      return
    self._compiling = _pool().submit(
      lambda: self._function.lower(*args).compile()
    )

  def __call__(self, *args: Any) -> Any:
    """The function's result, as soon as it is compiled.

    Raises:
      TypeError: The arguments are not like those that it was compiled for.
      Exception: What compiling raised.
    """
    if self._compiling:
      self._function, self._compiling = self._compiling.result(), None
    self._called = True
    return self._function(*args)


@functools.cache
def _pool() -> futures.Executor:
  """One thread: XLA shares out a compilation among the cores by itself."""
  return futures.ThreadPoolExecutor(1, thread_name_prefix="early")
