"""A digit network as an ONNX graph: its own plan, written down.

`digit_net.DigitNet.plan` lists a network's layers as calls; here each call adds
the nodes that compute what `digit_net.Computed` does.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import numpy as np

from jaxocr.data import digit_augment
from jaxocr.data import digits
from jaxocr.export import onnx_graph
from jaxocr.export import onnx_layers
from jaxocr.models import digit_net


@dataclasses.dataclass(frozen=True)
class Maps:
  """Features on their way, [N, *shape]."""

  tensor: str
  shape: tuple[int, int, int]  # C, H, W.


class Writer(onnx_layers.Layers):
  """Writes one network; its methods are those of `digit_net.Layers`.

  Attributes:
    image_shape: Of what enters; a name in it is any size.
    logits_shape: Of what leaves.
  """

  def __init__(
    self,
    graph: onnx_graph.Graph,
    network: digit_net.DigitNet,
    ranges: Mapping[str, Any],
    *,
    standard: bool,
    for_mnn: bool = False,
  ):
    """Prepares to write.

    Args:
      graph: Empty.
      network: As the bundle describes it.
      ranges, for_mnn: See `onnx_layers.Layers`.
      standard: Whether pixels are standardised before they enter.
    """
    super().__init__(
      graph, ranges, bits=network.activation_bits, for_mnn=for_mnn
    )
    self.image_shape = ("N", 1, digits.SIZE_PX, digits.SIZE_PX)
    self.logits_shape = ("N", network.classes)
    self._network, self._standard = network, standard

  def write(self) -> str:
    """Writes all nodes from `image` to `logits`; the name of the latter."""
    x, graph = onnx_layers.IMAGE, self.graph
    if self._standard:
      mean = graph.constant("mean", digit_augment.MEAN)
      deviation = graph.constant("deviation", digit_augment.STD)
      x = graph.node("Sub", x, mean, output="centred")
      x = graph.node("Div", x, deviation, output="standard")
    return self._network.plan(self, Maps(x, self.image_shape[1:])).tensor

  def conv(self, x, name, channels, size, *, strides=1, padding=0, latent=True):
    tensor, signs = self._entering(x.tensor, name, latent)
    if signs and padding:
      tensor = self.padded(tensor, f"{name}/pad", padding)
    y = self.convolution(
      tensor,
      name,
      kernel="binary_kernel" if latent else "kernel",
      strides=(strides, strides),
      pad=0 if signs else padding,
      offset=f"{self._offset(name)}/offset",
    )
    return self._maps(y, channels, x, size, strides, padding)

  def some_maps(self, x, name, size, table):
    path = f"{name}/binary_kernel"
    kernel = digit_net.spread(self.graph.values(path), table, x.shape[0])
    whole = onnx_layers.conv_layout(np.asarray(kernel))
    y = self.graph.node(
      "Conv",
      x.tensor,
      self.graph.constant(path, whole),
      self.graph.vector(f"{self._offset(name)}/offset"),
      output=name,
      kernel_shape=(size, size),
    )
    return self._maps(y, len(table), x, size)

  def dense(self, x, name, units):
    tensor, _ = self._entering(x.tensor, name, True)
    return self._product(
      Maps(tensor, x.shape), name, "binary_kernel", units, self._offset(name)
    )

  def bend(self, x, name, *, kind="relu"):
    graph, y = self.graph, x.tensor
    if kind == "tanh":
      slope = graph.constant("tanh_slope", 2 / 3)
      y = graph.node("Mul", y, slope, output=f"{name}/flatter")
      y = graph.node("Tanh", y, output=f"{name}/tanh")
      size = graph.constant("tanh_size", 1.7159)
      y = graph.node("Mul", y, size, output=f"{name}/bent")
    elif not self._network.binary_activations:
      y = graph.node("Relu", y, output=f"{name}/relu")
      if self.convs[-1].output == x.tensor:
        self.convs[-1] = dataclasses.replace(self.convs[-1], output=y)
    return Maps(self.quantised(y, f"{name}_range"), x.shape)

  def drop(self, x):
    return x

  def max_pool(self, x, size, strides, *, padding=0):
    y = self._pool("MaxPool", x, size, strides, padding)
    if self.for_mnn:
      # MNN 3.6.1 gives other logits where codes are pooled (on x86), so what is
      # pooled stays float.
      self.grids.pop(x.tensor, None)
    else:
      self._same(x.tensor, y.tensor)  # The largest of codes is one of them.
    return y

  def mean_pool(self, x, size):
    return self._pool("AveragePool", x, size, size, 0)

  def scale(self, x, name):
    gain = self.graph.vector(f"{name}_gain", rank=3)
    y = self.graph.node("Mul", x.tensor, gain, output=f"{name}/scaled")
    return Maps(self.shifted(y, f"{name}_bias"), x.shape)

  def together(self, *parts):
    names = [part.tensor for part in parts]
    y = self.graph.node("Concat", *names, output="+".join(names), axis=1)
    channels = sum(part.shape[0] for part in parts)
    return Maps(y, (channels, *parts[0].shape[1:]))

  def mean(self, x):
    y = self.graph.node(
      "GlobalAveragePool", x.tensor, output=f"{x.tensor}/mean"
    )
    return Maps(y, (x.shape[0], 1, 1))

  def head(self, x, name):
    classes = self._network.classes
    y = self._product(x, name, "kernel", classes, f"{name}_bias")
    logits = self.graph.node(
      "Flatten", y.tensor, output=onnx_layers.LOGITS, axis=1
    )
    return Maps(logits, (classes, 1, 1))

  def _entering(self, x, name, latent):
    """Signs of x, and True, where signs enter."""
    if not (latent and self._network.binary_activations):
      return x, False
    return self.sign(x, f"{name}/sign"), True

  def _offset(self, name):
    return f"{name}_norm" if self._network.norm else f"{name}_bias"

  def _maps(self, y, channels, x, size, strides=1, padding=0):
    places = [(n + 2 * padding - size) // strides + 1 for n in x.shape[1:]]
    return Maps(y, (channels, *places))

  def _pool(self, kind, x, size, strides, padding):
    y = self.graph.node(
      kind,
      x.tensor,
      output=f"{x.tensor}/pool",
      kernel_shape=(size, size),
      strides=(strides, strides),
      pads=[padding] * 4,
    )
    return self._maps(y, x.shape[0], x, size, strides, padding)

  def _same(self, x, y):
    """y, which has no other values than x."""
    if x in self.grids:
      self.grids[y] = self.grids[x]
    if x in self._codes:
      self._codes.add(y)
    return y

  def _product(self, x, name, kernel, units, offset):
    """A product with all features, [N, units, 1, 1].

    For MNN it is a convolution as large as the maps: of a Gemm it makes a
    convolution among many reshapes, which it can neither name nor round.
    """
    if self.for_mnn:
      layout = functools.partial(_whole_layout, shape=x.shape)
      y = self.convolution(
        x.tensor, name, kernel=kernel, layout=layout, offset=f"{offset}/offset"
      )
      return Maps(y, (units, 1, 1))
    graph, path, flat = self.graph, f"{name}/{kernel}", x.tensor
    if x.shape[1:] != (1, 1):  # Parameters have their inputs as [H, W, C].
      flat = graph.node(
        "Transpose", flat, output=f"{name}/pixels", perm=(0, 2, 3, 1)
      )
    flat = graph.node("Flatten", flat, output=f"{name}/flat", axis=1)
    self._same(x.tensor, flat)
    y = graph.node(
      "Gemm",
      flat,
      self._weight(flat, path, np.transpose),
      graph.vector(f"{offset}/offset"),
      output=name,
      transB=1,
    )
    self.convs.append(onnx_layers.Conv(name, y, path, np.transpose, flat))
    return Maps(y, (units, 1, 1))


def _whole_layout(kernel, *, shape):
  """[H * W * C, units] to [units, C, H, W]."""
  channels, height, width = shape
  kernel = kernel.reshape(height, width, channels, -1)
  return kernel.transpose(3, 2, 0, 1)
