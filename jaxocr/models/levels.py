"""How many values features can take, proved from the traced computation.

Signs are found by themselves: a choice between two constants, whatever is done
to it afterwards, has two values. Integers of a range that is learnt are not, so
the module that rounds to them says so with `mark`.
"""

from collections.abc import Callable, Sequence
import math
import operator

import jax
from jax import ad_checkpoint
from jax.extend import core
import numpy as np

# All values that an array can hold; the bits of a grid that they lie on, whose
# steps are not known; or, for anything else, ANY.
Values = frozenset[float] | int | None
ANY = None
FLOAT = "float"
_MOST = 256  # Values of a set; more are no less than 8 bits.
_PREFIX = "values of a grid of bits: "


def mark(x: jax.Array, bits: int) -> jax.Array:
  """`x`, whose values lie on a grid of 2**bits that contains 0."""
  return ad_checkpoint.checkpoint_name(x, f"{_PREFIX}{bits}")


def form(values: Values) -> str:
  """As `compress.packed` calls what is stored: bit, int2 to int8, or float."""
  if values is ANY:
    return FLOAT
  bits = values
  if isinstance(values, frozenset):
    bits = max(1, math.ceil(math.log2(len(values))))
  return "bit" if bits == 1 else f"int{bits}"


def of_literal(atom: core.Literal) -> Values:
  """Of a constant in a jaxpr."""
  array = np.asarray(atom.val)
  if array.size > _MOST or array.dtype == object:
    return ANY
  try:
    return frozenset(map(float, array.reshape(-1).tolist()))
  except (TypeError, ValueError):  # Complex numbers, keys.
    return ANY


def follow(equation, given: Sequence[Values]) -> Values:
  """Values of an equation's results, from those of its operands."""
  name = equation.primitive.name
  if name == "name":
    text = equation.params["name"]
    return int(text.removeprefix(_PREFIX)) if _PREFIX in text else given[0]
  if name in _MOVES:
    return given[0]
  if name == "pad" and isinstance(given[0], int):
    return given[0] if given[1] == {0.0} else ANY
  if name in ("concatenate", "pad"):
    return _union(given)
  if name == "select_n":
    return _union(given[1:])
  if name == "mul" and {0.0} in given:
    return frozenset({0.0})
  if name in _ARITHMETIC and all(isinstance(g, frozenset) for g in given):
    return _combine(_ARITHMETIC[name], *given)
  return ANY


# What only moves, repeats or leaves out entries of its first operand.
_MOVES = frozenset(
  (
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "dynamic_slice",
    "expand_dims",
    "reshape",
    "rev",
    "sharding_constraint",
    "slice",
    "squeeze",
    "transpose",
  )
)
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
  "add": operator.add,
  "sub": operator.sub,
  "mul": operator.mul,
  "max": max,
  "min": min,
}


def _union(given: Sequence[Values]) -> Values:
  if len(given) == 1:
    return given[0]
  if not all(isinstance(g, frozenset) for g in given):
    return ANY  # Two grids may differ in their steps.
  return _limited(frozenset().union(*given))


def _combine(function, left, right) -> Values:
  if len(left) * len(right) > _MOST**2:
    return ANY
  return _limited(frozenset(function(a, b) for a in left for b in right))


def _limited(values: frozenset[float]) -> Values:
  return values if len(values) <= _MOST else ANY
