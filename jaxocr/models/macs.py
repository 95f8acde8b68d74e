"""Multiply-accumulates of each parameter, counted in the traced computation.

Nothing is computed and no layer has to say what it does: parameters are
followed through the jaxpr to the products in which they meet features, and the
features through what decides how many values they can take (`models.levels`).
"""

import collections
from collections.abc import Callable, Sequence
import fractions
import functools
import math
from typing import Any, NamedTuple

import jax
from jax.extend import core

from jaxocr.compress import rules as rules_lib
from jaxocr.compress import summary as summary_lib
from jaxocr.models import levels

PyTree = Any
# Which parameters a value is made of: {path: share}, {} for none. What depends
# on an input is features, whatever else it depends on.
_Label = dict[str, fractions.Fraction] | None
_FEATURES = None


class _Fact(NamedTuple):
  """What is known of a value."""

  label: _Label
  values: levels.Values = levels.ANY


_JAXPRS = (core.Jaxpr, core.ClosedJaxpr)
_ROOT = "params/"


def count_macs(
  function: Callable[..., Any], variables: PyTree, *inputs: Any
) -> dict[str, dict[str, int]]:
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
    Path in `params`, as of `rules.path_name` -> form of the features that the
    parameter meets (bit, int2 to int8, float) -> number. Parameters in no
    product are absent.

  Raises:
    ValueError: A while loop, whose length nobody knows, uses a parameter.
  """
  jaxpr = jax.make_jaxpr(function)(variables, *inputs)
  shapes, facts = {}, []
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    name = rules_lib.path_name(path)
    label = {}
    if name.startswith(_ROOT):
      name = name.removeprefix(_ROOT)
      shapes[name] = leaf.shape
      label = {name: fractions.Fraction(1)}
    facts.append(_Fact(label))
  facts += [_Fact(_FEATURES)] * len(jax.tree.leaves(inputs))
  counter = _Counter(shapes)
  counter.walk(jaxpr, facts, 1)
  counted = {
    path: {form: round(n) for form, n in found.items() if n}
    for path, found in counter.macs.items()
  }
  return {path: found for path, found in counted.items() if found}


def summary(
  model, params: PyTree, rules: rules_lib.Rules, input_shape: Sequence[int]
) -> summary_lib.Summary:
  """What a model's parameters will occupy and compute under `rules`.

  Nothing is computed.

  Args:
    model: Flax module called with images and `train`, such as `crnn.CRNN`.
    params: Its parameters; arrays or ShapeDtypeStructs.
    rules: The form of every parameter.
    input_shape: Of its input, [B, H, W, 1]; a batch of one counts one line.

  Raises:
    ValueError: The parameters are not those of the model, or `rules` do not fit
      them (see `rules.match`).
  """
  image = jax.ShapeDtypeStruct(tuple(input_shape), "float32")
  variables = dict(
    jax.eval_shape(functools.partial(model.init, train=False), _key(), image)
  )
  with_steps = lambda p: rules_lib.with_steps(p, rules)  # noqa: E731
  wanted, given = (
    jax.eval_shape(with_steps, p) for p in (variables["params"], params)
  )
  _check_alike(wanted, given)
  counted = count_macs(
    functools.partial(model.apply, train=False), variables, image
  )
  return summary_lib.summary(given, rules, counted)


def _key():
  return jax.eval_shape(lambda: jax.random.key(0))


def _check_alike(wanted: PyTree, given: PyTree) -> None:
  shapes = [
    {rules_lib.path_name(p): x.shape for p, x in leaves}
    for leaves in map(jax.tree_util.tree_leaves_with_path, (wanted, given))
  ]
  differing = dict(shapes[0].items() ^ shapes[1].items())
  if differing:
    raise ValueError(
      f"params are not the model's: {', '.join(sorted(differing))} differ in "
      "shape or are in one only; give what its init or a bundle gave"
    )


class _Counter:
  """Follows facts through jaxprs and adds up what it meets."""

  def __init__(self, shapes: dict[str, tuple[int, ...]]):
    self._shapes = shapes
    self.macs = {path: collections.Counter() for path in shapes}

  def walk(self, jaxpr, facts: Sequence[_Fact], times: int) -> list[_Fact]:
    """Facts of a jaxpr's results, which is run `times` times."""
    jaxpr = _open(jaxpr)
    known = dict(zip(jaxpr.invars, facts, strict=True))

    def fact(atom):
      if isinstance(atom, core.Literal):
        return _Fact({}, levels.of_literal(atom))
      return known.get(atom, _Fact({}))  # The jaxpr's constants are not known.

    for equation in jaxpr.eqns:
      given = [fact(atom) for atom in equation.invars]
      results = self._follow(equation, given, times)
      known.update(zip(equation.outvars, results, strict=True))
    return [fact(atom) for atom in jaxpr.outvars]

  def _follow(self, equation, given, times) -> list[_Fact]:
    name, params = equation.primitive.name, equation.params
    labels = [fact.label for fact in given]
    if name == "scan":
      return self._scan(equation, given, times)
    if name == "cond":
      return self.walk(params["branches"][0], given[1:], times)
    if name == "while" and any(labels):
      paths = sorted(path for label in labels for path in label or {})
      raise ValueError(
        f"a while loop uses {', '.join(paths)}, and how often is not known; "
        "write it with lax.scan"
      )
    # jit, custom_vjp, checkpoint: whatever they are called in this JAX.
    inner = [p for p in params.values() if isinstance(p, _JAXPRS)]
    if len(inner) == 1 and len(_open(inner[0]).invars) == len(given):
      return self.walk(inner[0], given, times)
    if name in _PRODUCTS and _FEATURES in labels:
      self._add(name, times * _PRODUCTS[name](equation), given)
    values = levels.follow(equation, [fact.values for fact in given])
    return [_Fact(self._join(equation, labels), values)] * len(equation.outvars)

  def _scan(self, equation, given, times) -> list[_Fact]:
    body = equation.params["jaxpr"]
    inside = _open(body)
    # Not every JAX states how many operands are carried: those whose results
    # have no axis of steps. What is scanned over has it outside only.
    carried = _of_equal_rank(inside.outvars, equation.outvars)
    scanned = len(given) - _of_equal_rank(inside.invars, equation.invars)
    first = len(given) - scanned - carried
    before, after = given[:first], given[first + carried :]
    # What is carried takes other values in later steps.
    carry = [_Fact(fact.label) for fact in given[first : first + carried]]
    while True:  # Zeros that are carried first become features.
      results = self.walk(body, [*before, *carry, *after], 0)
      joined = [
        _Fact(
          _FEATURES
          if _FEATURES in (old.label, new.label)
          else old.label or new.label
        )
        for old, new in zip(carry, results, strict=False)
      ]
      if joined == carry:
        break
      carry = joined
    times *= equation.params["length"]
    results = self.walk(body, [*before, *carry, *after], times)
    return [*joined, *results[carried:]]

  def _add(self, name, macs, given) -> None:
    form = next(
      levels.form(fact.values) for fact in given if fact.label is _FEATURES
    )
    for fact in given:
      for path, share in (fact.label or {}).items():
        if name != "mul" or self._is_kernel(path):
          self.macs[path][form] += macs * share

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
