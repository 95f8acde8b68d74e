"""Training what is packed: codewords under fixed codes, and what stays float.

A packed tree is taken apart into `params`, the floats that may learn (codebooks
and float tensors, as nested dicts), and `fixed`, what may not (codes, and
tensors of bits and integers). `Opened` is a model whose parameters are the
first and whose collection `fixed` is the second, so that it trains as any
other, through W = codebook[codes] (Wu et al. 2016, section 3.4; Stock et al.
2020, section 3.3). Floats pass through the type they are stored in, so what is
trained is what `pack` stores.
"""

import dataclasses
from typing import Any

import flax.traverse_util
import jax

from jaxocr.compress import codebook
from jaxocr.compress import packed as packed_lib
from jaxocr.compress import rules as rules_lib
from jaxocr.compress import specs

PyTree = Any
FIXED = "fixed"  # The collection.
_BOOKS, _VALUES = "codebooks", "values"  # Names of what learns, by kind.


class Opened:
  """`model` with the parameters of a packed tree taken apart.

  Attributes:
    params: To start from.
    fixed: Packed tensors, and codes [M, taps, O] in the place of codebooks.
  """

  def __init__(self, model, packed: PyTree):
    """Takes apart.

    Args:
      model: Flax module, or anything with its `apply`.
      packed: A packed tensor at each leaf, as of `rules.pack`.
    """
    self._model, self._packed = model, packed
    learnt, fixed = {}, {}
    for path, tensor in _leaves(packed).items():
      if isinstance(tensor, packed_lib.CodebookTensor):
        learnt[f"{path}/{_BOOKS}"], fixed[path] = tensor.open()
      elif isinstance(tensor, packed_lib.FloatTensor):
        learnt[f"{path}/{_VALUES}"] = tensor.dequantise()
      else:
        fixed[path] = tensor
    self.fixed = flax.traverse_util.unflatten_dict(fixed, sep="/")
    self.params = flax.traverse_util.unflatten_dict(learnt, sep="/")

  def apply(self, variables, *inputs, mutable=False, **options):
    """As of the model, which sees its own parameters put together."""
    variables = dict(variables)
    fixed = variables.pop(FIXED)
    params = self.kernels(variables.pop("params"), fixed)
    found = self._model.apply(
      {"params": params, **variables}, *inputs, mutable=mutable, **options
    )
    if not mutable or FIXED not in mutable:
      return found
    result, collections = found
    return result, {**collections, FIXED: fixed}

  def kernels(self, params: PyTree, fixed: PyTree) -> PyTree:
    """The model's own parameters, floats."""
    fixed = flax.traverse_util.flatten_dict(fixed, sep="/")

    def put_together(path, tensor, learnt):
      if isinstance(tensor, packed_lib.CodebookTensor):
        books = specs.Float(tensor.storage).fake(learnt[path, _BOOKS])
        kernel = codebook.join(books, fixed[path], tensor.shape)
        return kernel.astype(tensor.dtype)
      if isinstance(tensor, packed_lib.FloatTensor):
        return specs.Float(tensor.form).fake(learnt[path, _VALUES])
      return fixed[path].dequantise()

    return self._map(put_together, params)

  def pack(self, params: PyTree) -> PyTree:
    """The packed tree again, with what has been learnt."""
    fixed = flax.traverse_util.flatten_dict(self.fixed, sep="/")

    def put_together(path, tensor, learnt):
      if isinstance(tensor, packed_lib.CodebookTensor):
        return packed_lib.pack_codebooks(
          codebook.stored(learnt[path, _BOOKS], tensor.storage),
          fixed[path],
          shape=tensor.shape,
          storage=tensor.storage,
          dtype=tensor.dtype,
          errors=tensor.errors,
        )
      if isinstance(tensor, packed_lib.FloatTensor):
        packed = specs.Float(tensor.form).pack(learnt[path, _VALUES])
        return dataclasses.replace(packed, dtype=tensor.dtype)
      return tensor

    return self._map(put_together, params)

  def _map(self, function, params):
    """function(path, packed tensor, what learns by (path, kind))."""
    flat = flax.traverse_util.flatten_dict(params)
    learnt = {("/".join(path[:-1]), path[-1]): x for path, x in flat.items()}
    return jax.tree_util.tree_map_with_path(
      lambda path, tensor: function(rules_lib.path_name(path), tensor, learnt),
      self._packed,
      is_leaf=packed_lib.is_packed,
    )


def _leaves(packed: PyTree) -> dict[str, packed_lib.Packed]:
  leaves = jax.tree_util.tree_leaves_with_path(
    packed, is_leaf=packed_lib.is_packed
  )
  return {rules_lib.path_name(path): tensor for path, tensor in leaves}
