"""Products whose float32 operands stay float32, on every backend.

By default XLA rounds what enters a product: to TF32 on GPUs, to bfloat16 on
TPUs. A network of signs then turns some of them: on an H200 a one-bit network
read 48 of 1,680 lines otherwise than on a CPU, and none when told not to round;
its float twin read all of them alike either way.
"""

from collections.abc import Callable
import functools

import jax

_PRECISION = "highest"


def set_up() -> None:
  """Makes that the default of this process, unless the user has another.

  The user's is JAX_DEFAULT_MATMUL_PRECISION. What `products` wraps is exact
  whatever that says. May start JAX's backend.
  """
  asked = jax.config.jax_default_matmul_precision
  if asked is None and _rounds():
    jax.config.update("jax_default_matmul_precision", _PRECISION)


def products(function: Callable) -> Callable:
  """`function`, exact by whoever and wherever it is traced."""

  @functools.wraps(function)
  def exact(*args, **kwargs):
    if not _rounds():
      return function(*args, **kwargs)
    with jax.default_matmul_precision(_PRECISION):
      return function(*args, **kwargs)

  return exact


def _rounds() -> bool:
  """Whether the backend rounds by default; CPUs do not."""
  return jax.default_backend() != "cpu"
