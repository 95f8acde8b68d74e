"""What MNN's converter made of a network, the same in fewer bytes.

The converter writes no weight in fewer than two bits, though MNN reads it in
one. So the file becomes JSON, which is edited here, and then a file again. JSON
has a float's first six decimals; exact ones are those of the graph that was
converted, and of the file as it was.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

_TWO_BITS = np.array([-2, -1, 0, 1], np.int8)  # What its codes stand for.
_ONE_BIT = np.array([-1, 1], np.int8)
_ROUNDING = 6e-7  # Of a float in JSON.
_SMALLEST = np.finfo(np.float32).tiny
# What MNN's schema (3.6) has where a file is silent; JSON says it all, and what
# JSON says is written.
_DEFAULTS = {
  "defaultDimentionFormat": "NHWC",
  **dict.fromkeys(("activationType", "padX", "padY", "weightSize"), 0),
  **dict.fromkeys(("aMin", "readType", "scaleIn", "scaleOut"), 0),
  **dict.fromkeys(("has_scaleInt", "shapeInt32", "useInt32"), False),
  **dict.fromkeys(("hasOutputShape", "relu", "relu6"), False),
}


class PackingError(ValueError):
  """The converter's JSON is not what this module knows."""


def pack(
  net: dict[str, Any], data: bytes, constants: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
  """Edits a network of MNN in place.

  One-bit weights get one bit, an LSTM's two biases one array, operators lose
  their names, which the tensors behind them have, and all that is a default.

  Args:
    net: The network as the converter's JSON.
    data: The file that it was made from.
    constants: Arrays of the ONNX graph by name.

  Returns:
    The arrays of floats that a file of it has to hold.

  Raises:
    PackingError: A float's exact value is not found.
  """
  words = np.frombuffer(data[: len(data) // 4 * 4], "<u4")
  for op in net["oplists"]:
    _make_exact(op, words, constants)
    quantised = (op.get("main") or {}).get("quanParameter")
    if quantised:
      quantised["buffer"] = _one_bit(quantised)
  _merge_biases(net["oplists"])
  for op in net["oplists"]:
    if op["type"] != "Input":
      op.pop("name", None)
    _drop_defaults(op)
  net.pop("mnn_uuid", None)  # By chance; without, a bundle gives one file.
  return [
    np.asarray(holder[key], np.float32)
    for op in net["oplists"]
    for holder, key in _floats(op)
  ]


def _make_exact(op, words, constants):
  for holder, key in _floats(op):
    rounded = np.array(holder[key])
    if op["type"] == "Const" and op["name"] in constants:
      exact = constants[op["name"]].reshape(-1)
      if not _same(exact, rounded):
        raise PackingError(f"MNN's converter changed {op['name']}")
    else:
      exact = _found(rounded, words, op["name"])
    holder[key] = exact.astype(float).tolist()


def _floats(node: Any) -> Iterator[tuple[dict[str, Any], str]]:
  """Where a node holds lists of floats: an object and a key in it.

  Raises:
    PackingError: It has a single float that six decimals may have cut.
  """
  for key, value in node.items():
    if isinstance(value, dict):
      yield from _floats(value)
    elif isinstance(value, float) and not (64 * value).is_integer():
      raise PackingError(f"{key} of {node} is no array")
    elif isinstance(value, list) and value and isinstance(value[0], float):
      yield node, key


def _found(rounded, words, name):
  """The array in a file that rounds so: its length, then its values."""
  count = len(rounded)
  (starts,) = np.nonzero(words[: len(words) - count] == count)
  different = {}
  for start in starts:
    values = words[start + 1 : start + 1 + count].view("<f4")
    size = np.abs(values)
    # Integers, read as floats, are next to nothing or no number.
    floats = np.isfinite(size) & ((size == 0) | (size > _SMALLEST))
    if floats.all() and _same(values, rounded):
      different[values.tobytes()] = values
  if len(different) != 1:
    raise PackingError(
      f"{len(different)} arrays of MNN's file could be the floats of {name}"
    )
  return different.popitem()[1]


def _same(exact, rounded):
  return exact.shape == rounded.shape and bool(
    np.all(np.abs(exact - rounded) <= _ROUNDING + 1e-7 * np.abs(rounded))
  )


def _one_bit(quantised: Mapping[str, Any]) -> Sequence[int]:
  """The codes of a layer, in one bit each if that is all they need.

  They are: one byte, the number of dimensions; each of these in two or four
  bytes; one byte, the number of values; these; then indices of them, as many
  bits as it takes, the first bit highest.
  """
  buffer = np.array(quantised["buffer"], np.int8)
  width = np.dtype("<u4" if quantised["shapeInt32"] else "<u2")
  head = 1 + width.itemsize * int(buffer[0])
  table = buffer[head + 1 : head + 1 + len(_TWO_BITS)]
  if buffer[head] != len(_TWO_BITS) or not np.array_equal(table, _TWO_BITS):
    return quantised["buffer"]
  count = int(np.prod(buffer[1:head].view(width), dtype=np.int64))
  bits = np.unpackbits(buffer[head + 1 + len(table) :].view(np.uint8))
  codes = table[bits[: 2 * count].reshape(-1, 2) @ (2, 1)]
  if not np.isin(codes, _ONE_BIT).all():
    return quantised["buffer"]
  return [
    *buffer[:head].tolist(),
    len(_ONE_BIT),
    *_ONE_BIT.tolist(),
    *np.packbits(codes > 0).view(np.int8).tolist(),
  ]


def _merge_biases(ops: list[dict[str, Any]]) -> None:
  """Adds now what an LSTM of the converter cuts in two and adds in each call.

  ONNX has a bias for the inputs and one for the recurrence, the latter 0.
  """
  constants = {
    op["outputIndexes"][0]: op for op in ops if op["type"] == "Const"
  }
  for cut in [op for op in ops if op["type"] == "Slice"]:
    source = constants.get(cut["inputIndexes"][0])
    halves = cut["outputIndexes"]
    add = next((o for o in ops if o.get("inputIndexes") == halves), None)
    if None in (source, add) or add["main"].get("opType") != "ADD":
      continue
    blob = source["main"]
    first, second = np.split(
      np.reshape(blob["float32s"], blob["dims"]), 2, axis=cut["main"]["axis"]
    )
    total = np.float32(first) + np.float32(second)
    blob |= {"dims": [*total.shape], "float32s": total.reshape(-1).tolist()}
    source["outputIndexes"] = add["outputIndexes"]
    ops.remove(cut)
    ops.remove(add)


def _drop_defaults(node: dict[str, Any]) -> None:
  for key, value in list(node.items()):
    if isinstance(value, dict):
      _drop_defaults(value)
    elif key in _DEFAULTS and value == _DEFAULTS[key]:
      del node[key]
