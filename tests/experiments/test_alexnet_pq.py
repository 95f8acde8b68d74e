"""AlexNet by product quantisation, shrunk: a few steps, a small stand-in."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from experiments import alexnet_pq
from jaxocr.compress import packed as packed_lib
from jaxocr.compress import rules
from jaxocr.data import digits
from jaxocr.data import idx
from jaxocr.export import bundle
from jaxocr.models import digit_net
from jaxocr.models import digit_zoo
from jaxocr.models import windows

# tensorboardX hands NumPy an array where it wants a number.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Small(digit_net.DigitNet):
  """AlexNet's layers by name, in small."""

  @nn.compact
  def __call__(self, image, hardness=1.0, *, train=False):
    x = self.conv(image, "conv1", 8, 5, strides=4, latent=False, train=train)
    x = self.bend(x, "conv1", train=train)
    x = self.conv(x, "conv2", 16, 3, padding=1, train=train)
    x = windows.max_pool(self.bend(x, "conv2", train=train), 6, 6)
    x = self.bend(self.dense(x, "fc6", 32, train=train), "fc6", train=train)
    return self.head(x, "fc8", train=train)


CONFIG = alexnet_pq.Config(
  dataset="digits",
  epochs=3,
  batch_size=16,
  learning_rate=1e-2,
  conv_d=4,
  conv_codewords=32,
  fc_codewords=8,
  last_codewords=4,
  images=48,
  tune_steps=3,
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
  found = digits.load("digits")
  few = digits.DigitSet(
    found.name,
    idx.Digits(found.train.images[:160], found.train.labels[:160]),
    idx.Digits(found.test.images[:40], found.test.labels[:40]),
    found.classes,
  )
  monkeypatch.setattr(digits, "load", lambda *args, **kwargs: few)
  monkeypatch.setitem(digit_zoo.NETWORKS, "alexnet", Small)


@pytest.mark.slow
def test_a_run_leaves_its_table_and_a_small_network(tmp_path, capsys):
  CONFIG.validate()
  figures = alexnet_pq.run(CONFIG, tmp_path / "run")
  stored = json.loads((tmp_path / "run" / "report.json").read_text())
  assert stored == figures and stored["finished"]
  names = ["float", "k-means", "single-layer", "multi-layer", "fine-tuned"]
  assert [row["name"] for row in stored["variants"]] == names
  accuracy = [row["test_accuracy"] for row in stored["variants"]]
  assert stored["accuracy_drop_uncorrected"] == accuracy[0] - accuracy[1]
  assert stored["accuracy_drop_corrected"] == accuracy[0] - accuracy[3]
  assert stored["accuracy_drop"] == accuracy[0] - accuracy[4]
  layers = {row["layer"]: row for row in stored["layers"]}
  assert [*layers] == [
    "conv2/binary_kernel",
    "fc6/binary_kernel",
    "fc8/kernel",
  ]
  for row in layers.values():
    assert row["error_after"] < row["error_before"]
    assert row["single_layer_error_after"] < row["single_layer_error_before"]
  # 36 places, 9 taps, 8 channels in two sub-spaces, 16 outputs.
  conv2 = layers["conv2/binary_kernel"]
  assert conv2["macs"] == 36 * 9 * 8 * 16
  assert conv2["codebook_bytes"] == 8 * 32 * 2
  assert conv2["code_bytes"] == 2 * 9 * 16 * 5 // 8
  assert stored["skipped"].keys() == {"conv1/kernel"}
  assert "one input channel" in capsys.readouterr().out

  # What is saved is what was judged last, and small.
  found = bundle.load_bundle(tmp_path / "run" / bundle.BUNDLE_NAME)
  leaves = jax.tree.leaves(found.params, is_leaf=packed_lib.is_packed)
  assert sum(leaf.nbytes for leaf in leaves) == stored["bytes"]
  assert stored["ratio"] == stored["float_bytes"] / stored["bytes"]
  params = rules.unpack(found.params)
  assert np.all(np.isfinite(params["fc6"]["binary_kernel"]))


def test_a_model_that_is_none_is_named(tmp_path):
  config = dataclasses.replace(CONFIG, model=str(tmp_path))
  with pytest.raises(ValueError, match="train one with --experiment=alexnet"):
    config.validate()
  with pytest.raises(ValueError, match="form='int8'; it must be float"):
    dataclasses.replace(CONFIG, form="int8").validate()
