"""Networks corrected layer by layer: order, gain, going on after a stop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import rules
from jaxocr.compress import specs
from jaxocr.models import crnn
from jaxocr.models import digit_net
from jaxocr.models import layers
from jaxocr.models import windows
from jaxocr.train import codebooks


class Small(digit_net.DigitNet):
  """Two convolutions, of which d does not divide all channels, two products."""

  norm: bool = False

  @digit_net.nn.compact
  def __call__(self, image, hardness=1.0, *, train=False):
    x = self.conv(image, "conv1", 6, 3, strides=2, latent=False, train=train)
    x = self.bend(x, "conv1", train=train)
    x = self.conv(x, "conv2", 16, 3, padding=1, train=train)
    x = windows.max_pool(self.bend(x, "conv2", train=train), 2, 2)
    # Called so that names are not in the order of layers.
    x = self.bend(self.dense(x, "a_fc", 24, train=train), "a_fc", train=train)
    return self.head(x, "fc8", train=train)


RULES = (
  ("conv2/.*", specs.Codebook(4, 16)),
  ("(a_fc|fc8)/.*kernel", specs.Codebook(4, 8)),
  (".*", specs.Float("float16")),
)
KERNELS = ["conv2/binary_kernel", "a_fc/binary_kernel", "fc8/kernel"]


@pytest.fixture(scope="module", name="network")
def fixture_network():
  model = Small()
  rng = np.random.default_rng(0)
  images = rng.normal(size=(2, 48, 13, 13, 1)).astype(np.float32)
  variables = model.init(jax.random.key(0), images[0])
  return codebooks.Network(model, dict(variables), list(images))


def answers(network, packed):
  params = rules.unpack(packed) if packed else network.variables["params"]
  return np.concatenate(
    [network.model.apply({"params": params}, x) for x in network.images]
  )


def test_rows_times_kernels_are_what_layers_answer(network):
  params = network.variables["params"]
  found = network.inputs(params, network.images[0])
  assert network.order == ["conv1/kernel", *KERNELS]
  # 13 px, 3x3 / 2: 6 px; then 3 px after pooling.
  shapes = {path: rows.shape for path, rows in found.items()}
  assert shapes == {
    "conv1/kernel": (1, 48 * 36, 9),
    "conv2/binary_kernel": (1, 48 * 36, 9 * 6),
    "a_fc/binary_kernel": (1, 48, 9 * 16),
    "fc8/kernel": (1, 48, 24),
  }
  kernel = params["conv2"]["binary_kernel"]
  rows = found["conv2/binary_kernel"][0] @ kernel.reshape(-1, 16)
  _, taps = network.model.apply(
    {"params": params}, network.images[0], mutable=["taps"]
  )
  bent = jax.nn.relu(rows + params["conv2_bias"]["offset"][None])
  np.testing.assert_allclose(
    bent, taps["taps"]["conv2_tap"].reshape(-1, 16), atol=1e-5
  )


def test_correction_lowers_every_error_and_can_be_stopped(
  network, tmp_path, monkeypatch, capsys
):
  plain = rules.pack(network.variables["params"], RULES)
  run = lambda several, folder: codebooks.correct_layers(  # noqa: E731
    network, plain, several=several, sweeps=3, folder=tmp_path / folder
  )
  single, several = run(False, "single"), run(True, "several")
  for packed in (single, several):
    rows = codebooks.rows(packed)
    assert sorted(row["layer"] for row in rows) == sorted(KERNELS)
    for row in rows:
      assert row["error_after"] < 0.9 * row["error_before"], row
      assert row["d"] == 4 and row["ratio"] > 2
  # What the network says comes closer with each.
  true = answers(network, None)
  away = [
    float(np.mean((answers(network, packed) - true) ** 2))
    for packed in (plain, single, several)
  ]
  assert away[2] < away[1] < away[0]
  # The first layer with codebooks sees the same inputs either way.
  first = lambda packed: codebooks.flatten(packed)[KERNELS[0]]  # noqa: E731
  np.testing.assert_array_equal(first(single).codes, first(several).codes)
  assert "conv2/binary_kernel: pq4x16, " in capsys.readouterr().err

  # Stopped after a layer, it goes on with the next and ends the same.
  (tmp_path / "several" / "a_fc.binary_kernel.npz").unlink()
  (tmp_path / "several" / "fc8.kernel.npz").unlink()
  fitted = []
  fit = codebooks._fit
  monkeypatch.setattr(
    codebooks, "_fit", lambda *given: fitted.append(1) or fit(*given)
  )
  again = run(True, "several")
  assert len(fitted) == 2
  for a, b in zip(
    jax.tree.leaves(again), jax.tree.leaves(several), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  with pytest.raises(ValueError, match="what enters stray is not shown"):
    codebooks.correct_layers(
      network,
      {**plain, "stray": first(plain)},
      several=False,
      sweeps=1,
      folder=tmp_path,
    )


def test_every_kernel_of_the_recogniser_is_entered():
  model = crnn.CRNN(
    5, binary_activations=False, stem_channels=4, projection=8, hidden=6
  )
  image = jnp.asarray(
    np.random.default_rng(0).random((2, 32, 16, 1)), "float32"
  )
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  params = variables["params"]

  def look(variables, image):
    _, found = model.apply(variables, image, mutable=[layers.INPUTS])
    order.extend(layers.entered(params, found[layers.INPUTS]))
    return layers.entered(params, found[layers.INPUTS])

  order = []
  found = jax.eval_shape(look, dict(variables), image)
  kernels = {
    path: leaf
    for path, leaf in codebooks.flatten(params).items()
    if path.endswith("kernel")
  }
  assert found.keys() == kernels.keys()
  for path, kernel in kernels.items():
    assert found[path].shape[-1] == np.prod(kernel.shape[:-1]), path
  assert order[0] == "backbone/stem/kernel"
  assert order.index("collapse/kernel") < order.index(
    "bilstm/forward_input_kernel"
  )
  assert order[-1] == "head/kernel"
