"""Weights of one network as the start of another, leaf by leaf.

A stage that silently starts from noise where names differ is the classic fault
of staged training; here every leaf is accounted for.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any

import jax

from jaxocr.compress import rules as rules_lib

PyTree = Any
COPIED, FRESH = "copied", "re-initialised"


class TransferError(ValueError):
  """Two trees that do not fit."""


@dataclasses.dataclass(frozen=True)
class Moved:
  """What became of one leaf of the target."""

  path: str
  fate: str  # COPIED or FRESH.
  reason: str  # Why it is fresh; "" where it was copied.


def transfer(
  source: PyTree, target: PyTree, *, fresh: Mapping[str, str] | None = None
) -> tuple[PyTree, list[Moved]]:
  """Puts the leaves of `source` into the places of `target`.

  Args:
    source: Trained tree.
    target: Newly initialised tree.
    fresh: Regexes of whole paths that stay as initialised, such as a head for
      another alphabet, and why, for the report; the same paths of `source` are
      left out. The first regex that matches counts.

  Returns:
    A tree like `target`, and what became of each of its leaves.

  Raises:
    TransferError: A leaf of either tree has no partner of its shape in the
      other and no regex of `fresh` names it, or such a regex names nothing.
  """
  fresh = {} if fresh is None else fresh
  given = _by_path(source)
  wanted = _by_path(target)
  unused = [
    p for p in fresh if not any(re.fullmatch(p, path) for path in wanted)
  ]
  if unused:
    raise TransferError(f"fresh {', '.join(unused)} names no parameter")

  def reason(path):
    return next((w for p, w in fresh.items() if re.fullmatch(p, path)), None)

  faults = [
    f"{path} of the source is not in the target"
    for path in given
    if path not in wanted and reason(path) is None
  ]
  moved, leaves = [], []
  for path, leaf in wanted.items():
    if (why := reason(path)) is not None:
      moved.append(Moved(path, FRESH, why))
      leaves.append(leaf)
      continue
    if path not in given:
      faults.append(f"{path} {leaf.shape} is not in the source")
    elif given[path].shape != leaf.shape:
      faults.append(f"{path} is {given[path].shape}, wanted {leaf.shape}")
    else:
      moved.append(Moved(path, COPIED, ""))
      leaves.append(given[path].astype(leaf.dtype))
  if faults:
    raise TransferError(
      "weights do not fit: "
      + "; ".join(faults)
      + "; name what shall be re-initialised in `fresh`"
    )
  return jax.tree.unflatten(jax.tree.structure(target), leaves), moved


def derived(moved: Sequence[Moved], source: PyTree, reason: str) -> list[Moved]:
  """What became of each leaf, where `source` had been added to before.

  Args:
    moved: As of `transfer`.
    source: What was trained; leaves that it has not were derived from it.
    reason: How, for the report.
  """
  trained = _by_path(source)
  return [
    m
    if m.path in trained or m.fate == FRESH
    else dataclasses.replace(m, fate=FRESH, reason=reason)
    for m in moved
  ]


def describe(moved: Sequence[Moved]) -> str:
  """`151 of 151 leaves copied`, and a line for each that was not."""
  copied = sum(m.fate == COPIED for m in moved)
  lines = [f"{copied} of {len(moved)} leaves copied"]
  lines += [f"  {m.path} {m.fate}: {m.reason}" for m in moved if m.reason]
  return "\n".join(lines)


def _by_path(tree: PyTree) -> dict[str, Any]:
  return {
    rules_lib.path_name(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
