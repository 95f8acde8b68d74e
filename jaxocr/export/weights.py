"""A bundle's parameters as an exporter wants them: folded, on the host."""

from collections.abc import Callable
import dataclasses

import flax.traverse_util
import jax
import numpy as np

from jaxocr.compress import packed as packed_lib
from jaxocr.compress import rules as rules_lib
from jaxocr.export import bundle
from jaxocr.models import fold

# Of a parameter as the network has it to what an engine wants.
Layout = Callable[[np.ndarray], np.ndarray]
_NONE = {"scale": 1, "zero_point": 0}


@dataclasses.dataclass(frozen=True)
class Parameter:
  """One parameter, in the form that it is stored in and as floats."""

  packed: packed_lib.Packed
  values: np.ndarray  # float32.
  codes: np.ndarray | None  # int32 or +-1 behind them; None for floats.

  def per_channel(
    self, field: str, layout: Layout, axis: int = 0
  ) -> np.ndarray:
    """Scale or zero point, float16, as it is multiplied with layout(codes).

    Args:
      field: `scale` or `zero_point`.
      layout: Applied to the codes.
      axis: Where it puts the output channels; all others have size 1.
    """
    value = getattr(self.packed, field, None)
    value = np.asarray(_NONE[field] if value is None else value, np.float16)
    spread = layout(np.broadcast_to(value, self.packed.shape))
    first = [slice(1)] * spread.ndim
    first[axis] = slice(None)
    return spread[tuple(first)]


def load(found: bundle.Bundle) -> dict[str, Parameter]:
  """All parameters by path; BatchNorm is in the kernels.

  A bundle that has its moments yet, as one of floats to train on from, is
  folded in float64.
  """
  params = found.params
  if "batch_stats" in found.collections:
    wide = jax.tree.map(
      lambda leaf: np.asarray(leaf, np.float64),
      (jax.device_get(rules_lib.unpack(params)), found.collections),
    )
    params = jax.tree.map(
      lambda leaf: packed_lib.FloatTensor(
        np.asarray(leaf, np.float32), "float32"
      ),
      fold.fold(*wide, xp=np),
    )
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  plain = {n: _without_scale(t) for n, t in flat.items() if _is_coded(t)}
  # Compiled as a whole: leaf by leaf it takes far longer.
  values, codes = jax.device_get(
    jax.jit(lambda *trees: tuple(map(rules_lib.unpack, trees)))(flat, plain)
  )
  return {
    name: Parameter(
      tensor,
      np.asarray(values[name], np.float32),
      np.asarray(codes[name]).astype(np.int32) if name in codes else None,
    )
    for name, tensor in flat.items()
  }


def _is_coded(tensor) -> bool:
  return isinstance(tensor, (packed_lib.BitTensor, packed_lib.AffineTensor))


def _without_scale(tensor):
  """The same, whose values are its codes."""
  if isinstance(tensor, packed_lib.BitTensor):
    return dataclasses.replace(tensor, scale=None, dtype="float32")
  return dataclasses.replace(
    tensor, scale=np.ones((), np.float16), zero_point=None, dtype="float32"
  )
