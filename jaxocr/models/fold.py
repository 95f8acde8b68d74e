"""BatchNorm folded into the kernel before it, as all that is shipped has it.

In evaluation BatchNorm is y = gain * x + offset with gain = scale /
sqrt(var + epsilon) and offset = bias - mean * gain, per channel. The gain goes
into the kernel's last axis, and only the offset is left. Scaling an output
channel commutes with the specs that say so (`folds`): a sign is turned where
the gain is negative, a code keeps its magnitude. (A gain of exactly 0 leaves
the offset alone, whatever the signs.)
"""

from collections.abc import Mapping
import functools
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from jaxocr.compress import rules as rules_lib
from jaxocr.models import norm as norm_lib

_SUFFIX = "_norm"
PyTree = Any


def fold(
  params: PyTree, collections: Mapping[str, PyTree], *, xp: Any = jnp
) -> PyTree:
  """Parameters of the same model with `folded=True`, which has no moments.

  Args:
    params: Of a model whose norms are called NAME_norm beside the layer NAME
      or its only kernel.
    collections: With the moments in `batch_stats`; without, nothing is folded.
    xp: `numpy` folds on the host, in the precision of the arrays.

  Returns:
    A new tree: kernels scaled, each norm's parameters replaced by `offset`.

  Raises:
    ValueError: A norm without a kernel before it.
  """
  flat = flax.traverse_util.flatten_dict(params)
  moments = flax.traverse_util.flatten_dict(collections.get("batch_stats", {}))
  for path in [p[:-1] for p in moments if p[-1] == "mean"]:
    scale, bias = flat.pop((*path, "scale")), flat.pop((*path, "bias"))
    mean, var = moments[*path, "mean"], moments[*path, "var"]
    gain = scale / xp.sqrt(var + norm_lib.NORM_EPSILON)
    kernel = _kernel_before(flat, path)
    along = (1,) * (flat[kernel].ndim - 1) + gain.shape
    flat[kernel] = _scaled(flat[kernel], gain.reshape(along), xp)
    flat[*path, "offset"] = bias - mean * gain
  return flax.traverse_util.unflatten_dict(flat)


@functools.partial(jax.jit, static_argnames="rules")
def pack_folded(
  params: PyTree, collections: Mapping[str, PyTree], rules: rules_lib.Rules
) -> PyTree:
  """What is shipped; compiled by itself, so that it is the same everywhere."""
  return rules_lib.pack(fold(params, collections), rules)


def _scaled(kernel, gain, xp):
  """kernel * gain, with the sign that sign(kernel) * gain has.

  A weight of 0 counts as +1, so under a negative gain it has to end below 0;
  so has a product that is too small for a float.
  """
  product = kernel * gain
  negative = ((kernel < 0) != (gain < 0)) & (gain != 0)
  least = xp.finfo(product.dtype).tiny  # Smaller ones may be flushed to 0.
  lost = negative & (xp.abs(product) < least)
  return xp.where(lost, -least, product)


def _kernel_before(flat, norm: tuple[str, ...]) -> tuple[str, ...]:
  layer = (*norm[:-1], norm[-1].removesuffix(_SUFFIX))
  kernels = [
    path for path in flat if path[:-1] == layer and path[-1].endswith("kernel")
  ]
  if len(kernels) != 1 or not norm[-1].endswith(_SUFFIX):
    raise ValueError(
      f"{'/'.join(norm)} follows {len(kernels)} kernels; a norm that can be "
      f"folded is called NAME{_SUFFIX} beside a layer NAME of one kernel"
    )
  return kernels[0]
