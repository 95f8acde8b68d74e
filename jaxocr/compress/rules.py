"""Compression rules: which parameter takes which form.

A recipe is an ordered tuple of `(path regex, Spec)`; the first match wins. The
same recipe drives fake-quantisation in training, the packed file, and what is
said of its size:

  fake(params, rules) == unpack(pack(params, rules))    bit for bit

A spec whose step is learnt (`specs.LSQ`) finds it beside the parameter; the
network sees neither the latent parameter nor the step.
"""

from collections.abc import Mapping, Sequence
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


def unfit(params: PyTree, rules: Rules) -> dict[str, str]:
  """Parameters that their spec does not suit: path -> the reason.

  Raises:
    ValueError: See `match`.
  """
  found = jax.tree.leaves(match(params, rules), is_leaf=_is_spec)
  leaves = jax.tree_util.tree_leaves_with_path(params)
  reasons = {
    path_name(path): spec.unfit(leaf.shape)
    for (path, leaf), spec in zip(leaves, found, strict=True)
    if isinstance(spec, specs.Codebook)
  }
  return {path: reason for path, reason in reasons.items() if reason}


def leave_unfit(
  params: PyTree, rules: Rules, instead: specs.Spec
) -> tuple[Rules, dict[str, str]]:
  """Rules that give `instead` to what `unfit` names, and the reasons.

  Rules that then serve no parameter are left out.

  Raises:
    ValueError: See `match`.
  """
  reasons = unfit(params, rules)
  names = [
    path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)
  ]
  rest = [name for name in names if name not in reasons]
  kept = []
  for pattern, spec in rules:
    served = [name for name in rest if re.fullmatch(pattern, name)]
    rest = [name for name in rest if name not in served]
    if served:
      kept.append((pattern, spec))
  left = tuple((re.escape(path), instead) for path in reasons)
  return (*left, *kept), reasons


def with_steps(params: PyTree, rules: Rules) -> PyTree:
  """`params` with the step of each parameter that is to learn one.

  A step that is there already stays. Before training starts, so that it is
  optimised and saved with the rest.

  Args:
    params: Nested dicts of arrays.
    rules: See `match`.

  Raises:
    ValueError: See `match`.
  """
  found = match(params, rules)

  def add(params, found):
    if not isinstance(params, Mapping):
      return params
    known = _steps(found)
    steps = {
      step: found[name].init(params[name])
      for step, name in known.items()
      if step not in params and name not in known
    }
    return {name: add(p, found[name]) for name, p in params.items()} | steps

  return add(params, found)


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
    A tree of the same structure, shapes and dtypes, but for learnt steps, which
    are in the parameters by now.

  Raises:
    ValueError: See `match` and `unfit`; or a step is missing.
  """

  def form(spec, parameter, *step):
    formed = spec.fake(parameter, *step)
    return formed if formed is parameter else _mix(parameter, formed, hardness)

  return _map(form, params, rules)


def pack(params: PyTree, rules: Rules) -> PyTree:
  """What is stored: a tree like that of `fake`, a packed tensor at each leaf.

  Raises:
    ValueError: See `match` and `unfit`; or a step is missing.
  """
  return _map(lambda spec, *given: spec.pack(*given), params, rules)


def _map(function, params: PyTree, rules: Rules) -> PyTree:
  """function(spec, parameter, its step if it has one); steps themselves go."""
  found = match(params, rules)
  refused = unfit(params, rules) if _has_codebooks(rules) else {}
  if refused:
    raise ValueError(
      "; ".join(f"{path}: {reason}" for path, reason in refused.items())
    )
  if not any(isinstance(spec, specs.LSQ) for _, spec in rules):
    return jax.tree.map(function, found, params, is_leaf=_is_spec)

  def walk(params, found, above):
    if not isinstance(params, Mapping):
      return jax.tree.map(function, found, params, is_leaf=_is_spec)
    formed, known = {}, _steps(found)
    for name in [name for name in found if name not in known]:
      spec = found[name]
      if not isinstance(spec, specs.LSQ):
        formed[name] = walk(params[name], spec, f"{above}{name}/")
        continue
      step = name + spec.beside
      if step not in params:
        raise ValueError(
          f"{above}{name} has no {step} beside it, which {spec} needs; train "
          "rules.with_steps(params, rules)"
        )
      formed[name] = function(spec, params[name], params[step])
    return formed

  return walk(params, found, "")


def _has_codebooks(rules: Rules) -> bool:
  return any(isinstance(spec, specs.Codebook) for _, spec in rules)


def _steps(found: Mapping[str, Any]) -> dict[str, str]:
  """Names of steps -> names of their parameters, at one level of a tree."""
  return {
    name + spec.beside: name
    for name, spec in found.items()
    if isinstance(spec, specs.LSQ)
  }


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
