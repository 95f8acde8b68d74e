"""Products of float32 that are float32 on every backend.

By default XLA rounds what enters them: to TF32 on GPUs, to bfloat16 on TPUs. A
stem that sees images rounded so turns signs behind it: on an H200, 48 of 1,680
lines were read otherwise than on a CPU.
"""

from collections.abc import Iterator
import contextlib

import jax

_PRECISION = "highest"


def set_up() -> None:
  """Makes all products of this process exact; starts JAX's backend."""
  if _needed():
    jax.config.update("jax_default_matmul_precision", _PRECISION)


@contextlib.contextmanager
def products() -> Iterator[None]:
  """Makes those exact that are traced within."""
  with contextlib.ExitStack() as stack:
    if _needed():
      stack.enter_context(jax.default_matmul_precision(_PRECISION))
    yield


def _needed() -> bool:
  """Not on CPUs, which are exact and slower when asked to be, nor twice.

  What the user asks for, by JAX_DEFAULT_MATMUL_PRECISION, stays.
  """
  asked = jax.config.jax_default_matmul_precision
  return asked is None and jax.default_backend() != "cpu"
