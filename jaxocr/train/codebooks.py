"""Fitting a network's codebooks to its responses, layer after layer.

Inputs of each layer come from running the network over some images, a batch at
a time; only their second moments are kept, see `compress.correct`. A layer that
is done is written to the run's folder, so that a run that was stopped goes on
with the next.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import pathlib
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxocr import files
from jaxocr.compress import correct
from jaxocr.compress import packed as packed_lib
from jaxocr.compress import rules as rules_lib
from jaxocr.models import layers
from jaxocr.train import distributed
from jaxocr.train import progress as progress_lib

PyTree = Any
Tensors = dict[str, packed_lib.Packed]


@dataclasses.dataclass(frozen=True)
class Network:
  """A float network and images to see how its layers answer.

  Attributes:
    model: Flax module called with images.
    variables: Of the float network; parameters as they are compressed (folded).
    images: Batches [B, H, W, 1], run again for each layer.
  """

  model: Any
  variables: Mapping[str, PyTree]
  images: Sequence[np.ndarray]

  @functools.cached_property
  def inputs(self) -> Callable[[PyTree, jax.Array], dict[str, jax.Array]]:
    """(params, images) -> rows [1, R, taps * C] that enter each kernel."""
    rest = {k: v for k, v in self.variables.items() if k != "params"}

    @jax.jit
    def inputs(params, images):
      _, found = self.model.apply(
        {"params": params, **rest}, images, mutable=[layers.INPUTS]
      )
      found = layers.entered(params, found[layers.INPUTS])
      return {
        path: rows.reshape(1, -1, rows.shape[-1])
        for path, rows in found.items()
      }

    return inputs

  @functools.cached_property
  def order(self) -> list[str]:
    """Kernels' paths, first layer first."""
    # What comes out of jit has sorted names.
    found = []

    def look(params, images):
      rest = {k: v for k, v in self.variables.items() if k != "params"}
      _, seen = self.model.apply(
        {"params": params, **rest}, images, mutable=[layers.INPUTS]
      )
      found.extend(layers.entered(params, seen[layers.INPUTS]))

    jax.eval_shape(look, self.variables["params"], self.images[0])
    return found


def correct_layers(
  network: Network,
  packed: PyTree,
  *,
  several: bool,
  sweeps: int,
  folder: pathlib.Path,
) -> PyTree:
  """`packed` with its codebooks fitted to the float network's responses.

  Args:
    network: The float network.
    packed: As of `rules.pack` of its parameters.
    several: Whether a layer is fitted with the inputs that it has behind the
      layers before it as they are by then (multi-layer correction); else with
      the float network's.
    sweeps: Over the sub-spaces of a layer, at most.
    folder: Where layers that are done are kept.

  Returns:
    A tree like `packed`; its CodebookTensors hold errors.

  Raises:
    ValueError: Nothing is known of what enters a layer with codebooks.
  """
  tensors = flatten(packed)
  books = {
    path: tensor
    for path, tensor in tensors.items()
    if isinstance(tensor, packed_lib.CodebookTensor)
  }
  unknown = sorted(books.keys() - set(network.order))
  if unknown:
    raise ValueError(
      f"what enters {', '.join(unknown)} is not shown; call layers.entering "
      "there, or give them another spec"
    )
  order = [path for path in network.order if path in books]
  floats = network.variables["params"]
  # What has no codebook is as it is shipped; the rest follows layer by layer.
  kernels = flatten(rules_lib.unpack(packed))
  kernels |= {path: flatten(floats)[path] for path in books}
  done = {}
  rounds = len(order) if several else 1
  bar = progress_lib.Progress(
    start=0,
    steps=rounds * len(network.images),
    shown=distributed.is_writer(),
  )
  groups = [[path] for path in order] if several else [order]
  for group in groups:
    kept = {p: _kept(folder, p) for p in group}
    missing = [p for p in group if not kept[p].exists()]
    moments = _moments(
      network, missing, unflatten(kernels) if several else None, bar
    )
    for path in group:
      if path in moments:
        fitted = _fit(books[path], moments.pop(path), sweeps)
        _write(kept[path], fitted)
        bar.note(told(path, fitted))
      done[path] = _read(kept[path], books[path])
      if several:
        kernels[path] = done[path].dequantise()
  bar.close()
  return unflatten(tensors | done)


def told(path: str, tensor: packed_lib.CodebookTensor) -> str:
  """One line on a layer for a person."""
  before, after = tensor.errors
  ratio = 4 * np.prod(tensor.shape) / tensor.nbytes
  return (
    f"{path}: {tensor.form}, {ratio:.1f} times smaller, response error "
    f"{before:.2%} -> {after:.2%}"
  )


def rows(packed: PyTree) -> list[dict]:
  """One row a product-quantised layer, for report.json."""
  found = []
  for path, tensor in flatten(packed).items():
    if not isinstance(tensor, packed_lib.CodebookTensor):
      continue
    before, after = tensor.errors or (None, None)
    found.append(
      {
        "layer": path,
        "d": tensor.d,
        "codewords": tensor.codewords,
        "codebook_bytes": tensor.codebooks.nbytes,
        "code_bytes": tensor.codes.nbytes,
        "ratio": float(4 * np.prod(tensor.shape) / tensor.nbytes),
        "error_before": before,
        "error_after": after,
      }
    )
  return found


def _moments(
  network: Network,
  paths: Iterable[str],
  quantised: PyTree | None,
  bar: progress_lib.Progress,
) -> dict[str, correct.Moments]:
  """Of the layers `paths`, over all images."""
  floats = network.variables["params"]
  kernels = {
    path: kernel.reshape(-1, kernel.shape[-1])
    for path, kernel in flatten(floats).items()
    if path in paths
  }
  found = {path: correct.no_moments(*k.shape) for path, k in kernels.items()}
  for images in network.images if kernels else ():
    true = network.inputs(floats, images)
    seen = true if quantised is None else network.inputs(quantised, images)
    for path, kernel in kernels.items():
      wanted = true[path] @ jnp.asarray(kernel)
      found[path] = correct.add_rows(found[path], seen[path], wanted)
    jax.block_until_ready(found)
    bar.advance()
  return found


def _fit(
  tensor: packed_lib.CodebookTensor, moments: correct.Moments, sweeps: int
) -> packed_lib.CodebookTensor:
  fitted = correct.correct(
    *tensor.open(),
    moments,
    shape=tensor.shape,
    storage=tensor.storage,
    sweeps=sweeps,
  )
  return packed_lib.pack_codebooks(
    fitted.books,
    fitted.codes,
    shape=tensor.shape,
    storage=tensor.storage,
    dtype=tensor.dtype,
    errors=(fitted.errors[0], fitted.errors[-1]),
  )


def _kept(folder: pathlib.Path, path: str) -> pathlib.Path:
  return folder / f"{path.replace('/', '.')}.npz"


def _write(path: pathlib.Path, tensor: packed_lib.CodebookTensor) -> None:
  if not distributed.is_writer():
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  with files.aside(path) as part, part.open("wb") as file:
    np.savez(
      file,
      codebooks=tensor.codebooks,
      codes=tensor.codes,
      errors=np.float64(tensor.errors),
    )


def _read(
  path: pathlib.Path, like: packed_lib.CodebookTensor
) -> packed_lib.CodebookTensor:
  with np.load(path) as found:
    return dataclasses.replace(
      like,
      codebooks=jnp.asarray(found["codebooks"]),
      codes=jnp.asarray(found["codes"]),
      errors=tuple(found["errors"].tolist()),
    )


def flatten(tree: PyTree) -> dict[str, Any]:
  """Leaves, packed tensors among them, by path."""
  return flax.traverse_util.flatten_dict(dict(tree), sep="/")


def unflatten(leaves: Mapping[str, Any]) -> PyTree:
  """The reverse of `flatten`."""
  return flax.traverse_util.unflatten_dict(dict(leaves), sep="/")
