"""Layers that all networks have, as ONNX nodes.

Features lie as [N, C, H, W]. Tensors are named by the layers' paths in the Flax
network, weights by the parameters' in the bundle.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from jaxocr.compress import affine
from jaxocr.export import onnx_graph
from jaxocr.export import weights

IMAGE, LOGITS = "image", "logits"


@dataclasses.dataclass(frozen=True)
class Grid:
  """Where rounded features lie: (code - zero_point) * scale, code 0 to top."""

  scale: np.float32
  zero_point: int
  top: int


@dataclasses.dataclass(frozen=True)
class Conv:
  """A convolution, or a product, as it was written."""

  name: str  # Of the layer, and of the tensor behind it.
  output: str  # Tensor behind it and its ReLU.
  kernel: str  # Path of its parameter.
  layout: weights.Layout  # From the parameter to [C_out, C_in, ...].
  before: str  # Tensor that enters.


class Layers:
  """Writes layers.

  Attributes:
    graph: What it writes to.
    convs: Those written, in order.
    grids: Of tensors that are rounded: by the tensor as it was before.
    has_integers: Whether something was written that computes with integers.
    for_mnn: Whether MNN's converter is to read it: features are not rounded in
      the graph, `grids` says which ought to be; and what MNN is slow at is said
      otherwise.
  """

  def __init__(
    self,
    graph: onnx_graph.Graph,
    ranges: Mapping[str, Any],
    *,
    bits: int | None,
    for_mnn: bool,
  ):
    """Prepares to write.

    Args:
      graph: Empty.
      ranges: Of activations, path -> array: `low`, `high`, `count` of each.
      bits: Of the codes that they are rounded to; None: they are not.
      for_mnn: See the class.
    """
    self.graph, self.for_mnn = graph, for_mnn
    self.convs: list[Conv] = []
    self.has_integers = False
    self.grids: dict[str, Grid] = {}
    self._codes: set[str] = set()  # Tensors that come from integers.
    self._ranges, self._bits = ranges, bits

  def kernels_of(self, layer: str) -> tuple[str, ...]:
    """Paths of the parameters of a layer, as an engine calls it."""
    return tuple(conv.kernel for conv in self.convs if conv.name == layer)

  def sign(self, x: str, name: str) -> str:
    """+1 where x >= 0, else -1: ONNX's Sign has a zero.

    MNN moves features to another layout for a Where; two of its signs, with a
    half between them, take a quarter of the time of the network with it, and
    are right in half precision as well.
    """
    graph = self.graph
    if self.for_mnn:
      x = graph.node("Sign", x, output=f"{name}/_or_zero")
      half = graph.constant("half", 0.5)
      x = graph.node("Add", x, half, output=f"{name}/_without_zero")
      return graph.node("Sign", x, output=name)
    positive = graph.node(
      "GreaterOrEqual",
      x,
      graph.constant("zero", 0.0),
      output=f"{name}/positive",
    )
    return graph.node(
      "Where",
      positive,
      graph.constant("one", 1.0),
      graph.constant("minus_one", -1.0),
      output=name,
    )

  def padded(self, x: str, name: str, pad: int) -> str:
    """`pad` px of +1 on each side: signs have no zero."""
    return self.graph.node(
      "Pad",
      x,
      self.graph.integers(0, 0, pad, pad, 0, 0, pad, pad),
      self.graph.constant("one", 1.0),
      output=name,
    )

  def shifted(
    self, x: str, name: str, *, added: np.ndarray | None = None
  ) -> str:
    """`bend.Shift`, by `added` [C] more."""
    offset = self.graph.vector(f"{name}/offset", rank=3, added=added)
    return self.graph.node("Add", x, offset, output=name)

  def convolution(
    self,
    x: str,
    name: str,
    *,
    kernel: str = "kernel",
    strides: tuple[int, int] = (1, 1),
    pad: int = 0,
    relu: bool = False,
    depthwise: bool = False,
    layout: weights.Layout | None = None,
    offset: str = "",
    added: np.ndarray | None = None,
  ) -> str:
    """A convolution and an offset, by default that which BatchNorm has left.

    Args:
      x: What enters.
      name: Of the layer, and of the result.
      kernel: What its parameter is called.
      strides: Of rows and of columns.
      pad: Px of zeros on each side; stated, as SAME differs under a stride.
      relu: Whether a ReLU follows.
      depthwise: Whether each channel is by itself.
      layout: From the parameter to [C_out, C_in, k, k], where it is neither
        [k, k, C_in, C_out] nor [C_in, C_out].
      offset: Path of the parameter that the offset is.
      added: [C_out], what is added to the offset.
    """
    path = f"{name}/{kernel}"
    if layout is None:
      layout = _depthwise_layout if depthwise else conv_layout
    weight = self._weight(x, path, layout)
    shape = layout(self.graph.values(path)).shape
    attributes = {"strides": strides} if strides != (1, 1) else {}
    if pad:
      attributes["pads"] = [pad] * 4
    if depthwise:
      attributes["group"] = shape[0]
    y = self.graph.node(
      "Conv",
      x,
      weight,
      self.graph.vector(offset or f"{name}_norm/offset", added=added),
      output=name,
      kernel_shape=shape[2:],
      **attributes,
    )
    if relu:
      y = self.graph.node("Relu", y, output=f"{name}/relu")
    self.convs.append(Conv(name, y, path, layout, x))
    return y

  def _weight(self, x, path, layout):
    """A kernel whose first axis are output channels, and that meets x."""
    if x in self._codes and self.graph.is_integer(path):
      # Integers on both sides: where engines look for an integer product.
      self.has_integers = True
      return self.graph.dequantised(path, layout, 0)
    return self.graph.kernel(path, layout, path)

  def quantised(self, x: str, name: str) -> str:
    """`models.activation.quantised`: rounded to the grid, if it has a range."""
    bits = self._bits
    if bits is None or not self._ranges[f"{name}/count"]:
      return x
    grid = affine.Grid(bits=bits, symmetric=False)
    scale, zero_point = affine.min_max_scale(
      self._ranges[f"{name}/low"], self._ranges[f"{name}/high"], grid
    )
    scale, zero_point = np.float32(scale), int(zero_point)
    self.grids[x] = Grid(scale, zero_point, grid.highest)
    if self.for_mnn:
      return x
    graph = self.graph
    if bits < 8:  # ONNX has no narrower codes.
      low, high = (
        (code - zero_point) * scale for code in (grid.lowest, grid.highest)
      )
      x = graph.node(
        "Clip",
        x,
        graph.constant(f"{name}/low", low),
        graph.constant(f"{name}/high", high),
        output=f"{name}/clip",
      )
    step = (
      graph.constant(f"{name}/scale", scale),
      graph.constant(f"{name}/zero_point", zero_point, np.uint8),
    )
    codes = graph.node("QuantizeLinear", x, *step, output=f"{name}/codes")
    self._codes.add(name)
    return graph.node("DequantizeLinear", codes, *step, output=name)


def conv_layout(kernel: np.ndarray) -> np.ndarray:
  """[k, k, C_in, C_out] or [C_in, C_out] to [C_out, C_in, k, k]."""
  if kernel.ndim == 2:
    kernel = kernel[None, None]
  return kernel.transpose(3, 2, 0, 1)


def _depthwise_layout(kernel):
  """[k, k, C] to [C, 1, k, k]."""
  return kernel.transpose(2, 0, 1)[:, None]
