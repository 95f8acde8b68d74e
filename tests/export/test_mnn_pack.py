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
        "type": 1,
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
  packed = mnn_pack.pack(net, _file([2.0, 0.5], [np.nan], alpha), {})
  quantised = layer["main"]["quanParameter"]
  assert quantised["buffer"] == [*_HEAD, 2, -1, 1, 0b01101000]
  assert np.float32(quantised["alpha"]).tobytes() == alpha.tobytes()
  assert packed.one_bit == 1
  assert packed.floats[0].tobytes() == alpha.tobytes()
  assert net == {"oplists": [layer], "tensorName": []}
  # Of what is left unsaid, only what the schema says by itself.
  assert layer["main"]["common"] == {"padY": 1, "kernelX": 3}
  assert "name" not in layer and quantised["quantScale"] == 1.0


def test_integers_are_no_floats():
  layer = _layer([1, 1, 0, 0], [0.0, 0.0])
  packed = mnn_pack.pack(
    {"oplists": [layer]},
    _file([0.0, 0.0], [-0.0, 0.0]) + np.uint32([2, 7, 8]).tobytes(),
    {},
  )
  assert packed.floats[0].tolist() == [0, 0] and packed.one_bit == 0


def test_a_dead_channel_takes_any_code():
  # Two rows of two: signs, and zeros under a scale of zero.
  buffer = [2, 2, 0, 2, 0, *_TABLE, *_packed([1, 3, 2, 2])[:1]]
  layer = _layer(buffer, [0.5, 0.0])
  packed = mnn_pack.pack({"oplists": [layer]}, _file([0.5, 0.0]), {})
  assert packed.one_bit == 1
  quantised = layer["main"]["quanParameter"]
  assert quantised["buffer"] == [2, 2, 0, 2, 0, 2, -1, 1, 0b01110000]


def test_names_that_nobody_asks_for_go():
  net = {"oplists": [], "tensorName": ["image", "Slice1", "a/_inside"]}
  mnn_pack.pack(net, b"", {}, frozenset(["image"]))
  assert net["tensorName"] == ["image", "", ""]


def test_parts_that_are_not_looked_into():
  with pytest.raises(mnn_pack.PackingError, match="subgraphs"):
    mnn_pack.pack({"oplists": [], "subgraphs": [{}]}, b"", {})


def test_same_but_for_the_rounding_of_json():
  net = {"a": [1 / 3, 2], "b": {"c": "x"}}
  assert mnn_pack.same(net, {"a": [0.333333, 2], "b": {"c": "x"}})
  assert not mnn_pack.same(net, {"a": [0.333331, 2], "b": {"c": "x"}})
  assert not mnn_pack.same(net, {"a": [0.333333, 3], "b": {"c": "x"}})
  assert not mnn_pack.same(net, {"a": [0.333333, 2], "b": {}})
  assert not mnn_pack.same(net, {"a": [0.333333], "b": {"c": "x"}})


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
      "constant one is not the graph's",
    ),
    (
      {"type": "LSTM", "name": "lstm", "main": {"quantScale": 0.123457}},
      b"",
      {},
      "quantScale=0.123457 may be cut",
    ),
  ],
)
def test_floats_that_are_not_found(op, data, constants, words):
  with pytest.raises(mnn_pack.PackingError, match=words):
    mnn_pack.pack({"oplists": [op]}, data, constants)


def _lstm(*more):
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
    {"type": "LSTM", "inputIndexes": [6], "outputIndexes": [7], "main": {}},
    *more,
  ]
  net = {"oplists": ops}
  mnn_pack.pack(net, _file(biases.reshape(-1)), {})
  return net["oplists"]


def test_biases_are_added():
  constant, lstm = _lstm()
  assert constant["outputIndexes"] == lstm["inputIndexes"] == [6]
  assert constant["main"] == {
    "dims": [2, 2],
    "float32s": [0.75, 1.5, 1.0, 6.0],
  }


@pytest.mark.parametrize("read", [3, 5, 6])
def test_biases_that_others_read_stay(read):
  other = {"type": "UnaryOp", "inputIndexes": [read], "outputIndexes": [8]}
  assert len(_lstm(other)) == 5
