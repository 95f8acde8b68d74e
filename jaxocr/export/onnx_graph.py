"""ONNX graphs by hand: nodes, and weights stored as small as they are packed.

A weight keeps the name that it has in the bundle. Where it is stored in one
bit, in integers or in codes of codebooks, the graph holds these and a node that
makes floats of them, a call of one of `onnx_functions`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxocr.compress import codebook
from jaxocr.compress import packed as packed_lib
from jaxocr.export import onnx_codebooks
from jaxocr.export import onnx_functions
from jaxocr.export import weights

OPSET = onnx_functions.OPSET
IR_VERSION = 8  # Of the first release with this opset; newer engines read it.
DOMAIN = onnx_functions.DOMAIN


def require_onnx():
  """The package onnx.

  Raises:
    ModuleNotFoundError: It is not installed.
  """
  try:
    import onnx
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      "exporting needs the package onnx; pip install onnx"
    ) from error
  return onnx


class Graph:
  """Nodes and weights on their way to a model.

  Attributes:
    stored: Whether weights are stored in their packed form; without, all are
      float32, for those who read no functions or want no time spent on them.
  """

  def __init__(
    self, parameters: Mapping[str, weights.Parameter], *, stored: bool
  ):
    """Starts an empty graph.

    Args:
      parameters: By path.
      stored: See the class.

    Raises:
      ModuleNotFoundError: onnx is not installed.
    """
    self._onnx = require_onnx()
    self.stored = stored
    self._parameters = parameters
    self._nodes, self._initializers = [], {}
    self._domains = set()
    self._halves, self._functions = {}, {}

  def node(self, op: str, *inputs: str, output: str, **attributes: Any) -> str:
    """Adds a node of that name with one output of that name, and returns it."""
    return self.nodes(op, inputs, (output,), **attributes)[0]

  def nodes(
    self,
    op: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    domain: str = "",
    **attributes: Any,
  ) -> tuple[str, ...]:
    """Adds a node; the names of its outputs."""
    self._domains.add(domain)
    self._nodes.append(
      self._onnx.helper.make_node(
        op, inputs, outputs, domain=domain, **attributes
      )
    )
    return tuple(outputs)

  def constant(self, name: str, values: Any, dtype=np.float32) -> str:
    """Adds an array under that name, once."""
    array = np.asarray(values, dtype)
    if name not in self._initializers:
      # Raw and row-major, whatever the strides say.
      self._initializers[name] = self._onnx.numpy_helper.from_array(
        np.asarray(array, order="C"), name
      )
    return name

  def integers(self, *values: int) -> str:
    """A constant of shape [n] int64, shared by all who want the same."""
    name = "_".join(("int", *(str(v).replace("-", "m") for v in values)))
    return self.constant(name, values, np.int64)

  def values(self, path: str) -> np.ndarray:
    """A parameter as floats, float32."""
    return self.parameter(path).values

  def vector(
    self, path: str, *, rank: int = 1, added: np.ndarray | None = None
  ) -> str:
    """A parameter of one value a channel [C], or [C, 1, 1] for a rank of 3.

    Those stored in half precision lie in one array and are widened together.

    Args:
      path: Of the parameter.
      rank: Of the result.
      added: [C], float64: it becomes the sum, rounded once.
    """
    found = self.parameter(path)
    shape = (-1,) + (1,) * (rank - 1)
    values = found.values.reshape(shape)
    if added is not None:
      return self.constant(path, values + added.reshape(shape))
    if not self.stored or found.packed.form != "float16":
      return self.constant(path, values)
    self._halves[path] = values.astype(np.float16)
    return path

  def kernel(
    self, name: str, layout: weights.Layout, *paths: str, axis: int = 0
  ) -> str:
    """A kernel of one parameter, or of several side by side.

    Args:
      name: Of the result.
      layout: From a parameter to what the engine wants.
      *paths: Of parameters, whose last axis are output channels; several are
        stacked along a new first axis.
      axis: Where `layout` puts the output channels.

    Returns:
      `name`, of shape layout(parameter), or [n, *layout(parameter)].
    """
    found = [self.parameter(path) for path in paths]
    kinds = {type(parameter.packed) for parameter in found}
    if self.stored and kinds == {packed_lib.BitTensor} and axis == 0:
      return self._bits(name, layout, found)
    if self.stored and kinds == {packed_lib.AffineTensor}:
      return self._codes(name, layout, found, axis)
    if self.stored and kinds == {packed_lib.CodebookTensor}:
      arranged = onnx_codebooks.arrange(found, layout)
      if arranged is not None:
        return self._books(name, arranged, found[0].packed.codewords)
    return self._floats(
      name, _side_by_side([layout(p.values) for p in found]), found
    )

  def rows(self, name: str, layout: weights.Layout, *paths: str) -> str:
    """Parameters side by side, [n, ...], half floats where all of them are."""
    found = [self.parameter(path) for path in paths]
    return self._floats(
      name, np.stack([layout(p.values) for p in found]), found
    )

  def is_integer(self, path: str) -> bool:
    """Whether a parameter is stored in integers with a scale and no offset."""
    tensor = self.parameter(path).packed
    is_affine = isinstance(tensor, packed_lib.AffineTensor)
    return is_affine and tensor.zero_point is None

  def integer_kernel(
    self, name: str, layout: weights.Layout, *paths: str, axis: int = 0
  ) -> tuple[str, str, str]:
    """Integers, scales and zero points of parameters that are `is_integer`.

    Arguments as of `kernel`. Scales and zero points are [C_out], or [n, C_out].
    """
    found = [self.parameter(path) for path in paths]
    codes = _side_by_side([layout(p.codes) for p in found])
    scale = _side_by_side(
      [p.per_channel("scale", layout, axis).reshape(-1) for p in found]
    )
    return (
      self.constant(f"{name}.codes", codes, np.int8),
      self.constant(f"{name}.scale", scale),
      self.constant(f"{name}.zero_point", np.zeros_like(scale), np.int8),
    )

  def dequantised(self, path: str, layout: weights.Layout, axis: int) -> str:
    """A kernel behind DequantizeLinear, where engines look for integers."""
    found = self.integer_kernel(path, layout, path, axis=axis)
    return self.node("DequantizeLinear", *found, output=path, axis=axis)

  def has_bits(self) -> bool:
    """Whether a parameter is stored in one bit a weight."""
    return any(
      isinstance(parameter.packed, packed_lib.BitTensor)
      for parameter in self._parameters.values()
    )

  def parameter(self, path: str) -> weights.Parameter:
    """One of the bundle.

    Raises:
      ValueError: It has none of that path.
    """
    if path not in self._parameters:
      raise ValueError(
        f"the bundle lacks the parameter {path}; it does not fit its "
        "architecture, train again"
      )
    return self._parameters[path]

  def _floats(self, name, values, found):
    """Values of parameters, half floats where all of them are."""
    if not self.stored or {p.packed.form for p in found} != {"float16"}:
      return self.constant(name, values)
    half = self.constant(f"{name}.half", values, np.float16)
    return self.node("Cast", half, output=name, to=onnx_functions.FLOAT)

  def _bits(self, name, layout, found):
    """One bit a weight, [R, ceil(n / 8), 1], and a scale for each row of n."""
    signs = _side_by_side([layout(p.codes) for p in found])
    scale = _side_by_side([p.per_channel("scale", layout) for p in found])
    rows = signs.reshape(scale.size, -1) > 0
    bits = np.packbits(rows, axis=-1, bitorder="little")
    return self._call(
      onnx_functions.BITS,
      (
        self.constant(f"{name}.bits", bits[..., None], np.uint8),
        self.constant(f"{name}.scale", scale.reshape(-1, 1), np.float16),
        self.integers(rows.shape[1]),
        self.integers(*signs.shape),
      ),
      name,
    )

  def _codes(self, name, layout, found, axis):
    """Integers, and a scale and a zero point for each channel."""
    codes = _side_by_side([layout(p.codes) for p in found])
    scale, zero_point = (
      _side_by_side([p.per_channel(field, layout, axis) for p in found])
      for field in ("scale", "zero_point")
    )
    if not zero_point.any():
      zero_point = self.constant("no_zero_point", 0, np.float16)
    else:
      zero_point = self.constant(f"{name}.zero_point", zero_point, np.float16)
    return self._call(
      onnx_functions.CODES,
      (
        self.constant(
          f"{name}.codes", codes, np.int8 if codes.min() < 0 else np.uint8
        ),
        self.constant(f"{name}.scale", scale, np.float16),
        zero_point,
      ),
      name,
    )

  def _books(self, name, arranged, codewords):
    """Codewords, and codes of log2 K bits each."""
    whole = arranged.merged == list(arranged.shape)
    kernel = self._call(
      onnx_functions.BOOKS,
      (
        self._stream(f"{name}.codes", arranged.codes, codewords),
        self.constant(f"{name}.first", arranged.first, np.int32),
        self.constant(f"{name}.books", arranged.books, arranged.books.dtype),
        self.integers(*arranged.merged),
      ),
      name if whole else f"{name}.filled",
      perm=arranged.perm,
    )
    if whole:
      return kernel
    return self.node(
      "Slice",
      kernel,
      self.integers(0),
      self.integers(arranged.shape[arranged.axis]),
      self.integers(arranged.axis),
      output=name,
    )

  def _stream(self, name, codes, codewords):
    """Codes as bytes or, where they have fewer bits, one after another."""
    bits = codebook.code_bits(codewords)
    if bits >= 8:  # Up to 12; larger codebooks are rare.
      return self.constant(name, codes, np.uint8 if bits == 8 else np.uint16)
    places = np.arange(bits)
    single = (codes.reshape(-1, 1) >> places & 1).astype(np.uint8)
    stream = np.packbits(single.reshape(-1), bitorder="little")
    return self._call(
      onnx_functions.STREAM,
      (
        self.constant(f"{name}.stream", stream[:, None], np.uint8),
        self.constant(f"powers_{bits}", 2 ** places[:, None], np.uint8),
        self.integers(single.size),
        self.integers(*codes.shape),
      ),
      name,
    )

  def _call(self, function, inputs, output, **attributes):
    self._functions[function] = onnx_functions.make(function, self._onnx)
    return self.nodes(function, inputs, (output,), domain=DOMAIN, **attributes)[
      0
    ]

  def model(
    self,
    name: str,
    inputs: Mapping[str, tuple[int | str, ...]],
    outputs: Mapping[str, tuple[str, tuple[int | str, ...]]],
    metadata: Mapping[str, str],
  ):
    """The model, checked but for operators that are an engine's own.

    Args:
      name: Of the graph.
      inputs: Shapes of float32 inputs; a name in them is any size.
      outputs: Type (float or int64) and shape.
      metadata: What else the file says.
    """
    helper, types = self._onnx.helper, self._onnx.TensorProto
    nodes = [*self._widened(), *self._nodes]
    graph = helper.make_graph(
      nodes,
      name,
      [
        helper.make_tensor_value_info(n, types.FLOAT, shape)
        for n, shape in inputs.items()
      ],
      [
        helper.make_tensor_value_info(n, getattr(types, kind.upper()), shape)
        for n, (kind, shape) in outputs.items()
      ],
      initializer=list(self._initializers.values()),
    )
    opsets = [("", OPSET), *((d, 1) for d in sorted(self._domains) if d)]
    model = helper.make_model(
      graph,
      opset_imports=[helper.make_opsetid(*opset) for opset in opsets],
      functions=list(self._functions.values()),
      ir_version=IR_VERSION,
      producer_name="jaxocr",
    )
    helper.set_model_props(model, dict(metadata))
    if self._domains <= {"", DOMAIN}:
      self._onnx.checker.check_model(model, full_check=True)
    return model

  def _widened(self):
    """Nodes that make float32 of the half floats."""
    nodes = []
    # Of one rank each: what is split keeps it.
    for rank in sorted({array.ndim for array in self._halves.values()}):
      chosen = {n: a for n, a in self._halves.items() if a.ndim == rank}
      wide = f"float_{rank}"
      whole = self.constant(
        f"half_{rank}", np.concatenate([*chosen.values()]), np.float16
      )
      sizes = self.integers(*map(len, chosen.values()))
      nodes += [
        self._onnx.helper.make_node(
          "Cast", [whole], [wide], to=onnx_functions.FLOAT
        ),
        self._onnx.helper.make_node("Split", [wide, sizes], [*chosen], axis=0),
      ]
    return nodes


def _side_by_side(arrays):
  return arrays[0] if len(arrays) == 1 else np.stack(arrays)
