"""Product-quantised kernels in ONNX files, beside dense ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr import exporting
from jaxocr.compress import packed
from jaxocr.export import engines
from jaxocr.export import onnx_codebooks
from jaxocr.export import onnx_file
from jaxocr.export import weights
from tests.export import tiny


def _parameter(d, books, codes, shape):
  tensor = packed.pack_codebooks(
    jnp.asarray(books, "float32"),
    jnp.asarray(codes),
    shape=shape,
    storage="float16",
    dtype="float32",
  )
  assert tensor.d == d
  return weights.Parameter(tensor, np.asarray(tensor.dequantise()), None)


def test_codes_lie_as_the_kernel_does():
  # One tap, three channels of which the last is a sub-space of its own.
  books = [[[1, 2], [3, 4]], [[5, 0], [7, 0]]]
  codes = [[[0, 1]], [[1, 1]]]
  found = _parameter(2, books, codes, (3, 2))
  np.testing.assert_array_equal(found.values, [[1, 3], [2, 4], [7, 7]])
  arranged = onnx_codebooks.arrange([found], np.transpose)
  np.testing.assert_array_equal(arranged.codes, [[0, 1], [1, 1]])
  np.testing.assert_array_equal(arranged.first, [[0, 2]])
  np.testing.assert_array_equal(
    arranged.books, [[1, 2], [3, 4], [5, 0], [7, 0]]
  )
  assert arranged.books.dtype == np.float16
  assert (arranged.axis, arranged.shape, arranged.merged) == (1, (2, 3), [2, 4])
  np.testing.assert_array_equal(arranged.kernel(), found.values.T)


def test_rows_of_a_map_that_a_sub_space_runs_across():
  rng = np.random.default_rng(0)

  def columns(kernel):  # As what is collapsed: two rows of three channels.
    return kernel.reshape(2, 3, -1).transpose(2, 1, 0)[..., None]

  for d, sets in ((2, 3), (3, 2)):
    books = rng.normal(size=(sets, 4, d))
    codes = rng.integers(0, 4, (sets, 1, 5))
    found = _parameter(d, books, codes, (6, 5))
    arranged = onnx_codebooks.arrange([found], columns)
    if d == 2:
      assert arranged is None
    else:
      np.testing.assert_array_equal(arranged.kernel(), columns(found.values))
  # Side by side only what is alike.
  other = _parameter(2, rng.normal(size=(3, 4, 2)), np.zeros((3, 1, 5)), (6, 5))
  assert onnx_codebooks.arrange([found, other], np.transpose) is None


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory):
  pytest.importorskip("onnx")
  pytest.importorskip("onnxruntime")
  folder = tmp_path_factory.mktemp("codebooks")
  model = tiny.save_codebooks(folder / "m.safetensors")
  return model, engines.JaxEngine(model), onnx_file.make_model(model), folder


def test_every_kernel_is_looked_up_to_the_logits_of_flax(made):
  import onnxruntime

  model, reference, proto, folder = made
  codes = [
    name
    for name, parameter in weights.load(model.stored).items()
    if isinstance(parameter.packed, packed.CodebookTensor)
  ]
  assert len(codes) == 14 + 4 + 2  # Blocks, LSTM, collapse and head.
  looked_up = [n for n in proto.graph.node if n.op_type == "LookUp"]
  assert len(looked_up) == len(codes) - 2  # Both directions at once.
  image = tiny.images(64, 3)
  wanted = reference.logits(image)
  onnx_file.save(folder / "m.onnx", proto)
  found = engines.OnnxEngine(folder / "m.onnx", threads=1).logits(image)
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
  # Unfolded, the LSTM's W and R and all kernels are computed in each call.
  options = onnxruntime.SessionOptions()
  options.graph_optimization_level = (
    onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
  )
  session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
  (found,) = session.run(["logits"], {"image": image[:, None, :, :, 0]})
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_weights_are_as_small_as_in_the_bundle(made):
  from onnx import numpy_helper

  model, _, proto, _ = made
  held = {
    tensor.name: numpy_helper.to_array(tensor)
    for tensor in proto.graph.initializer
  }
  block = "backbone/block2/mix/conv/binary_kernel"
  tensor = model.stored.params["backbone"]["block2"]["mix"]["conv"]
  tensor = tensor["binary_kernel"]
  assert held[f"{block}.codes.stream"].nbytes == tensor.codes.nbytes
  assert held[f"{block}.books"].nbytes == tensor.codebooks.nbytes
  assert held[f"{block}.books"].dtype == np.float16
  assert held["backbone/block1/spatial/conv/binary_kernel.codes"].dtype == (
    np.uint8
  )
  assert held["bilstm/input_kernel.books"].shape == (2 * 2 * 64, 4)
  assert not any(name.endswith("kernel") for name in held if "stem" not in name)


def test_dense_weights_where_asked(made):
  model, reference, _, folder = made
  out = folder / "dense.onnx"
  exporting.write(model, out, dense=True, reference=reference)
  image = tiny.images(64, 1)
  np.testing.assert_allclose(
    engines.OnnxEngine(out, threads=1).logits(image),
    reference.logits(image),
    rtol=0,
    atol=1e-5,
  )
  assert b"LookUp" not in out.read_bytes()
  for asked, reason in (
    ({"target": out.with_suffix(".mnn")}, "dense is for ONNX"),
    ({"target": out, "int8": True}, "dense weights are floats"),
  ):
    with pytest.raises(ValueError, match=reason):
      exporting.write(model, **asked, dense=True, reference=reference)
