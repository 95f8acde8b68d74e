"""From trained weights to what is shipped: folded, packed, in one file."""

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
from typing import Any

import jax

from jaxocr.compress import rules as rules_lib
from jaxocr.compress import specs
from jaxocr.compress import summary
from jaxocr.data import preprocess
from jaxocr.export import bundle
from jaxocr.models import fold
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import ctc
from jaxocr.train import distributed

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Weights:
  """A network's parameters and moments, on the host."""

  params: PyTree
  collections: PyTree


def with_steps(weights: Weights, rules: rules_lib.Rules) -> Weights:
  """With those steps that `rules` learn besides, as of `rules.with_steps`."""
  params = jax.device_get(rules_lib.with_steps(weights.params, rules))
  return dataclasses.replace(weights, params=params)


def variables(weights: Weights) -> dict:
  """As Flax takes them."""
  return {"params": weights.params, **weights.collections}


def make_deploy(rules: rules_lib.Rules) -> Callable[..., dict]:
  """(params, collections) -> variables of the model as it is shipped.

  Folded, but for rules that do not commute with it; these stay a study.
  """

  def deploy(params, collections):
    if not folds(rules):
      packed = rules_lib.pack(params, rules)
      return {"params": rules_lib.unpack(packed), **collections}
    # From the host in any case: elsewhere the arrays are, it compiles again.
    params, collections = jax.device_get((params, collections))
    packed = jax.device_get(fold.pack_folded(params, collections, rules))
    return {"params": rules_lib.unpack(packed), **_kept(collections)}

  return deploy


def folds(rules: rules_lib.Rules) -> bool:
  """Whether BatchNorm may go into the kernels that `rules` compress."""
  return all(spec.folds for _, spec in rules)


def _kept(collections) -> dict:
  """What a folded model still needs: all but BatchNorm's moments."""
  return {k: v for k, v in collections.items() if k != "batch_stats"}


def save(
  path: pathlib.Path,
  weights: Weights,
  architecture: Mapping[str, Any],
  rules: rules_lib.Rules | None,
  alphabet: alphabet_lib.Alphabet,
  training: Mapping[str, Any],
) -> tuple[int, summary.Summary]:
  """Writes a bundle; its size on disk and what its parameters occupy.

  Args:
    path: Of the file.
    weights: As trained.
    architecture: Of the network that was trained.
    rules: The form of the parameters, which are folded; None saves them with
      their moments in full precision, so that training can go on from them.
    alphabet: What is read.
    training: What is said of how it came about.
  """
  if rules is None:
    params = rules_lib.pack(weights.params, rules_lib.ALL_FLOAT)
    collections, folded = weights.collections, False
  else:
    if not folds(rules):
      raise ValueError(
        f"rules {rules} hold a spec that BatchNorm cannot be folded with; ship "
        "Binary, Affine (per channel, symmetric) or Float"
      )
    params = fold.pack_folded(weights.params, weights.collections, rules)
    collections, folded = _kept(weights.collections), True
  params = jax.device_get(params)
  size = save_packed(
    path,
    params,
    collections,
    {**architecture, "folded": folded},
    alphabet,
    training,
    rules=rules or rules_lib.ALL_FLOAT,
  )
  return size, summary.summarise(params)


def save_packed(
  path: pathlib.Path,
  params: PyTree,
  collections: Mapping[str, PyTree],
  architecture: Mapping[str, Any],
  alphabet: alphabet_lib.Alphabet,
  training: Mapping[str, Any],
  *,
  rules: rules_lib.Rules = (),
) -> int:
  """Writes a bundle of what is packed already; its size on disk.

  Args:
    path: Of the file.
    params: Packed.
    collections: What else the model needs.
    architecture: Of the model that these are for.
    alphabet: What is read.
    training: What is said of how it came about.
    rules: Under which `params` were packed, if they were so as a whole.
  """
  if distributed.is_writer():
    bundle.save_bundle(
      path,
      params,
      collections,
      {
        "architecture": dict(architecture),
        "alphabet": {
          "name": alphabet.name,
          "characters": alphabet.characters,
        },
        "preprocess": {
          "height": preprocess.HEIGHT_PX,
          "frame_px": ctc.FRAME_PX,
        },
        "rules": specs.as_json(rules),
        "training": training,
      },
    )
  distributed.barrier(f"saved {path.name}")
  return path.stat().st_size if path.exists() else 0


def load_weights(found: bundle.Bundle) -> Weights:
  """Of a bundle that was saved with its moments, to train on from."""
  return Weights(
    jax.device_get(rules_lib.unpack(found.params)), found.collections
  )
