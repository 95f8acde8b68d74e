"""One file that holds a recogniser: weights and all that reading needs.

The file is safetensors. Tensors are named by their path in the Flax variables
("params/head/kernel"); the arrays of a packed tensor by its path and a dot
("params/head/kernel.codes"). The header's metadata holds one key, `jaxocr`: a
JSON object with `format`, the caller's meta, `tensors` (what a packed tensor
states besides its arrays) and `content_hash`, the SHA-256 of all of these.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import os
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy

from jaxocr import files
from jaxocr.compress import packed as packed_lib
from jaxocr.compress import rules as rules_lib

FORMAT = 2
BUNDLE_NAME = "model.safetensors"  # In the folder of a run.
_KEY = "jaxocr"
_REQUIRED = ("architecture", "alphabet", "preprocess", "training")
_KINDS = {
  "bit": packed_lib.BitTensor,
  "affine": packed_lib.AffineTensor,
  "codebook": packed_lib.CodebookTensor,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
# What JSON that is not ours raises when its parts are looked up.
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError)
PyTree = Any


class BundleError(ValueError):
  """A file that is not a whole bundle of a format known here."""


@dataclasses.dataclass(frozen=True)
class Bundle:
  """What a file holds."""

  params: PyTree  # A packed tensor at each leaf, see `compress.packed`.
  collections: dict[str, PyTree]  # Other Flax collections by name.
  meta: dict  # With `format` and `content_hash`.

  def variables(self) -> dict:
    """As the network computes with them: float arrays."""
    # Compiled as a whole: leaf by leaf it takes twice as long.
    params = jax.jit(rules_lib.unpack)(self.params)
    return {"params": params, **self.collections}


def save_bundle(
  path: str | os.PathLike,
  params: PyTree,
  collections: Mapping[str, PyTree],
  meta: Mapping[str, Any],
) -> str:
  """Writes a bundle aside, then renames it to `path`.

  Args:
    path: Ends in .safetensors by custom.
    params: Packed tree, as of `rules.pack`; floats are read back as float32.
    collections: Other Flax collections by name.
    meta: JSON-able; at least `architecture` (arguments of the model as a dict),
      `alphabet` ({name, characters}), `preprocess` and `training`.

  Returns:
    The content hash.

  Raises:
    ValueError: Something is missing from `meta`.
  """
  missing = [name for name in _REQUIRED if name not in meta]
  if missing:
    raise ValueError(f"meta lacks {', '.join(missing)}; a reader needs them")
  arrays, tensors = {}, {}
  for name, leaf in _flatten({"params": params, **collections}).items():
    if type(leaf) in _NAMES:
      arrays |= {f"{name}.{f}": a for f, a in _arrays_of(leaf).items()}
      tensors[name] = {"kind": _NAMES[type(leaf)], **_stated_by(leaf)}
    else:
      arrays[name] = getattr(leaf, "values", leaf)
  # Safetensors writes the buffer as it lies, whatever the strides say.
  arrays = {
    k: np.asarray(jax.device_get(v), order="C") for k, v in arrays.items()
  }
  stated = {**meta, "tensors": tensors, "format": FORMAT}
  digest = _digest(arrays, stated)
  text = json.dumps(
    {**stated, "content_hash": digest},
    ensure_ascii=False,
    separators=(",", ":"),
  )
  # Not `save_file`, which leaves a file that only its owner may read.
  with files.aside(path) as part:
    part.write_bytes(safetensors.numpy.save(arrays, metadata={_KEY: text}))
  return digest


def load_bundle(path: str | os.PathLike) -> Bundle:
  """Reads a bundle.

  Raises:
    BundleError: Another kind of file, another format, one that is cut short,
      was altered, or lacks a tensor.
    OSError: The file cannot be opened.
  """
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      text = (file.metadata() or {}).get(_KEY)
      arrays = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
  except safetensors.SafetensorError as error:
    raise BundleError(
      f"{path}: not a whole safetensors file ({error}); give the {BUNDLE_NAME} "
      "that a run writes at its end"
    ) from error
  if text is None:
    raise BundleError(f"{path}: holds tensors but no jaxocr metadata")
  try:
    meta = json.loads(text)
    stated, digest = meta["format"], meta.pop("content_hash")
  except _DAMAGED as error:
    raise _damaged(path, error) from error
  if stated != FORMAT:
    raise BundleError(
      f"{path}: format {stated}, this version reads {FORMAT}; "
      + ("update jaxocr" if _newer(stated) else "train it again")
    )
  try:
    missing = [n for n in _names_stated(meta) if n not in arrays]
  except _DAMAGED as error:
    raise _damaged(path, error) from error
  if missing:
    raise BundleError(f"{path}: lacks the tensors {', '.join(missing)}")
  if _digest(arrays, meta) != digest:
    raise BundleError(f"{path}: was altered after saving (content hash)")
  flat = _assemble(arrays, meta.pop("tensors"))
  variables = flax.traverse_util.unflatten_dict(flat, sep="/")
  params = variables.pop("params", {})
  return Bundle(params, variables, {**meta, "content_hash": digest})


def _damaged(path, error: Exception) -> BundleError:
  return BundleError(
    f"{path}: its jaxocr metadata is damaged ({error!r}); give the "
    f"{BUNDLE_NAME} that a run writes at its end"
  )


def _flatten(tree: PyTree) -> dict[str, Any]:
  leaves = jax.tree_util.tree_leaves_with_path(
    tree, is_leaf=packed_lib.is_packed
  )
  return {rules_lib.path_name(path): leaf for path, leaf in leaves}


def _arrays_of(tensor) -> dict[str, Any]:
  fields = [field.name for field in dataclasses.fields(tensor)]
  values = {name: getattr(tensor, name) for name in fields}
  return {k: v for k, v in values.items() if hasattr(v, "nbytes")}


def _stated_by(tensor) -> dict[str, Any]:
  """Fields that are not arrays, and, as null, arrays that are left out."""
  fields = [field.name for field in dataclasses.fields(tensor)]
  arrays = _arrays_of(tensor)
  return {n: getattr(tensor, n) for n in fields if n not in arrays}


def _names_stated(meta) -> list[str]:
  """The arrays that the packed tensors of `meta` must have."""
  return [
    f"{name}.{field.name}"
    for name, stated in meta["tensors"].items()
    for field in dataclasses.fields(_KINDS[stated["kind"]])
    if field.name not in stated
  ]


def _assemble(arrays, tensors) -> dict[str, Any]:
  flat = {}
  for name, array in arrays.items():
    base, _, field = name.rpartition(".")
    if base in tensors:
      flat.setdefault(base, {})[field] = array
    elif name.startswith("params/"):
      flat[name] = packed_lib.FloatTensor(array, dtype="float32")
    else:
      flat[name] = array
  for name, stated in tensors.items():
    stated = {
      k: tuple(v) if isinstance(v, list) else v for k, v in stated.items()
    }
    kind = _KINDS[stated.pop("kind")]
    flat[name] = kind(**flat[name], **stated)
  return flat


def _newer(stated: Any) -> bool:
  return isinstance(stated, int) and stated > FORMAT


def _digest(arrays: Mapping[str, np.ndarray], stated: Mapping) -> str:
  """SHA-256 in hex over the arrays and all that is stated of them."""
  text = json.dumps(stated, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(f"{content_hash(arrays)}{text}".encode()).hexdigest()


def content_hash(tree: PyTree) -> str:
  """SHA-256 in hex over each leaf's path, type, shape and bytes, in order.

  The host must hold every leaf whole.
  """
  total = hashlib.sha256()
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  for path, leaf in leaves:
    array = np.asarray(leaf, order="C")
    name = rules_lib.path_name(path)
    total.update(f"{name} {array.dtype} {array.shape}\n".encode())
    total.update(array.tobytes())
  return total.hexdigest()
