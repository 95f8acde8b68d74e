"""Multiply-accumulates of each parameter, counted in the traced computation.

Nothing is computed and no layer has to say what it does: parameters are
followed through the jaxpr to the products in which they meet features.
"""

from collections.abc import Callable, Sequence
import fractions
import math
from typing import Any

import jax
from jax.extend import core

from jaxocr.compress import rules

PyTree = Any
# Which parameters a value is made of: {path: share}, {} for none. What depends
# on an input is features, whatever else it depends on.
_Label = dict[str, fractions.Fraction] | None
_FEATURES = None
_JAXPRS = (core.Jaxpr, core.ClosedJaxpr)
_ROOT = "params/"


def count_macs(
  function: Callable[..., Any], variables: PyTree, *inputs: Any
) -> dict[str, int]:
  """Multiply-accumulates between features and parameters in one call.

  Counted are `dot_general`, `conv_general_dilated` (taps on padding included)
  and, as depthwise kernels are used, elementwise products with a parameter of
  two or more axes called NAMEkernel. Scales, slopes and offsets per channel are
  not, nor products of features alone or of parameters alone.

  A value made of several parameters counts for the largest of them, but a
  concatenation for each by its share. A scan's body counts once a step. Of a
  cond only the first branch is counted: of `lax.platform_dependent`, that of
  the platform named first.

  Args:
    function: Of variables and inputs, as `lambda v, x: model.apply(v, x)`.
    variables: With the parameters in `params`; arrays or ShapeDtypeStructs.
    *inputs: Trees of arrays or ShapeDtypeStructs, what counts as features; a
      batch of one counts one line.

  Returns:
    Path in `params`, as of `rules.path_name` -> number. Parameters in no
    product are absent.

  Raises:
    ValueError: A while loop, whose length nobody knows, uses a parameter.
  """
  jaxpr = jax.make_jaxpr(function)(variables, *inputs)
  shapes, labels = {}, []
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    name = rules.path_name(path)
    label = {}
    if name.startswith(_ROOT):
      name = name.removeprefix(_ROOT)
      shapes[name] = leaf.shape
      label = {name: fractions.Fraction(1)}
    labels.append(label)
  labels += [_FEATURES] * len(jax.tree.leaves(inputs))
  counter = _Counter(shapes)
  counter.walk(jaxpr, labels, 1)
  return {name: round(n) for name, n in counter.macs.items() if n}


class _Counter:
  """Follows labels through jaxprs and adds up what it meets."""

  def __init__(self, shapes: dict[str, tuple[int, ...]]):
    self._shapes = shapes
    self.macs = dict.fromkeys(shapes, fractions.Fraction(0))

  def walk(self, jaxpr, labels: Sequence[_Label], times: int) -> list[_Label]:
    """Labels of a jaxpr's results, which is run `times` times."""
    jaxpr = _open(jaxpr)
    known = dict(zip(jaxpr.invars, labels, strict=True))

    def label(atom):
      # Neither literals nor the jaxpr's constants are in `known`.
      return {} if isinstance(atom, core.Literal) else known.get(atom, {})

    for equation in jaxpr.eqns:
      given = [label(atom) for atom in equation.invars]
      results = self._follow(equation, given, times)
      known.update(zip(equation.outvars, results, strict=True))
    return [label(atom) for atom in jaxpr.outvars]

  def _follow(self, equation, given, times) -> list[_Label]:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
      return self._scan(equation, given, times)
    if name == "cond":
      return self.walk(params["branches"][0], given[1:], times)
    if name == "while" and any(given):
      paths = sorted(path for label in given for path in label or {})
      raise ValueError(
        f"a while loop uses {', '.join(paths)}, and how often is not known; "
        "write it with lax.scan"
      )
    # jit, custom_vjp, checkpoint: whatever they are called in this JAX.
    inner = [p for p in params.values() if isinstance(p, _JAXPRS)]
    if len(inner) == 1 and len(_open(inner[0]).invars) == len(given):
      return self.walk(inner[0], given, times)
    if name in _PRODUCTS and _FEATURES in given:
      self._add(name, times * _PRODUCTS[name](equation), given)
    return [self._join(equation, given)] * len(equation.outvars)

  def _scan(self, equation, given, times) -> list[_Label]:
    body = equation.params["jaxpr"]
    inside = _open(body)
    # Not every JAX states how many operands are carried: those whose results
    # have no axis of steps. What is scanned over has it outside only.
    carried = _of_equal_rank(inside.outvars, equation.outvars)
    scanned = len(given) - _of_equal_rank(inside.invars, equation.invars)
    first = len(given) - scanned - carried
    before, carry = given[:first], given[first : first + carried]
    after = given[first + carried :]
    while True:  # Zeros that are carried first become features.
      results = self.walk(body, [*before, *carry, *after], 0)
      joined = [
        _FEATURES if _FEATURES in (old, new) else old or new
        for old, new in zip(carry, results, strict=False)
      ]
      if joined == carry:
        break
      carry = joined
    times *= equation.params["length"]
    return self.walk(body, [*before, *carry, *after], times)

  def _add(self, name, macs, given) -> None:
    for label in given:
      for path, share in (label or {}).items():
        if name != "mul" or self._is_kernel(path):
          self.macs[path] += macs * share

  def _is_kernel(self, path) -> bool:
    return path.endswith("kernel") and len(self._shapes[path]) >= 2

  def _join(self, equation, given) -> _Label:
    if _FEATURES in given:
      return _FEATURES
    if equation.primitive.name in ("concatenate", "stack"):
      return _by_share(equation.invars, given)
    return max(given, key=self._size, default={})

  def _size(self, label) -> int:
    return sum(math.prod(self._shapes[path]) for path in label)


def _open(jaxpr):
  """A Jaxpr with or without its constants, which newer JAX tells not apart."""
  return getattr(jaxpr, "jaxpr", jaxpr)


def _of_equal_rank(inside, outside) -> int:
  return sum(
    len(a.aval.shape) == len(b.aval.shape)
    for a, b in zip(inside, outside, strict=True)
  )


def _by_share(atoms, given) -> _Label:
  total = sum(atom.aval.size for atom in atoms)
  joined = {}
  for atom, label in zip(atoms, given, strict=True):
    for path, share in label.items():
      part = share * fractions.Fraction(atom.aval.size, total)
      joined[path] = joined.get(path, 0) + part
  return joined


def _dot_macs(equation) -> int:
  (contracted, _), _ = equation.params["dimension_numbers"]
  shape = equation.invars[0].aval.shape
  terms = math.prod(shape[axis] for axis in contracted)
  return equation.outvars[0].aval.size * terms


def _conv_macs(equation) -> int:
  kernel = equation.invars[1].aval
  outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
  return equation.outvars[0].aval.size * kernel.size // outputs


_PRODUCTS = {
  "dot_general": _dot_macs,
  "conv_general_dilated": _conv_macs,
  "mul": lambda equation: equation.outvars[0].aval.size,
}
