"""Compression rules: which parameter takes which form.

A recipe is an ordered tuple of `(path regex, Spec)`; the first match wins. The
same recipe drives fake-quantisation in training, the packed file, and what is
said of its size:

  fake(params, rules) == unpack(pack(params, rules))    bit for bit
"""

from collections.abc import Sequence
import re
from typing import Any

import jax
import jax.numpy as jnp

from jaxocr.compress import packed as packed_lib
from jaxocr.compress import specs

PyTree = Any
Rules = tuple[tuple[str, specs.Spec], ...]

ALL_FLOAT: Rules = ((r".*", specs.Float()),)
BINARY_KERNELS: Rules = ((r".*/binary_kernel", specs.Binary()), *ALL_FLOAT)
# What is shipped: 8-bit integers where one bit is too little, half floats for
# the rest, which is small.
BINARY_SHIPPED: Rules = (
  (r".*/binary_kernel", specs.Binary()),
  (r"(.*/)?(\w+_)?kernel", specs.Affine()),
  (r".*", specs.Float("float16")),
)


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

  found = jax.tree_util.tree_map_with_path(find, params)
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
  return found


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

  def form(spec, parameter):
    formed = spec.fake(parameter)
    return formed if formed is parameter else _mix(parameter, formed, hardness)

  return jax.tree.map(form, match(params, rules), params, is_leaf=_is_spec)


def pack(params: PyTree, rules: Rules) -> PyTree:
  """What is stored: a tree like `params` with a packed tensor at each leaf.

  Raises:
    ValueError: See `match`.
  """
  found = match(params, rules)
  return jax.tree.map(
    lambda spec, p: spec.pack(p), found, params, is_leaf=_is_spec
  )


def unpack(packed: PyTree) -> PyTree:
  """The parameters that `pack` stored, as the network computes with them."""
  return jax.tree.map(
    lambda tensor: tensor.dequantise(), packed, is_leaf=packed_lib.is_packed
  )


def _mix(before, after, hardness):
  """From `before` at hardness 0 to exactly `after` at 1."""
  if isinstance(hardness, (int, float)) and hardness == 1:
    return after
  hardness = jnp.asarray(hardness, before.dtype)
  between = hardness * after + (1 - hardness) * before
  return jnp.where(hardness == 1, after, between)


def _is_spec(node: Any) -> bool:
  return isinstance(node, specs.Spec)
