"""One file that holds a recogniser: weights and all that reading needs.

The file is safetensors. Tensors are named by their path in the Flax variables
("params/head/kernel"). The header's metadata holds one key, `jaxocr`: a JSON
object with `format`, the caller's meta and `content_hash`, the SHA-256 of the
tensors.
"""

from collections.abc import Mapping
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

FORMAT = 1
BUNDLE_NAME = "model.safetensors"  # In the folder of a run.
_KEY = "jaxocr"
_REQUIRED = ("architecture", "alphabet", "preprocess", "training")
PyTree = Any


class BundleError(ValueError):
  """A file that is not a whole bundle of a format known here."""


def save_bundle(
  path: str | os.PathLike,
  params: PyTree,
  collections: Mapping[str, PyTree],
  meta: Mapping[str, Any],
) -> str:
  """Writes a bundle aside, then renames it to `path`.

  Args:
    path: Ends in .safetensors by custom.
    params: Tree of arrays, kept in their types.
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
  variables = {"params": params, **collections}
  flat = flax.traverse_util.flatten_dict(variables, sep="/")
  # Safetensors writes the buffer as it lies, whatever the strides say.
  flat = {k: np.asarray(jax.device_get(v), order="C") for k, v in flat.items()}
  digest = content_hash(flat)
  header = {**meta, "format": FORMAT, "content_hash": digest}
  text = json.dumps(header, ensure_ascii=False)
  # Not `save_file`, which leaves a file that only its owner may read.
  with files.aside(path) as part:
    part.write_bytes(safetensors.numpy.save(flat, metadata={_KEY: text}))
  return digest


def load_bundle(path: str | os.PathLike) -> tuple[dict, dict]:
  """Reads a bundle.

  Returns:
    Flax variables (collection -> tree of numpy arrays) and the meta, with
    `format` and `content_hash`.

  Raises:
    BundleError: Another kind of file, a newer format, or one that was altered.
    OSError: The file cannot be opened.
  """
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      text = (file.metadata() or {}).get(_KEY)
      flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except safetensors.SafetensorError as error:
    raise BundleError(
      f"{path}: not a safetensors file ({error}); give the {BUNDLE_NAME} "
      "that a run writes at its end"
    ) from error
  if text is None:
    raise BundleError(f"{path}: holds tensors but no jaxocr metadata")
  try:
    meta = json.loads(text)
    stated, digest = meta["format"], meta["content_hash"]
  except (ValueError, KeyError, TypeError) as error:
    raise BundleError(
      f"{path}: its jaxocr metadata is damaged ({error!r}); give the "
      f"{BUNDLE_NAME} that a run writes at its end"
    ) from error
  if stated != FORMAT:
    raise BundleError(
      f"{path}: format {stated}, this version reads {FORMAT}; update jaxocr"
    )
  if content_hash(flat) != digest:
    raise BundleError(f"{path}: the tensors were altered after saving")
  return flax.traverse_util.unflatten_dict(flat, sep="/"), meta


def content_hash(tree: PyTree) -> str:
  """SHA-256 in hex over each leaf's path, type, shape and bytes, in order.

  The host must hold every leaf whole.
  """
  total = hashlib.sha256()
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  for path, leaf in leaves:
    array = np.asarray(leaf, order="C")
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    total.update(f"{name} {array.dtype} {array.shape}\n".encode())
    total.update(array.tobytes())
  return total.hexdigest()
