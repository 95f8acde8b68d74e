"""A CRNN as an ONNX graph, layer by layer as `models.crnn` computes it.

Features lie as [N, C, H, W]. Tensors are named by the layers' paths in the
Flax network, weights by the parameters' in the bundle. Values are those of the
network to the last bits of a float: nothing is merged that could turn a sign.
For MNN the shifts of RPReLU are, to the offsets that follow them, unless
features are rounded to integers in between.
"""

from collections.abc import Mapping
import functools
from typing import Any

import numpy as np

from jaxocr.export import onnx_functions
from jaxocr.export import onnx_graph
from jaxocr.export import onnx_layers
from jaxocr.models import binary
from jaxocr.models import crnn
from jaxocr.models import lstm
from jaxocr.models import mobilenet

IMAGE, LOGITS = onnx_layers.IMAGE, onnx_layers.LOGITS
FRAMES = ("N", "T")
MICROSOFT = "com.microsoft"  # Domain of onnxruntime's own operators.
# What an LSTM's gates i, f, g, o are in ONNX: i, o, f, c.
_GATES = [0, 3, 1, 2]


class Writer(onnx_layers.Layers):
  """Writes one network.

  Attributes:
    image_shape: Of what enters; a name in it is any size.
    logits_shape: Of what leaves.
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
      ranges, for_mnn: See `onnx_layers.Layers`.
      integer: See the class.
    """
    super().__init__(
      graph, ranges, bits=network.activation_bits, for_mnn=for_mnn
    )
    self.integer = integer
    self.image_shape = ("N", 1, height, "W")
    self.logits_shape = (*FRAMES, network.num_classes)
    self._network = network
    # Between rounded features an offset stays where it was trained.
    self._merges = for_mnn and (
      network.binary_activations or network.activation_bits is None
    )
    self._lacking: dict[str, np.ndarray] = {}  # [C], offsets yet to be added.
    self._rows = height // 16  # Of features where columns collapse.

  def kernels_of(self, layer: str) -> tuple[str, ...]:
    # The stem's offset before its RPReLU is constant and follows at once.
    merged = {"backbone/stem_bend/before": "backbone/stem"}
    return super().kernels_of(merged.get(layer, layer))

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
    bend = "backbone/stem_bend"
    x = self.convolution(
      x, "backbone/stem", strides=(2, 2), pad=1, added=self._merged_shift(bend)
    )
    x = self._rprelu(x, bend)
    for index, (rows, columns, double) in enumerate(binary.BinaryBackbone.plan):
      block = f"backbone/block{index}"
      x = self._binary_conv(x, f"{block}/spatial", (rows, columns), pad=1)
      left = self._binary_conv(x, f"{block}/mix")
      if double:
        right = self._binary_conv(x, f"{block}/mix_twin")
        both = self.graph.node("Concat", left, right, output=block, axis=1)
        if self._merges:
          self._lacking[both] = np.concatenate(
            [self._lacking[half] for half in (left, right)]
          )
        left = both
      x = left
    if self._network.binary_activations:
      return x
    return self.quantised(x, "columns_range")

  def _binary_conv(self, x, name, strides=(1, 1), *, pad=0):
    """`models.binary.BinaryConv`.

    Merged, the result lacks the shift behind its RPReLU, see `_lacking`; the
    one before it, and what x lacks, are in the convolution's offset.
    """
    graph = self.graph
    signs = self._network.binary_activations
    lacking = self._lacking.get(x)
    features = self.shifted(x, f"{name}/threshold", added=lacking)
    if signs:
      features = self.sign(features, f"{name}/sign")
      if pad:
        features = self.padded(features, f"{name}/pad", pad)
    else:
      features = self.quantised(features, f"{name}/in_range")
    features = self.convolution(
      features,
      f"{name}/conv",
      kernel="binary_kernel",
      strides=strides,
      pad=0 if signs else pad,
      added=self._merged_shift(f"{name}/bend", lacking),
    )
    if not signs:
      features = self.quantised(features, f"{name}/out_range")
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

  def _merged_shift(self, name, lacking=None):
    """What a convolution adds for the RPReLU behind it and for its shortcut."""
    if not self._merges:
      return None
    before = self.graph.values(f"{name}/before/offset").astype(np.float64)
    return before if lacking is None else before + lacking

  def _rprelu(self, x, name):
    """`bend.RPReLU`; merged, without its two shifts."""
    if not self._merges:
      x = self.shifted(x, f"{name}/before")
    # MNN takes a slope that lies as its features do.
    slope = f"{name}/slope"
    if self.for_mnn:
      values = self.graph.values(slope)[None, :, None, None]
      slope = self.graph.constant(slope, values)
    else:
      slope = self.graph.vector(slope, rank=3)
    x = self.graph.node("PRelu", x, slope, output=f"{name}/prelu")
    if not self._merges:
      return self.shifted(x, f"{name}/after")
    offset = self.graph.values(f"{name}/after/offset")
    self._lacking[x] = offset.astype(np.float64)
    return x

  def _mobilenet(self, x):
    x = self.convolution(x, "backbone/stem", strides=(2, 2), pad=1, relu=True)
    x = self.quantised(x, "backbone/stem_range")
    plan = mobilenet.MobileNetBackbone.plan
    for index, (rows, columns, _) in enumerate(plan):
      block = f"backbone/block{index}"
      x = self.convolution(
        x,
        f"{block}/depthwise",
        strides=(rows, columns),
        pad=1,
        relu=True,
        depthwise=True,
      )
      x = self.quantised(x, f"{block}/depthwise_range")
      x = self.convolution(x, f"{block}/pointwise", relu=True)
      x = self.quantised(x, f"{block}_range")
    return x

  def _collapse(self, x):
    """Columns of [N, C, H, T] to [N, P, T], one product for each."""
    layout = functools.partial(_column_layout, rows=self._rows)
    lacking = self._lacking.get(x)
    if lacking is not None:
      kernel = layout(self.graph.values("collapse/kernel"))
      lacking = np.einsum("pcrk,c->p", kernel, lacking)
    x = self.convolution(x, "collapse", layout=layout, added=lacking)
    x = self.quantised(x, "frames_range")
    return self.graph.node(
      "Squeeze", x, self.graph.integers(2), output="collapse/columns"
    )

  def _bilstm(self, x):
    """[N, P, T] to [N, T, 2 * hidden]; for MNN to [N, 2 * hidden, 1, T]."""
    graph, hidden = self.graph, self._network.hidden
    x = graph.node("Transpose", x, output="frames", perm=(2, 0, 1))
    names = [f"bilstm/{kind}_kernel" for kind in ("input", "recurrent")]
    paths = [_both(name) for name in names]
    shared = dict(name="bilstm", direction="bidirectional", hidden_size=hidden)
    # Engines want all three outputs named, whoever reads them.
    outputs = ("bilstm", "bilstm/last_hidden", "bilstm/last_cell")
    whole = all(map(graph.is_integer, [*paths[0], *paths[1]]))
    if self.integer and whole:
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
      kernel = self._late_kernel if self.for_mnn and whole else graph.kernel
      w, r = (
        kernel(name, lstm_layout, *pair)
        for name, pair in zip(names, paths, strict=True)
      )
      y, *_ = graph.nodes(
        "LSTM", (x, w, r, self._lstm_bias()), outputs, **shared
      )
    perm, shape = (2, 0, 1, 3), (0, 0, 2 * hidden)
    if self.for_mnn:
      perm, shape = (2, 1, 3, 0), (0, 2 * hidden, 1, -1)
    y = graph.node("Transpose", y, output="bilstm/lines", perm=perm)
    y = graph.node("Reshape", y, graph.integers(*shape), output="context")
    return self.quantised(y, "context_range")

  def _late_kernel(self, name, layout, *paths):
    """A kernel that stays integers in MNN's file, as `Graph.kernel` otherwise.

    MNN's LSTM takes floats, and its converter computes what is constant. So the
    codes are put into a shape that the image's has a part in, though of 0, and
    become floats in each call.
    """
    graph = self.graph
    codes, scale, _ = graph.integer_kernel(f"{name}.late", layout, *paths)
    shape = (len(paths), *layout(graph.values(paths[0])).shape)
    nothing = "image/_nothing"
    if name.endswith("input_kernel"):  # Once for both.
      whole = graph.node("Shape", IMAGE, output="image/_shape")
      graph.node("Sub", whole, whole, output="image/_zeros")
      graph.node("ReduceMax", "image/_zeros", output=nothing, keepdims=0)
    wanted = graph.node(
      "Add", graph.integers(*shape), nothing, output=f"{name}/_shape"
    )
    x = graph.node("Reshape", codes, wanted, output=f"{name}/_codes")
    x = graph.node("Cast", x, output=f"{name}/_floats", to=onnx_functions.FLOAT)
    rows = graph.node(
      "Unsqueeze", scale, graph.integers(-1), output=f"{name}/scale"
    )
    return graph.node("Mul", x, rows, output=name)

  def _lstm_bias(self):
    """[2, 8 * hidden]: those of the inputs, then none for the recurrence."""
    graph = self.graph
    bias = graph.rows(
      "bilstm/bias",
      lambda b: lstm_layout(b[None])[:, 0],
      *_both("bilstm/bias"),
    )
    pads = graph.integers(0, 0, 0, 4 * self._network.hidden)
    return graph.node("Pad", bias, pads, output="bilstm/biases")

  def _head(self, x):
    if self.for_mnn:
      # Of a MatMul it makes a convolution among reshapes.
      x = self.convolution(x, "head", offset="head/bias")
      x = self.graph.node(
        "Squeeze", x, self.graph.integers(2), output="head/frames"
      )
      return self.graph.node("Transpose", x, output=LOGITS, perm=(0, 2, 1))
    product = self.graph.node(
      "MatMul",
      x,
      self.graph.kernel("head/kernel", lambda k: k, "head/kernel", axis=-1),
      output="head",
      name="head",
    )
    bias = self.graph.vector("head/bias")
    return self.graph.node("Add", product, bias, output=LOGITS)


def _column_layout(kernel, *, rows):
  """[rows * C, P] to [P, C, rows, 1]."""
  kernel = kernel.reshape(rows, -1, kernel.shape[-1])
  return kernel.transpose(2, 1, 0)[..., None]


def lstm_layout(kernel):
  """[C, 4 * hidden] to [4 * hidden, C] with the gates in ONNX's order."""
  gates = kernel.T.reshape(4, -1, kernel.shape[0])
  return gates[_GATES].reshape(-1, kernel.shape[0])


def _lstm_layout_in_first(kernel):
  """[C, 4 * hidden] with the gates in ONNX's order."""
  return lstm_layout(kernel).T


def _both(name):
  """`bilstm/bias` to the paths of `forward_bias` and `backward_bias`."""
  layer, _, kind = name.partition("/")
  return tuple(f"{layer}/{d}_{kind}" for d in lstm.DIRECTIONS)
