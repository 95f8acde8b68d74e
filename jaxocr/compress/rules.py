"""Compression rules: which parameter takes which form.

A recipe is an ordered tuple of `(path regex, Spec)`; the first match wins. The
same recipe drives fake-quantisation in training and whatever is shipped.
"""

from collections.abc import Sequence
import dataclasses
import re
from typing import Any

import jax

from jaxocr.compress import binarise

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Float:
  """Stays as it is."""

  def fake(self, parameter: jax.Array, hardness: jax.Array) -> jax.Array:
    del hardness
    return parameter


@dataclasses.dataclass(frozen=True)
class Binary:
  """One bit a weight and one scale per output channel (last axis)."""

  def fake(self, parameter: jax.Array, hardness: jax.Array) -> jax.Array:
    return binarise.binarise_kernel(parameter, hardness)


Spec = Float | Binary
Rules = tuple[tuple[str, Spec], ...]

BINARY_KERNELS: Rules = ((r".*/binary_kernel", Binary()), (r".*", Float()))
ALL_FLOAT: Rules = ((r".*", Float()),)


def path_name(path: Sequence[Any]) -> str:
  """A tree path as text: `backbone/block0/mix/conv/binary_kernel`."""
  return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def match(params: PyTree, rules: Rules) -> PyTree:
  """Finds the spec of every parameter.

  Args:
    params: Parameter tree.
    rules: Regexes match the whole path.

  Returns:
    A tree like `params` with a Spec at each leaf.

  Raises:
    ValueError: For a rule that serves no parameter, or a parameter that no
      rule covers; both are named.
  """
  unused = dict.fromkeys(pattern for pattern, _ in rules)
  uncovered = []

  def find(path, _):
    name = path_name(path)
    for pattern, spec in rules:
      if re.fullmatch(pattern, name):
        unused.pop(pattern, None)
        return spec
    uncovered.append(name)
    return None

  specs = jax.tree_util.tree_map_with_path(find, params)
  if uncovered:
    raise ValueError(
      f"no rule covers {', '.join(uncovered)}; end the rules with "
      "('.*', Float()) to leave the rest in full precision"
    )
  if unused:
    raise ValueError(
      f"rules {', '.join(unused)} match no parameter that an earlier rule has "
      "not taken; remove them or mend the pattern"
    )
  return specs


def fake(
  params: PyTree, rules: Rules, hardness: jax.Array | float = 1.0
) -> PyTree:
  """Parameters as the shipped model will have them, with surrogate gradients.

  Args:
    params: Latent, full-precision tree.
    rules: See `match`, whose errors this raises.
    hardness: Scalar in [0, 1]; below 1 the parameters are on their way from
      full precision to their final form.

  Returns:
    A tree of the same structure, shapes and dtypes.
  """
  specs = match(params, rules)
  return jax.tree.map(
    lambda spec, p: spec.fake(p, hardness), specs, params, is_leaf=_is_spec
  )


def _is_spec(node: Any) -> bool:
  return isinstance(node, (Float, Binary))
