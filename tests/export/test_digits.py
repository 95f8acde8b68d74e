"""Digit networks in onnxruntime and MNN, beside Flax."""

import collections
import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr import cli
from jaxocr import exporting
from jaxocr.compress import packed
from jaxocr.data import digits
from jaxocr.export import card
from jaxocr.export import digit_card
from jaxocr.export import digit_check
from jaxocr.export import digit_model
from jaxocr.export import engines
from jaxocr.export import onnx_digits
from jaxocr.export import onnx_graph
from jaxocr.export import weights
from jaxocr.models import digit_zoo
from tests.export import tiny_digits

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ALL = [
  ("lenet5", "float"),
  ("lenet5", "binary"),
  ("lenet5", "codebooks"),
  ("lenet5_1998", "float"),
  ("cnn", "codebooks"),
  ("two_scale", "binary_weights"),
  ("squeezenet", "binary"),
]


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory):
  """(network, form) -> (model, its engine, path of its bundle)."""
  folder, done = tmp_path_factory.mktemp("digits"), {}

  def make(network, form):
    if (network, form) not in done:
      path = folder / f"{network}_{form}.safetensors"
      fields = {"norm": False} if network == "lenet5_1998" else {}
      model = tiny_digits.save(path, network, form, **fields)
      done[network, form] = model, digit_model.JaxEngine(model), path
    return done[network, form]

  return make


def _session(made, network, form, target, **how):
  model, reference, _ = made(network, form)
  said, stated, _ = exporting.write(model, target, reference=reference, **how)
  session = engines.SESSIONS[target.suffix[1:]](target, threads=1)
  return session, reference, said, stated


def test_alexnet_which_is_too_large_to_be_run_here():
  network = digit_zoo.make("alexnet", folded=True)
  image = jnp.zeros((1, 28, 28, 1))
  shapes = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
  zeros = {
    path: weights.Parameter(
      packed.FloatTensor(np.zeros(leaf.shape, np.float32), "float32"),
      np.zeros(leaf.shape, np.float32),
      None,
    )
    for path, leaf in flax.traverse_util.flatten_dict(shapes, sep="/").items()
  }
  graph = onnx_graph.Graph(zeros, stored=True)
  writer = onnx_digits.Writer(graph, network, {}, standard=True)
  # Checked in full, so that shapes fit each other.
  proto = graph.model(
    "alexnet",
    {"image": writer.image_shape},
    {writer.write(): ("float", writer.logits_shape)},
    {},
  )
  kinds = collections.Counter(node.op_type for node in proto.graph.node)
  assert (kinds["Conv"], kinds["MaxPool"], kinds["Gemm"]) == (5, 3, 3)
  assert {network for network, _ in ALL} == {*digit_zoo.NETWORKS} - {"alexnet"}


@pytest.mark.parametrize(("network", "form"), ALL)
def test_onnxruntime_gives_the_logits_of_flax(made, tmp_path, network, form):
  session, reference, _, stated = _session(
    made, network, form, tmp_path / "m.onnx"
  )
  wanted = reference.logits(tiny_digits.images(3))
  for batch in (3, 1):
    found = session.logits(tiny_digits.images(3)[:batch])
    np.testing.assert_allclose(
      found, wanted[:batch], rtol=0, atol=1e-5 * np.abs(wanted).max()
    )
  golden = stated["golden"]
  assert digit_check.golden_class(session, stated) == golden["class"]


def test_weights_are_stored_as_in_the_bundle(made, tmp_path):
  import onnx

  for form, least in (("binary", 1 / 20), ("codebooks", 1 / 5)):
    target = tmp_path / f"{form}.onnx"
    _session(made, "lenet5", form, target)
    held = {
      tensor.name: onnx.numpy_helper.to_array(tensor).nbytes
      for tensor in onnx.load(target).graph.initializer
    }
    kernels = sum(n for name, n in held.items() if "kernel" in name)
    assert kernels < least * 4 * 61470  # All weights of LeNet-5 as float32.


def test_integers_of_onnxruntime_are_near(made, tmp_path):
  session, reference, *_ = _session(
    made, "lenet5", "qat", tmp_path / "m.onnx", int8=True
  )
  image = tiny_digits.images(32)
  wanted = reference.logits(image)
  error = np.abs(session.logits(image) - wanted)
  assert np.median(error) < 0.02 * wanted.std()
  with pytest.raises(ValueError, match="8 bits, which int8 needs"):
    _session(made, "lenet5", "float", tmp_path / "n.onnx", int8=True)


@pytest.mark.parametrize(
  ("network", "form"),
  [
    ("lenet5", "binary"),
    ("lenet5", "codebooks"),
    ("lenet5_1998", "float"),
    ("two_scale", "binary_weights"),
  ],
)
def test_mnn_gives_the_logits_of_flax(made, tmp_path, network, form):
  pytest.importorskip("MNN")
  session, reference, *_ = _session(made, network, form, tmp_path / "m.mnn")
  wanted = reference.logits(tiny_digits.images(3))
  for batch in (3, 1, 3):
    found = session.logits(tiny_digits.images(3)[:batch])
    np.testing.assert_allclose(
      found, wanted[:batch], rtol=0, atol=3e-5 * np.abs(wanted).max()
    )


def test_mnn_counts_integer_layers(made, tmp_path):
  pytest.importorskip("MNN")
  session, reference, said, _ = _session(
    made, "lenet5", "qat", tmp_path / "m.mnn", int8=True
  )
  assert said.endswith(", 1 of integers")  # f6: before, maps are pooled.
  image = tiny_digits.images(32)
  wanted = reference.logits(image)
  error = np.abs(session.logits(image) - wanted)
  assert np.median(error) < 0.02 * wanted.std()


def test_the_card_is_enough_to_test_oneself(made, tmp_path):
  target = tmp_path / "m.onnx"
  session, *_ = _session(made, "lenet5", "float", target)
  stated = json.loads((tmp_path / "m.onnx.json").read_text())
  assert stated["classes"] == list("0123456789")
  assert stated["input"]["shape"] == ["N", 1, 28, 28]
  image = card.golden_image(stated["golden"])
  assert image.shape == (28, 28) and image.max() > 200 and image[0].max() == 0
  logits = session.logits(digit_model.pixels(image[None]))
  assert int(logits.argmax()) == stated["golden"]["class"]


def test_the_golden_digit_is_one_that_is_read_right():
  class Engine:
    def logits(self, image):
      assert image.shape == (10, 28, 28, 1)
      return np.eye(10)[[9, 2, 2, 3, 3, 5, 6, 7, 8, 9]]

  stated = digit_card.golden(tuple("0123456789"), Engine())
  assert (stated["drawn"], stated["class"], stated["text"]) == ("2", 2, "2")
  # Names that cannot be drawn: whatever is read in a 0.
  Engine.logits = lambda self, image: np.eye(2)[[1]]
  stated = digit_card.golden(("shirt", "shoe"), Engine())
  assert (stated["drawn"], stated["class"], stated["text"]) == ("0", 1, "shoe")


def test_check_by_the_command_line(made, tmp_path, capsys, monkeypatch):
  path = made("lenet5", "float")[2]
  images = (tiny_digits.images(5)[..., 0] * 255).astype(np.uint8)
  part = digits.idx.Digits(images, np.arange(5))
  few = digits.DigitSet("few", part, part, tuple("0123456789"))
  monkeypatch.setattr(digits, "load", lambda *_, **__: few)
  out = tmp_path / "m.onnx"
  asked = ["export", str(path), "--to", "onnx", "--out", str(out), "--check"]
  assert cli.main(asked) == 0
  said, err = capsys.readouterr()
  for part in (
    f"{out}: {out.stat().st_size:,} bytes, IR 8, ONNX opset 17",
    "golden image: class ",
    "batch 32: largest logit error ",
    "few: 5 test images, 5 classes identical",
    "ms; the bundle in JAX ",
  ):
    assert part in said
  assert err == "" and "but the bundle reads" not in said
  assert cli.main([*asked, "--labels", "lines.tsv"]) == 2
  assert "reads single digits; give --mnist-dir" in capsys.readouterr().err
  # As a reader of lines it is refused, with what it is for.
  for model in (path, out):
    assert cli.main(["read", "--model", str(model), "x.png"]) == 2
    err = capsys.readouterr().err
    assert "reads single digits" in err and "`jaxocr inspect`" in err
    assert err.count("\n") == 1 and "update" not in err
  labels = tmp_path / "labels.tsv"
  labels.write_text("x.png\t1\n")
  assert cli.main(["eval", "--model", str(path), "--data", str(labels)]) == 2
  assert "reads single digits" in capsys.readouterr().err
