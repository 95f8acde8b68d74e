"""MNN's networks in fewer bytes, by hand."""

import numpy as np
import pytest

from jaxocr.export import mnn_pack


def _file(*arrays):
  """Vectors as a flatbuffer has them: each its length, then its floats."""
  parts = [
    np.uint32(len(a)).tobytes() + np.float32(a).tobytes() for a in arrays
  ]
  return b"".join([b"MNN!", *parts])


def _layer(buffer, alpha):
  return {
    "type": "Convolution",
    "name": "conv",
    "outputIndexes": [1],
    "main": {
      "common": {"padX": 0, "padY": 1, "kernelX": 3},
      "quanParameter": {
        "buffer": buffer,
        "alpha": alpha,
        "shapeInt32": False,
        "aMaxOrBits": 2,
        "quantScale": 1.0,
      },
    },
  }


# One row of five: two dimensions of two bytes, four values, two bits each.
_HEAD = [2, 1, 0, 5, 0]
_TABLE = [4, -2, -1, 0, 1]


def _packed(indices):
  bits = "".join(f"{i:02b}" for i in indices).ljust(16, "0")
  return [int(np.uint8(int(bits[i : i + 8], 2)).view(np.int8)) for i in (0, 8)]


def test_signs_take_one_bit_and_scales_are_exact():
  alpha = np.float32([1 / 3])
  buffer = [*_HEAD, *_TABLE, *_packed([1, 3, 3, 1, 3])]  # - + + - +
  layer = _layer(buffer, [0.333333])
  net = {"oplists": [layer], "mnn_uuid": "1"}
  (floats,) = mnn_pack.pack(net, _file([2.0, 0.5], [np.nan], alpha), {})
  quantised = layer["main"]["quanParameter"]
  assert quantised["buffer"] == [*_HEAD, 2, -1, 1, 0b01101000]
  assert np.float32(quantised["alpha"]).tobytes() == alpha.tobytes()
  assert floats.tobytes() == alpha.tobytes()
  assert net == {"oplists": [layer]}
  # Of what is left unsaid, only what the schema says by itself.
  assert layer["main"]["common"] == {"padY": 1, "kernelX": 3}
  assert "name" not in layer and quantised["quantScale"] == 1.0


def test_integers_are_no_floats():
  layer = _layer([1, 1, 0, 0], [0.0, 0.0])
  (floats,) = mnn_pack.pack(
    {"oplists": [layer]},
    _file([0.0, 0.0]) + np.uint32([2, 7, 8]).tobytes(),
    {},
  )
  assert floats.tobytes() == bytes(8)


def test_a_weight_of_zero_keeps_its_two_bits():
  buffer = [*_HEAD, *_TABLE, *_packed([1, 3, 2, 1, 3])]
  layer = _layer(buffer, [0.5])
  mnn_pack.pack({"oplists": [layer]}, _file([0.5]), {})
  assert layer["main"]["quanParameter"]["buffer"] == buffer


def test_constants_are_those_of_the_graph():
  blob = {"float32s": [0.0], "dataType": "DT_FLOAT"}
  op = {"type": "Const", "name": "tiny", "main": blob, "outputIndexes": [0]}
  mnn_pack.pack({"oplists": [op]}, b"", {"tiny": np.float32(1e-30)})
  assert np.float32(blob["float32s"]) == np.float32(1e-30)


@pytest.mark.parametrize(
  ("op", "data", "constants", "words"),
  [
    (_layer([0], [0.25]), _file([0.5]), {}, "0 arrays .* floats of conv"),
    (
      _layer([0], [0.25]),
      _file([0.25], [0.2500001]),
      {},
      "2 arrays .* floats of conv",
    ),
    (
      {"type": "Const", "name": "one", "main": {"float32s": [2.0]}},
      b"",
      {"one": np.float32(1)},
      "changed one",
    ),
    (
      {"type": "LSTM", "name": "lstm", "main": {"quantScale": 0.123457}},
      b"",
      {},
      "quantScale .* is no array",
    ),
  ],
)
def test_floats_that_are_not_found(op, data, constants, words):
  with pytest.raises(mnn_pack.PackingError, match=words):
    mnn_pack.pack({"oplists": [op]}, data, constants)


def test_biases_are_added():
  biases = np.float32([[0.5, 1.5, 0.25, 0.0], [1.0, 2.0, 0.0, 4.0]])
  blob = {"dims": [2, 4], "float32s": biases.reshape(-1).tolist()}
  ops = [
    {"type": "Const", "name": "b", "outputIndexes": [3], "main": blob},
    {
      "type": "Slice",
      "inputIndexes": [3],
      "outputIndexes": [4, 5],
      "main": {"axis": 1},
    },
    {
      "type": "BinaryOp",
      "inputIndexes": [4, 5],
      "outputIndexes": [6],
      "main": {"opType": "ADD"},
    },
  ]
  net = {"oplists": ops}
  mnn_pack.pack(net, _file(biases.reshape(-1)), {})
  (constant,) = net["oplists"]
  assert constant["outputIndexes"] == [6]
  assert blob == {"dims": [2, 2], "float32s": [0.75, 1.5, 1.0, 6.0]}
