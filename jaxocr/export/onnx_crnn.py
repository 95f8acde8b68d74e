"""A CRNN as an ONNX graph, layer by layer as `models.crnn` computes it.

Features lie as [N, C, H, W]. Tensors are named by the layers' paths in the
Flax network, weights by the parameters' in the bundle. Values are those of the
network to the last bits of a float: nothing is merged that could turn a sign.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import numpy as np

from jaxocr.compress import affine
from jaxocr.export import onnx_graph
from jaxocr.export import weights
from jaxocr.models import binary
from jaxocr.models import crnn
from jaxocr.models import lstm
from jaxocr.models import mobilenet

IMAGE, LOGITS = "image", "logits"
MICROSOFT = "com.microsoft"  # Domain of onnxruntime's own operators.
# What an LSTM's gates i, f, g, o are in ONNX: i, o, f, c.
_GATES = [0, 3, 1, 2]


@dataclasses.dataclass(frozen=True)
class Grid:
  """Where rounded features lie: (code - zero_point) * scale, code 0 to top."""

  scale: np.float32
  zero_point: int
  top: int


@dataclasses.dataclass(frozen=True)
class Conv:
  """A convolution as it was written."""

  output: str  # Tensor behind it and its ReLU.
  kernel: str  # Path of its parameter.
  layout: weights.Layout  # From the parameter to [C_out, C_in, k, k].
  before: str  # Tensor that enters.


class Writer:
  """Writes one network.

  Attributes:
    graph: What it writes to.
    convs: Those written, in order.
    grids: Of tensors that are rounded: by the tensor as it was before.
    has_integers: Whether something was written that computes with integers.
    integer: Whether a BiLSTM of 8-bit weights becomes onnxruntime's
      DynamicQuantizeLSTM, which computes with them.
  """

  def __init__(
    self,
    graph: onnx_graph.Graph,
    network: crnn.CRNN,
    ranges: Mapping[str, Any],
    *,
    height: int,
    integer: bool = False,
    for_mnn: bool = False,
  ):
    """Prepares to write.

    Args:
      graph: Empty.
      network: As the bundle describes it.
      height: Of its images, pixels.
      ranges: Of its activations, path -> array: `low`, `high`, `count` of each.
      integer: See the class.
      for_mnn: Whether MNN's converter is to read it: features are not rounded
        in the graph, `grids` says which ought to be; and what MNN is slow at is
        said otherwise.
    """
    self.graph, self.integer, self._for_mnn = graph, integer, for_mnn
    self.convs: list[Conv] = []
    self.has_integers = False
    self.grids: dict[str, Grid] = {}
    self._codes: set[str] = set()  # Tensors that come from integers.
    self._network, self._ranges = network, ranges
    self._rows = height // 16  # Of features where columns collapse.

  def write(self) -> str:
    """Writes all nodes from `image` to `logits`; the name of the latter."""
    graph = self.graph
    doubled = graph.node(
      "Mul", IMAGE, graph.constant("two", 2.0), output="doubled"
    )
    x = graph.node("Sub", doubled, graph.constant("one", 1.0), output="centred")
    if self._network.backbone == "mobilenet":
      x = self._mobilenet(x)
    else:
      x = self._binary(x)
    x = self._collapse(x)
    x = self._bilstm(x)
    return self._head(x)

  def _binary(self, x):
    x = self._conv(x, "backbone/stem", strides=(2, 2), pad=True)
    x = self._rprelu(x, "backbone/stem_bend")
    for index, (rows, columns, double) in enumerate(binary.BinaryBackbone.plan):
      block = f"backbone/block{index}"
      x = self._binary_conv(x, f"{block}/spatial", (rows, columns), pad=True)
      left = self._binary_conv(x, f"{block}/mix")
      if double:
        right = self._binary_conv(x, f"{block}/mix_twin")
        left = self.graph.node("Concat", left, right, output=block, axis=1)
      x = left
    if self._network.binary_activations:
      return x
    return self._quantised(x, "columns_range")

  def _binary_conv(self, x, name, strides=(1, 1), *, pad=False):
    """`models.binary.BinaryConv`."""
    graph = self.graph
    signs = self._network.binary_activations
    features = self._shifted(x, f"{name}/threshold")
    if signs:
      features = self._sign(features, f"{name}/sign")
      if pad:
        features = graph.node(
          "Pad",
          features,
          graph.integers(0, 0, 1, 1, 0, 0, 1, 1),
          graph.constant("one", 1.0),
          output=f"{name}/pad",
        )
    else:
      features = self._quantised(features, f"{name}/in_range")
    features = self._conv(
      features,
      f"{name}/conv",
      kernel="binary_kernel",
      strides=strides,
      pad=pad and not signs,
    )
    if not signs:
      features = self._quantised(features, f"{name}/out_range")
    if strides != (1, 1):
      x = graph.node(
        "AveragePool",
        x,
        output=f"{name}/shortcut",
        kernel_shape=strides,
        strides=strides,
      )
    x = graph.node("Add", features, x, output=f"{name}/sum")
    return self._rprelu(x, f"{name}/bend")

  def _sign(self, x, name):
    """+1 where x >= 0, else -1: ONNX's Sign has a zero.

    MNN moves features to another layout for a Where; two of its signs, with a
    half between them, take a quarter of the time of the network with it.
    """
    graph = self.graph
    if self._for_mnn:
      x = graph.node("Sign", x, output=f"{name}/or_zero")
      half = graph.constant("half", 0.5)
      x = graph.node("Add", x, half, output=f"{name}/without_zero")
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

  def _shifted(self, x, name):
    offset = self.graph.vector(f"{name}/offset", rank=3)
    return self.graph.node("Add", x, offset, output=name)

  def _rprelu(self, x, name):
    """`layers.RPReLU`."""
    x = self._shifted(x, f"{name}/before")
    # MNN takes a slope that lies as its features do.
    slope = f"{name}/slope"
    if self._for_mnn:
      values = self.graph.values(slope)[None, :, None, None]
      slope = self.graph.constant(slope, values)
    else:
      slope = self.graph.vector(slope, rank=3)
    x = self.graph.node("PRelu", x, slope, output=f"{name}/prelu")
    return self._shifted(x, f"{name}/after")

  def _mobilenet(self, x):
    x = self._conv(x, "backbone/stem", strides=(2, 2), pad=True, relu=True)
    x = self._quantised(x, "backbone/stem_range")
    plan = mobilenet.MobileNetBackbone.plan
    for index, (rows, columns, _) in enumerate(plan):
      block = f"backbone/block{index}"
      x = self._conv(
        x,
        f"{block}/depthwise",
        strides=(rows, columns),
        pad=True,
        relu=True,
        depthwise=True,
      )
      x = self._quantised(x, f"{block}/depthwise_range")
      x = self._conv(x, f"{block}/pointwise", relu=True)
      x = self._quantised(x, f"{block}_range")
    return x

  def _conv(
    self,
    x,
    name,
    *,
    kernel="kernel",
    strides=(1, 1),
    pad=False,
    relu=False,
    depthwise=False,
    layout=None,
  ):
    """A convolution and the offset that BatchNorm has left."""
    path = f"{name}/{kernel}"
    if layout is None:
      layout = _depthwise_layout if depthwise else _conv_layout
    if x in self._codes and self.graph.is_integer(path):
      # Integers on both sides: where engines look for an integer product.
      weight = self.graph.dequantised(path, layout, 0)
      self.has_integers = True
    else:
      weight = self.graph.kernel(path, layout, path)
    shape = layout(self.graph.values(path)).shape
    attributes = {"strides": strides} if strides != (1, 1) else {}
    if pad:  # Stated, not SAME: under a stride the two differ.
      attributes["pads"] = [(n - 1) // 2 for n in (*shape[2:], *shape[2:])]
    if depthwise:
      attributes["group"] = shape[0]
    offset = self.graph.vector(f"{name}_norm/offset")
    y = self.graph.node(
      "Conv",
      x,
      weight,
      offset,
      output=name,
      kernel_shape=shape[2:],
      **attributes,
    )
    if relu:
      y = self.graph.node("Relu", y, output=f"{name}/relu")
    self.convs.append(Conv(y, path, layout, x))
    return y

  def _quantised(self, x, name):
    """`models.activation.quantised`: rounded to the grid, if it has a range."""
    bits = self._network.activation_bits
    if bits is None or not self._ranges[f"{name}/count"]:
      return x
    grid = affine.Grid(bits=bits, symmetric=False)
    scale, zero_point = affine.min_max_scale(
      self._ranges[f"{name}/low"], self._ranges[f"{name}/high"], grid
    )
    scale, zero_point = np.float32(scale), int(zero_point)
    self.grids[x] = Grid(scale, zero_point, grid.highest)
    if self._for_mnn:
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

  def _collapse(self, x):
    """Columns of [N, C, H, T] to [N, P, T], one product for each."""
    x = self._conv(
      x, "collapse", layout=functools.partial(_column_layout, rows=self._rows)
    )
    x = self._quantised(x, "frames_range")
    return self.graph.node(
      "Squeeze", x, self.graph.integers(2), output="collapse/columns"
    )

  def _bilstm(self, x):
    """[N, P, T] to [N, T, 2 * hidden]."""
    graph, hidden = self.graph, self._network.hidden
    x = graph.node("Transpose", x, output="frames", perm=(2, 0, 1))
    names = [f"bilstm/{kind}_kernel" for kind in ("input", "recurrent")]
    paths = [_both(name) for name in names]
    shared = dict(name="bilstm", direction="bidirectional", hidden_size=hidden)
    # Engines want all three outputs named, whoever reads them.
    outputs = ("bilstm", "bilstm/last_hidden", "bilstm/last_cell")
    if self.integer and all(map(graph.is_integer, [*paths[0], *paths[1]])):
      kernels = [
        graph.integer_kernel(name, _lstm_layout_in_first, *pair, axis=-1)
        for name, pair in zip(names, paths, strict=True)
      ]
      (w, *w_grid), (r, *r_grid) = kernels
      self.has_integers = True
      bias = self._lstm_bias()
      y, *_ = graph.nodes(
        "DynamicQuantizeLSTM",
        (x, w, r, bias, "", "", "", "", *w_grid, *r_grid),
        outputs,
        domain=MICROSOFT,
        **shared,
      )
    else:
      w, r = (
        graph.kernel(name, _lstm_layout, *pair)
        for name, pair in zip(names, paths, strict=True)
      )
      y, *_ = graph.nodes(
        "LSTM", (x, w, r, self._lstm_bias()), outputs, **shared
      )
    y = graph.node("Transpose", y, output="bilstm/lines", perm=(2, 0, 1, 3))
    y = graph.node(
      "Reshape", y, graph.integers(0, 0, 2 * hidden), output="context"
    )
    return self._quantised(y, "context_range")

  def _lstm_bias(self):
    """[2, 8 * hidden]: those of the inputs, then none for the recurrence."""
    graph = self.graph
    bias = graph.rows(
      "bilstm/bias",
      lambda b: _lstm_layout(b[None])[:, 0],
      *_both("bilstm/bias"),
    )
    pads = graph.integers(0, 0, 0, 4 * self._network.hidden)
    return graph.node("Pad", bias, pads, output="bilstm/biases")

  def _head(self, x):
    product = self.graph.node(
      "MatMul",
      x,
      self.graph.kernel("head/kernel", lambda k: k, "head/kernel", axis=-1),
      output="head",
      name="head",
    )
    bias = self.graph.vector("head/bias")
    return self.graph.node("Add", product, bias, output=LOGITS)


def _conv_layout(kernel):
  """[k, k, C_in, C_out] or [C_in, C_out] to [C_out, C_in, k, k]."""
  if kernel.ndim == 2:
    kernel = kernel[None, None]
  return kernel.transpose(3, 2, 0, 1)


def _depthwise_layout(kernel):
  """[k, k, C] to [C, 1, k, k]."""
  return kernel.transpose(2, 0, 1)[:, None]


def _column_layout(kernel, *, rows):
  """[rows * C, P] to [P, C, rows, 1]."""
  kernel = kernel.reshape(rows, -1, kernel.shape[-1])
  return kernel.transpose(2, 1, 0)[..., None]


def _lstm_layout(kernel):
  """[C, 4 * hidden] to [4 * hidden, C] with the gates in ONNX's order."""
  gates = kernel.T.reshape(4, -1, kernel.shape[0])
  return gates[_GATES].reshape(-1, kernel.shape[0])


def _lstm_layout_in_first(kernel):
  """[C, 4 * hidden] with the gates in ONNX's order."""
  return _lstm_layout(kernel).T


def _both(name):
  """`bilstm/bias` to the paths of `forward_bias` and `backward_bias`."""
  layer, _, kind = name.partition("/")
  return tuple(f"{layer}/{d}_{kind}" for d in lstm.DIRECTIONS)
