"""Functions within an ONNX file that make floats of packed weights.

They are written in plain ONNX, so that any engine can follow. onnxruntime
computes them once, when it loads the file.
"""

from typing import Any

DOMAIN = "jaxocr"
OPSET = 17
BITS, CODES = "UnpackBits", "UnpackCodes"
STREAM, BOOKS = "UnpackStream", "LookUp"
# Of onnx.TensorProto, which is not imported before it is needed.
FLOAT = 1
_UINT8, _INT32, _INT64, _BOOL = 2, 6, 7, 9


def make(name: str, onnx: Any):
  """One of the functions, an onnx.FunctionProto."""
  inputs, outputs, attributes, nodes = _BODIES[name](onnx)
  return onnx.helper.make_function(
    DOMAIN,
    name,
    inputs,
    outputs,
    nodes,
    [onnx.helper.make_opsetid("", OPSET)],
    attributes,
  )


def _bits(onnx):
  """(bits, scale, inputs, shape) -> +-scale; see `packed.BitTensor`."""
  node = onnx.helper.make_node
  nodes = [
    *_single_bits(onnx, "bits"),
    _constant(onnx, "rows", _INT64, [2], [0, -1]),
    _constant(onnx, "start", _INT64, [1], [0]),
    _constant(onnx, "axis", _INT64, [1], [1]),
    node("Reshape", ["lowest", "rows"], ["whole_bytes"]),
    node("Slice", ["whole_bytes", "start", "inputs", "axis"], ["ones"]),
    node("Cast", ["ones"], ["positive"], to=_BOOL),
    node("Cast", ["scale"], ["plus"], to=FLOAT),
    node("Neg", ["plus"], ["minus"]),
    node("Where", ["positive", "plus", "minus"], ["signed"]),
    node("Reshape", ["signed", "shape"], ["kernel"]),
  ]
  return ["bits", "scale", "inputs", "shape"], ["kernel"], [], nodes


def _codes(onnx):
  """(codes, scale, zero_point) -> (codes - zero_point) * scale."""
  node = onnx.helper.make_node
  nodes = [
    *(
      node("Cast", [name], [f"{name}_float"], to=FLOAT)
      for name in ("codes", "scale", "zero_point")
    ),
    node("Sub", ["codes_float", "zero_point_float"], ["shifted"]),
    node("Mul", ["shifted", "scale_float"], ["kernel"]),
  ]
  return ["codes", "scale", "zero_point"], ["kernel"], [], nodes


def _stream(onnx):
  """(stream, powers, length, shape) -> integers int32 of a few bits each.

  The stream is bytes [n, 1], numbers lowest bit first; powers are those of two,
  uint8 [bits, 1]; length [1] is how many bits there are.
  """
  node = onnx.helper.make_node
  nodes = [
    *_single_bits(onnx, "stream"),
    _constant(onnx, "flat", _INT64, [1], [-1]),
    _constant(onnx, "start", _INT64, [1], [0]),
    node("Reshape", ["lowest", "flat"], ["whole_bytes"]),
    node("Slice", ["whole_bytes", "start", "length"], ["ones"]),
    node("Shape", ["powers"], ["width"], end=1),
    node("Concat", ["flat", "width"], ["rows"], axis=0),
    node("Reshape", ["ones", "rows"], ["places_of_each"]),
    node("MatMulInteger", ["places_of_each", "powers"], ["sums"]),
    node("Reshape", ["sums", "shape"], ["codes"]),
  ]
  return ["stream", "powers", "length", "shape"], ["codes"], [], nodes


def _books(onnx):
  """(codes, first, books, shape) -> kernel; see `onnx_codebooks.Arranged`.

  Its attribute `perm` takes what was looked up, [*codes, d], to where d follows
  the axis of the sub-spaces.
  """
  node = onnx.helper.make_node
  turned = node("Transpose", ["vectors"], ["turned"])
  turned.attribute.append(
    onnx.AttributeProto(
      name="perm", type=onnx.AttributeProto.INTS, ref_attr_name="perm"
    )
  )
  nodes = [
    node("Cast", ["codes"], ["within"], to=_INT32),
    node("Add", ["within", "first"], ["places"]),
    node("Cast", ["books"], ["wide"], to=FLOAT),
    node("Gather", ["wide", "places"], ["vectors"], axis=0),
    turned,
    node("Reshape", ["turned", "shape"], ["kernel"]),
  ]
  return ["codes", "first", "books", "shape"], ["kernel"], ["perm"], nodes


def _single_bits(onnx, stored):
  """Nodes that make `lowest` [..., 8] of bytes [..., 1], lowest bit first."""
  node = onnx.helper.make_node
  return [
    _constant(onnx, "places", _UINT8, [8], range(8)),
    _constant(onnx, "two", _UINT8, [], [2]),
    node("BitShift", [stored, "places"], ["shifted"], direction="RIGHT"),
    node("Mod", ["shifted", "two"], ["lowest"]),
  ]


def _constant(onnx, name, kind, shape, values):
  tensor = onnx.helper.make_tensor(name, kind, shape, list(values))
  return onnx.helper.make_node("Constant", [], [name], value=tensor)


_BODIES = {BITS: _bits, CODES: _codes, STREAM: _stream, BOOKS: _books}
