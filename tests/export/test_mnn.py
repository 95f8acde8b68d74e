"""MNN files in MNN, beside Flax."""

import numpy as np
import pytest

from jaxocr import exporting
from jaxocr.export import engines
from jaxocr.export import mnn_file
from jaxocr.export import mnn_pack
from jaxocr.export import onnx_crnn
from jaxocr.export import onnx_layers
from jaxocr.export import weights
from tests.export import tiny

pytest.importorskip("onnx")
pytest.importorskip("MNN")


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory):
  """(form, int8) -> (model, engine of JAX, of the file, words, path)."""
  folder, done = tmp_path_factory.mktemp("mnn"), {}
  models = {}

  def make(form, int8=False):
    key = form, int8
    if key not in done:
      if form not in models:
        model = tiny.save(folder / f"{form}.safetensors", form)
        models[form] = model, engines.JaxEngine(model)
      path = folder / f"{form}_{int8}.mnn"
      model, reference = models[form]
      said, *_ = exporting.write(model, path, int8=int8, reference=reference)
      engine = engines.open_engine(path, threads=1)
      done[key] = model, reference, engine, said, path
    return done[key]

  return make


def _follows(engine, reference):
  """Holds an engine against Flax, width after width and batch after batch.

  Raises:
    AssertionError: It gave other logits, or those of another shape or image.
  """
  for width in (128, 64, 128):
    image = tiny.images(width, 3, seed=width)
    wanted = reference.logits(image)
    for batch in (3, 1, 3):
      found = engine.logits(image[:batch])
      np.testing.assert_allclose(found, wanted[:batch], rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["float", "binary", "zeros"])
def test_gives_the_logits_of_flax_also_after_another_width(made, form):
  """A module that goes on with an earlier shape fails here; see below.

  MNN 3.6.1 does not do so on these graphs, with `shape_mutable` or without
  (40 batches of three widths in turns): that is a precaution.
  """
  _, reference, engine, *_ = made(form)
  _follows(engine, reference)


@pytest.mark.parametrize("stale", ["shape", "pixels"])
def test_an_engine_that_goes_stale_is_found(made, stale):
  _, reference, engine, *_ = made("float")
  kept = {}

  class Stale:
    def logits(self, image):
      found = engine.logits(image)
      if stale == "pixels":  # Of the first image of that shape.
        return kept.setdefault(len(image), found)
      first = kept.setdefault("shape", found.shape)  # Of the first of all.
      return np.resize(found, first)

  with pytest.raises(AssertionError):
    _follows(Stale(), reference)


def test_weights_stay_packed(made):
  # 1 stem, 14 binary, collapse, head; and the LSTM's integers.
  model, _, _, said, path = made("binary")
  assert said.startswith(
    "17 convolutions, 17 of them of packed weights, 0 of integers, "
    "14 of one bit"
  )
  assert ", 0 of them of packed weights" in made("float")[3]
  data = path.read_bytes()
  found = weights.load(model.stored)
  recurrent = found["bilstm/forward_recurrent_kernel"]
  codes = onnx_crnn.lstm_layout(recurrent.codes).astype(np.int8)
  assert codes.tobytes() in data
  floats = onnx_crnn.lstm_layout(recurrent.values)
  assert floats[0].tobytes() not in data
  kernel = found["backbone/block5/spatial/conv/binary_kernel"].codes
  signs = onnx_layers.conv_layout(kernel).reshape(-1) > 0
  assert np.packbits(signs).tobytes() in data
  bits = made("float")[0]
  floats = weights.load(bits.stored)["bilstm/forward_recurrent_kernel"].values
  assert onnx_crnn.lstm_layout(floats)[0].tobytes() in (
    made("float")[4].read_bytes()
  )


def test_a_bundle_gives_one_file(made, tmp_path):
  model, _, _, _, path = made("binary")
  mnn_file.save(tmp_path / "again.mnn", model)
  assert (tmp_path / "again.mnn").read_bytes() == path.read_bytes()


def test_what_is_not_packed_is_said(made, monkeypatch, tmp_path):
  def refuse(*_):
    raise mnn_pack.PackingError("no floats")

  monkeypatch.setattr(mnn_pack, "pack", refuse)
  model, _, engine, _, path = made("binary")
  said = mnn_file.save(tmp_path / "large.mnn", model)
  assert said.endswith("; one-bit weights have two bits: no floats")
  large = tmp_path / "large.mnn"
  assert large.stat().st_size > path.stat().st_size
  (tmp_path / "large.mnn.json").write_text(
    path.with_name(path.name + ".json").read_text()
  )
  image = tiny.images(64, 2)
  np.testing.assert_array_equal(
    engines.open_engine(large, threads=1).logits(image), engine.logits(image)
  )


def test_another_network_than_was_asked_for(made, monkeypatch, tmp_path):
  monkeypatch.setattr(mnn_pack, "same", lambda *_: False)
  with pytest.raises(mnn_file.ConversionError, match="wrote another network"):
    mnn_file.save(tmp_path / "m.mnn", made("binary")[0])
  assert not list(tmp_path.iterdir())


def test_integers_are_counted(made, monkeypatch, tmp_path):
  model, reference, engine, said, _ = made("qat", True)
  assert said.endswith(", 15 of integers")  # 14 of blocks, and the collapse.
  image = tiny.images(128, 3)
  wanted = reference.logits(image)
  error = np.abs(engine.logits(image) - wanted)
  # Rounded once more by the LSTM's float side; see the README for trained ones.
  assert error.max() < 0.1 * wanted.std()
  # A layer that MNN does not find by its name is left out in silence.
  monkeypatch.setattr(mnn_file, "_activation", lambda *_: {"name": "nowhere"})
  with pytest.raises(mnn_file.ConversionError, match="made 0 convolutions"):
    mnn_file.save(tmp_path / "m.mnn", model, int8=True)
  assert not list(tmp_path.iterdir())


def test_bits_that_keep_a_weight(made):
  found = weights.load(made("binary")[0].stored)
  bits = {name: mnn_file.weight_bits(p) for name, p in found.items()}
  assert bits["backbone/block0/mix/conv/binary_kernel"] == 2
  assert bits["bilstm/forward_input_kernel"] == bits["head/kernel"] == 8
  assert bits["bilstm/forward_bias"] == 0


def test_a_failing_converter_leaves_nothing(made, monkeypatch, tmp_path):
  model = made("binary")[0]
  script = "print('these ops not supported: Erf'); print('Converted Failed')"
  monkeypatch.setattr(mnn_file, "_SCRIPT", script)
  with pytest.raises(mnn_file.ConversionError, match="not supported: Erf"):
    mnn_file.save(tmp_path / "m.mnn", model)
  assert not list(tmp_path.iterdir())


def test_says_what_int8_needs(made, tmp_path):
  with pytest.raises(ValueError, match="no convolution with 8-bit weights"):
    mnn_file.save(tmp_path / "m.mnn", made("binary")[0], int8=True)
