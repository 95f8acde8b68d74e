"""What MNN's converter made of a network, the same in fewer bytes.

The converter writes no weight in fewer than two bits, though MNN reads it in
one. So the file becomes JSON, which is edited here, and then a file again. JSON
has a float's first six decimals; exact ones are those of the graph that was
converted, and of the file as it was.
"""

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

import numpy as np

_INDEXED = 1  # The form of weights that a table of values comes before.
_TWO_BITS = np.array([-2, -1, 0, 1], np.int8)  # What its codes stand for.
_ONE_BIT = np.array([-1, 1], np.int8)
_ROUNDING = 6e-7  # Of a float in JSON.
_WHOLE = 64  # Six decimals hold multiples of 1/64 as they are.
_SMALLEST = np.finfo(np.float32).tiny
# What MNN's schema (3.6) has where a file is silent, in all tables that have
# the field; JSON says it all, and what JSON says is written.
_DEFAULTS = {
  "defaultDimentionFormat": "NHWC",
  **dict.fromkeys(("activationType", "padX", "padY", "weightSize"), 0),
  **dict.fromkeys(("aMin", "readType", "scaleIn", "scaleOut"), 0),
  **dict.fromkeys(("has_scaleInt", "shapeInt32", "useInt32"), False),
  **dict.fromkeys(("hasOutputShape", "relu", "relu6"), False),
}


class PackingError(ValueError):
  """The converter's JSON is not what this module knows."""


@dataclasses.dataclass(frozen=True)
class Packed:
  """What an edited network holds.

  Attributes:
    floats: Its arrays, which a file of it has to have bit for bit.
    one_bit: Layers whose weights have one bit.
  """

  floats: list[np.ndarray]
  one_bit: int


def pack(
  net: dict[str, Any],
  data: bytes,
  constants: Mapping[str, np.ndarray],
  names: frozenset[str] = frozenset(),
) -> Packed:
  """Edits a network of MNN in place; it computes what it did.

  Floats become exact, one-bit weights get one bit, an LSTM's two biases one
  array. Operators lose their names, which the tensors behind them have, and
  these theirs where nobody asks for them; fields that `_DEFAULTS` has and the
  file's random number go as well, so that one bundle gives one file.

  Args:
    net: The network as the converter's JSON.
    data: The file that it was made from.
    constants: Arrays of the ONNX graph by name.
    names: Of tensors that keep theirs.

  Raises:
    PackingError: A float's exact value is not found, a constant is not that of
      the graph, or the network has parts that are not looked into.
  """
  if net.get("subgraphs"):
    raise PackingError("the network has subgraphs, which are not looked into")
  words = np.frombuffer(data[: len(data) // 4 * 4], "<u4")
  one_bit = 0
  for op in net["oplists"]:
    _make_exact(op, words, constants)
    quantised = (op.get("main") or {}).get("quanParameter")
    if quantised:
      one_bit += _shorten(quantised)
  _merge_biases(net["oplists"])
  for op in net["oplists"]:
    if op["type"] != "Input":  # By which the engine finds it.
      op.pop("name", None)
    _drop_defaults(op)
  net["tensorName"] = [
    name if name in names else "" for name in net.get("tensorName", ())
  ]
  for key in ("mnn_uuid", "bizCode"):  # Random, and not said by anyone.
    net.pop(key, None)
  floats = [
    np.asarray(holder[key], np.float32)
    for op in net["oplists"]
    for holder, key in _floats(op)
  ]
  return Packed(floats, one_bit)


def same(node: Any, other: Any) -> bool:
  """Whether two pieces of JSON are alike, floats as JSON rounds them."""
  if isinstance(node, dict):
    return node.keys() == other.keys() and all(
      same(node[key], other[key]) for key in node
    )
  if isinstance(node, list):
    return len(node) == len(other) and all(map(same, node, other))
  if isinstance(node, float):
    return bool(np.isclose(node, other, rtol=1e-6, atol=_ROUNDING))
  return node == other


def _make_exact(op, words, constants):
  for holder, key in _floats(op):
    rounded = np.array(holder[key])
    if op["type"] == "Const" and op["name"] in constants:
      exact = constants[op["name"]].reshape(-1)
      if not _rounds_to(exact, rounded):
        raise PackingError(f"the constant {op['name']} is not the graph's")
    else:
      exact = _found(rounded, words, op["name"])
    holder[key] = exact.astype(float).tolist()


def _floats(node: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
  """Where a node holds lists of floats: an object and a key in it.

  Raises:
    PackingError: It has a single float that six decimals may have cut.
  """
  for key, value in node.items():
    if isinstance(value, dict):
      yield from _floats(value)
    elif isinstance(value, float) and not (_WHOLE * value).is_integer():
      raise PackingError(
        f"{key}={value} may be cut; only floats in arrays are found again"
      )
    elif isinstance(value, list) and value and isinstance(value[0], float):
      yield node, key


def _found(rounded, words, name):
  """The array in a file that rounds so: its length, then its values."""
  count = len(rounded)
  (starts,) = np.nonzero(words[: len(words) - count] == count)
  different = []
  for start in starts:
    values = words[start + 1 : start + 1 + count].view("<f4")
    size = np.abs(values)
    # Integers, read as floats, are next to nothing or no number.
    floats = np.isfinite(size) & ((size == 0) | (size > _SMALLEST))
    if not floats.all() or not _rounds_to(values, rounded):
      continue
    if not any(np.array_equal(values, known) for known in different):
      different.append(values)
  if len(different) != 1:
    raise PackingError(f"{len(different)} arrays could be the floats of {name}")
  return different[0]


def _rounds_to(exact, rounded):
  return exact.shape == rounded.shape and bool(
    np.all(np.abs(exact - rounded) <= _ROUNDING + 1e-7 * np.abs(rounded))
  )


def _shorten(quantised: dict[str, Any]) -> bool:
  """Gives a layer's codes one bit each if that is all they need.

  They are: one byte, the number of dimensions; each of these in two or four
  bytes; one byte, the number of values; these; then indices of them, as many
  bits as it takes, the first bit highest. A channel whose scale is 0 has zeros,
  for which any code will do.

  Returns:
    Whether it did.
  """
  buffer = np.array(quantised["buffer"], np.int8)
  if quantised["type"] != _INDEXED or not buffer.size:
    return False
  width = np.dtype("<u4" if quantised["shapeInt32"] else "<u2")
  head = 1 + width.itemsize * int(buffer[0])
  table = buffer[head + 1 : head + 1 + len(_TWO_BITS)]
  if buffer[head] != len(_TWO_BITS) or not np.array_equal(table, _TWO_BITS):
    return False
  rows, *inner = buffer[1:head].view(width).tolist()
  count = rows * int(np.prod(inner, dtype=np.int64))
  bits = np.unpackbits(buffer[head + 1 + len(table) :].view(np.uint8))
  codes = table[bits[: 2 * count].reshape(-1, 2) @ (2, 1)]
  scales = np.asarray(quantised["alpha"])
  if len(scales) == rows:
    codes.reshape(rows, -1)[scales == 0] = 1
  if not np.isin(codes, _ONE_BIT).all():
    return False
  quantised["buffer"] = [
    *buffer[:head].tolist(),
    len(_ONE_BIT),
    *_ONE_BIT.tolist(),
    *np.packbits(codes > 0).view(np.int8).tolist(),
  ]
  return True


def _merge_biases(ops: list[dict[str, Any]]) -> None:
  """Adds now what an LSTM of the converter cuts in two and adds in each call.

  ONNX has a bias for the inputs and one for the recurrence, the latter 0.
  """
  makers = {t: op for op in ops for t in op.get("outputIndexes", ())}
  for lstm in [op for op in ops if op["type"] == "LSTM"]:
    add = makers[lstm["inputIndexes"][-1]]
    if add["type"] != "BinaryOp" or add["main"]["opType"] != "ADD":
      continue
    cut = makers[add["inputIndexes"][0]]
    source = makers[cut["inputIndexes"][0]] if cut["type"] == "Slice" else cut
    chain = (source, cut, add)
    if cut["outputIndexes"] != add["inputIndexes"] or not all(
      _read_once(ops, op) for op in chain
    ):
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


def _read_once(ops, op) -> bool:
  made = set(op["outputIndexes"])
  return sum(bool(made & set(o.get("inputIndexes", ()))) for o in ops) == 1


def _drop_defaults(node: dict[str, Any]) -> None:
  for key, value in list(node.items()):
    if isinstance(value, dict):
      _drop_defaults(value)
    elif key in _DEFAULTS and value == _DEFAULTS[key]:
      del node[key]
