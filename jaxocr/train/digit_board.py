"""What TensorBoard shows of a digit run, besides the scalars and images.

Histograms of every parameter at each evaluation, the layers as a table, and the
features before the last layer of some test images, for its projector. Without
tensorboardX nothing is written; the loop's own writer says so.
"""

from collections.abc import Mapping
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.compress import rules as rules_lib
from jaxocr.data import digits as digits_lib
from jaxocr.models import digit_zoo
from jaxocr.models import macs
from jaxocr.train import distributed

_EMBEDDED = 500  # Test images, at most.


class Board:
  """A writer of TensorBoard events into a run's folder."""

  def __init__(self, workdir: str | os.PathLike):
    """Writes nothing yet; only the process that writes will."""
    self._workdir, self._events = os.fspath(workdir), None

  def __enter__(self):
    if distributed.is_writer():
      try:
        import tensorboardX
      except ImportError:
        return self
      self._events = tensorboardX.SummaryWriter(logdir=self._workdir)
    return self

  def __exit__(self, *exc_info) -> None:
    if self._events is not None:
      self._events.close()

  def histograms(self, step: int, params: Any) -> None:
    """Of each parameter's values."""
    if self._events is None:
      return
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(params))
    for path, leaf in leaves:
      self._events.add_histogram(rules_lib.path_name(path), leaf, step)

  def graph(self, table: str) -> None:
    """The layers, as text in Markdown."""
    if self._events is not None:
      self._events.add_text("layers", table, 0)

  def embedding(self, found: digits_lib.DigitSet, last: np.ndarray) -> None:
    """Features [B, C] before the last layer, with their images and classes."""
    if self._events is None:
      return
    # A square: tensorboardX leaves what is empty of a sheet uninitialised.
    count = math.isqrt(min(_EMBEDDED, len(last))) ** 2
    images = found.test.images[:count, None].astype(np.float32) / 255
    self._events.add_embedding(
      last[:count],
      metadata=[found.classes[i] for i in found.test.labels[:count]],
      label_img=images,
      tag="last",
    )


def layer_table(architecture: Mapping[str, Any], params: Any) -> str:
  """Layers in the order of the computation: output, parameters, work.

  Nothing is computed. Parameters are grouped by the layer that their name
  begins with.
  """
  model = digit_zoo.make(**architecture)
  side = digits_lib.SIZE_PX
  image = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  work = macs.count_macs(model.apply, variables, image)
  _, collections = jax.eval_shape(
    lambda v, x: model.apply(v, x, mutable=["taps"]), variables, image
  )
  shapes = {
    name.removesuffix("_tap"): "x".join(map(str, tap.shape[1:]))
    for name, tap in collections["taps"].items()
  }
  rows = ["| layer | output | parameters | MACs |", "|---|---|---|---|"]
  for name, group in _by_layer(params).items():
    count = sum(math.prod(np.shape(leaf)) for _, leaf in group)
    done = sum(sum(work.get(path, {}).values()) for path, _ in group)
    rows.append(f"| {name} | {shapes.get(name, '')} | {count:,} | {done:,} |")
  return "\n".join(rows)


def _by_layer(params) -> dict[str, list]:
  """Layer -> (path, leaf) of its kernel, norm, offset and gain."""
  groups = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = rules_lib.path_name(path)
    layer = name.split("/")[0]
    for ending in ("_norm", "_bias", "_gain"):
      layer = layer.removesuffix(ending)
    groups.setdefault(layer, []).append((name, leaf))
  return groups
