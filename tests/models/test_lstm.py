"""The BiLSTM against an independent implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.models import lstm

HIDDEN, CHANNELS = 6, 5


def _init(batch=3, frames=7):
  x = jax.random.normal(jax.random.key(0), (batch, frames, CHANNELS))
  module = lstm.BiLSTM(HIDDEN)
  return module, module.init(jax.random.key(1), x), x


def test_equals_numpy_loop():
  module, variables, x = _init()
  p = {k: np.asarray(v) for k, v in variables["params"].items()}

  def sigmoid(z):
    return 1 / (1 + np.exp(-z))

  def run(frames, d):
    hidden = cell = np.zeros((3, HIDDEN))
    outputs = []
    for t in range(frames.shape[1]):
      z = frames[:, t] @ p["input_kernel"][d] + p["bias"][d]
      z = z + hidden @ p["recurrent_kernel"][d]
      i, f, g, o = np.split(z, 4, axis=1)
      cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
      hidden = sigmoid(o) * np.tanh(cell)
      outputs.append(hidden)
    return np.stack(outputs, 1)

  frames = np.asarray(x)
  expected = np.concatenate(
    [run(frames, 0), run(frames[:, ::-1], 1)[:, ::-1]], axis=2
  )
  np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-6)


def test_equals_torch():
  torch = pytest.importorskip("torch")
  module, variables, x = _init()
  peer = torch.nn.LSTM(CHANNELS, HIDDEN, batch_first=True, bidirectional=True)
  # Both order the gates i, f, g, o; torch has a second bias, of the hidden.
  with torch.no_grad():
    for d, suffix in enumerate(("", "_reverse")):
      p = {k: np.array(v[d]) for k, v in variables["params"].items()}
      for ours, theirs in (
        (p["input_kernel"].T, "weight_ih_l0"),
        (p["recurrent_kernel"].T, "weight_hh_l0"),
        (p["bias"], "bias_ih_l0"),
        (np.zeros_like(p["bias"]), "bias_hh_l0"),
      ):
        getattr(peer, theirs + suffix).copy_(torch.tensor(ours.copy()))
    expected = peer(torch.tensor(np.array(x)))[0].numpy()
  np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-6)


def test_forget_gates_start_open_and_recurrence_orthogonal():
  _, variables, _ = _init()
  bias = variables["params"]["bias"].reshape(2, 4, HIDDEN)
  np.testing.assert_array_equal(bias[:, 1], 1)
  np.testing.assert_array_equal(bias[:, 0], 0)
  block = variables["params"]["recurrent_kernel"][0, :, :HIDDEN]
  np.testing.assert_allclose(block @ block.T, jnp.eye(HIDDEN), atol=1e-5)


def test_bfloat16_keeps_its_dtype_and_stays_close():
  module, variables, x = _init()
  low = lstm.BiLSTM(HIDDEN, jnp.bfloat16).apply(variables, x)
  assert low.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    low.astype(jnp.float32), module.apply(variables, x), atol=0.03
  )
