"""ONNX files in onnxruntime, which computes them by itself, beside Flax."""

import copy
import dataclasses
import json

import numpy as np
import pytest

from jaxocr.data import preprocess
from jaxocr.export import check
from jaxocr.export import engines
from jaxocr.export import onnx_file
from jaxocr.models import activation
from tests.export import tiny

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# 509 as the reader pads it.
WIDTHS = [preprocess.bucket_width(width) for width in (64, 128, 320, 509)]


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory):
  """Form -> (model, engine of JAX, engine of the file, onnx.ModelProto)."""
  folder, done = tmp_path_factory.mktemp("onnx"), {}

  def make(form):
    if form not in done:
      model = tiny.save(folder / f"{form}.safetensors", form)
      proto = onnx_file.make_model(model)
      onnx_file.save(folder / f"{form}.onnx", proto)
      engine = engines.open_engine(folder / f"{form}.onnx", threads=1)
      done[form] = model, engines.JaxEngine(model), engine, proto
    return done[form]

  return make


@pytest.mark.parametrize(
  "form", ["float", "binary", "zeros", "int8", "mobilenet"]
)
def test_gives_the_logits_of_flax_at_any_width_and_batch(made, form):
  _, reference, engine, _ = made(form)
  # One session for all: widths follow each other, narrow after wide as well.
  for width in (128, 64, *WIDTHS[2:]) if form == "binary" else (128, 64):
    image = tiny.images(width, 3, seed=width)
    wanted = reference.logits(image)
    assert wanted.shape == (3, width // 4, tiny.ALPHABET.num_classes)
    for batch in (1, 3):
      found = engine.logits(image[:batch])
      np.testing.assert_allclose(found, wanted[:batch], rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["qat", "mobilenet_int4"])
def test_rounds_features_as_flax_does(made, form):
  _, reference, engine, proto = made(form)
  image = tiny.images(64, 3)
  wanted = reference.logits(image)
  # As it is written, without what onnxruntime makes of integers.
  options = onnxruntime.SessionOptions()
  options.graph_optimization_level = (
    onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
  )
  session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
  (found,) = session.run(["logits"], {"image": image[:, None, :, :, 0]})
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
  # Its integer products decide otherwise where a feature is half-way between
  # two codes, which 4 bits have far apart.
  error = np.abs(engine.logits(image) - wanted)
  assert np.median(error) < (0.02 if form == "qat" else 1e-5)


def test_a_bilstm_of_integers(made, tmp_path):
  model, reference, *_ = made("int8")
  proto = onnx_file.make_model(model, integer=True)
  assert "DynamicQuantizeLSTM" in [node.op_type for node in proto.graph.node]
  onnx_file.save(tmp_path / "m.onnx", proto)
  image = tiny.images(64, 3)
  wanted = reference.logits(image)
  found = engines.OnnxEngine(tmp_path / "m.onnx", threads=1).logits(image)
  # Features are rounded to 8 bits of their range in each call.
  assert np.abs(found - wanted).max() < 0.1 * wanted.std()
  with pytest.raises(ValueError, match="neither a BiLSTM of 8-bit weights"):
    onnx_file.make_model(made("float")[0], integer=True)


def test_names_are_those_of_the_bundle(made):
  model, _, _, proto = made("binary")
  nodes = {node.output[0]: node for node in proto.graph.node}
  held = {tensor.name for tensor in proto.graph.initializer}
  conv = nodes["backbone/block1/spatial/conv"]
  assert conv.op_type == "Conv"
  assert conv.input[1] == "backbone/block1/spatial/conv/binary_kernel"
  assert nodes[conv.input[1]].op_type == "UnpackBits"
  assert "backbone/block1/spatial/conv/binary_kernel.bits" in held
  (lstm,) = [node for node in proto.graph.node if node.op_type == "LSTM"]
  assert lstm.name == "bilstm" and len(lstm.output) == 3
  assert lstm.attribute and "bilstm/input_kernel.codes" in held
  stored = model.stored.params["backbone"]["block1"]["spatial"]["conv"]
  (bits,) = [
    onnx.numpy_helper.to_array(tensor)
    for tensor in proto.graph.initializer
    if tensor.name == "backbone/block1/spatial/conv/binary_kernel.bits"
  ]
  assert bits.nbytes == np.asarray(stored["binary_kernel"].bits).nbytes


def test_signs_have_no_zero_and_padding_is_one(made):
  _, _, _, proto = made("binary")
  operators = [node.op_type for node in proto.graph.node]
  assert "Sign" not in operators and "Where" in operators
  values = {
    tensor.name: onnx.numpy_helper.to_array(tensor)
    for tensor in proto.graph.initializer
  }
  pads = [node for node in proto.graph.node if node.op_type == "Pad"]
  pads = [node for node in pads if node.output[0] != "bilstm/biases"]
  assert len(pads) == 6  # One a 3x3.
  for node in pads:
    assert values[node.input[1]].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert values[node.input[2]] == 1


def test_says_what_it_is(made):
  model, _, engine, proto = made("binary")
  stated = {entry.key: entry.value for entry in proto.metadata_props}
  assert stated["alphabet"] == tiny.ALPHABET.characters
  assert json.loads(stated["preprocess"]) == model.stored.meta["preprocess"]
  assert stated["content_hash"] == model.stored.meta["content_hash"]
  assert engine.alphabet == tiny.ALPHABET
  assert (engine.height, engine.frame_px) == (32, 4)
  assert (proto.ir_version, proto.opset_import[0].version) == (8, 17)


def test_decodes_in_the_graph_where_asked(made, tmp_path):
  model, reference, *_ = made("float")
  onnx_file.save(tmp_path / "m.onnx", onnx_file.make_model(model, decode=True))
  session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
  image = tiny.images(64, 2)
  classes, shares = session.run(
    ["classes", "probabilities"], {"image": image[:, None, :, :, 0]}
  )
  logits = reference.logits(image).astype(np.float64)
  wanted = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  np.testing.assert_array_equal(classes, logits.argmax(-1))
  np.testing.assert_allclose(shares, wanted.max(-1), rtol=1e-5)


def test_finds_features_near_a_threshold(made, monkeypatch):
  model, *_ = made("binary")
  image = tiny.images(64, 2)
  monkeypatch.setattr(check, "NEAR", 1e9)
  counts = check.make_near_threshold(model)(image)
  # Channels times places, of `spatial`, `mix` and, where channels double,
  # `mix_twin`; the columns of 64 px are 32, then 16.
  entering = [(4, 16 * 32), *2 * [(4, 8 * 16)], *2 * [(8, 8 * 16)]]
  entering += [(8, 8 * 16), *2 * [(8, 4 * 16)], *2 * [(16, 4 * 16)]]
  entering += [(16, 4 * 16), (16, 2 * 16), *2 * [(16, 2 * 16)]]
  assert counts.tolist() == 2 * [sum(c * n for c, n in entering)]
  monkeypatch.setattr(check, "NEAR", 0.0)
  assert check.make_near_threshold(model)(image).tolist() == [0, 0]
  plain = check.make_near_threshold(made("float")[0])
  assert plain(image).tolist() == [0, 0]


def test_ranges_never_seen_leave_features_as_they_are(made):
  model, _, _, proto = made("mobilenet_int4")
  before = sum(n.op_type == "QuantizeLinear" for n in proto.graph.node)
  assert before == 1 + 2 * 6 + 2  # Stem, blocks, frames, context.
  collections = copy.deepcopy(model.stored.collections)
  collections[activation.RANGES]["frames_range"]["count"] = np.int32(0)
  stored = dataclasses.replace(model.stored, collections=collections)
  proto = onnx_file.make_model(dataclasses.replace(model, stored=stored))
  after = sum(n.op_type == "QuantizeLinear" for n in proto.graph.node)
  assert after == before - 1
