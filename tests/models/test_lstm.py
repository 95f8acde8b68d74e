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

  def run(frames, direction):
    w_in, w_rec, bias = (
      p[f"{direction}_{name}"]
      for name in ("input_kernel", "recurrent_kernel", "bias")
    )
    hidden = cell = np.zeros((3, HIDDEN))
    outputs = []
    for t in range(frames.shape[1]):
      z = frames[:, t] @ w_in + hidden @ w_rec + bias
      i, f, g, o = np.split(z, 4, axis=1)
      cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
      hidden = sigmoid(o) * np.tanh(cell)
      outputs.append(hidden)
    return np.stack(outputs, 1)

  frames = np.asarray(x)
  expected = np.concatenate(
    [run(frames, "forward"), run(frames[:, ::-1], "backward")[:, ::-1]], axis=2
  )
  np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-6)


def test_equals_torch_in_value_and_gradient():
  torch = pytest.importorskip("torch")
  module, variables, x = _init()
  peer = torch.nn.LSTM(CHANNELS, HIDDEN, batch_first=True, bidirectional=True)
  # Both order the gates i, f, g, o; torch has a second bias, of the hidden.
  names = {
    "input_kernel": "weight_ih_l0",
    "recurrent_kernel": "weight_hh_l0",
    "bias": "bias_ih_l0",
  }
  suffixes = {"forward": "", "backward": "_reverse"}
  with torch.no_grad():
    for direction, suffix in suffixes.items():
      getattr(peer, "bias_hh_l0" + suffix).zero_()
      for ours, theirs in names.items():
        value = np.array(variables["params"][f"{direction}_{ours}"].T)
        getattr(peer, theirs + suffix).copy_(torch.tensor(value))
  frames = torch.tensor(np.array(x), requires_grad=True)
  expected = peer(frames)[0]
  expected.square().sum().backward()

  out = module.apply(variables, x)
  np.testing.assert_allclose(out, expected.detach().numpy(), atol=1e-6)
  gradients, dx = jax.grad(
    lambda v, x: jnp.sum(module.apply(v, x) ** 2), (0, 1)
  )(variables, x)
  np.testing.assert_allclose(dx, frames.grad.numpy(), atol=1e-5)
  for direction, suffix in suffixes.items():
    for ours, theirs in names.items():
      np.testing.assert_allclose(
        gradients["params"][f"{direction}_{ours}"].T,
        getattr(peer, theirs + suffix).grad.numpy(),
        atol=1e-5,
      )


def test_kernel_gradient_needs_no_torch():
  projected = jax.random.normal(jax.random.key(0), (5, 2, 3, 4 * HIDDEN))
  w_rec = jax.random.normal(jax.random.key(1), (2, HIDDEN, 4 * HIDDEN)) / 4

  def gradients(f):
    loss = lambda *a: jnp.sum(jnp.sin(f(*a, jnp.float32)))  # noqa: E731
    return jax.grad(loss, (0, 1))(projected, w_rec)

  # As JAX itself derives the scan.
  both = zip(gradients(lstm._recur), gradients(lstm._scan), strict=True)
  for a, b in both:
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_forget_gates_start_open_and_recurrence_orthogonal():
  _, variables, _ = _init()
  params = variables["params"]
  blocks = []
  for direction in lstm.DIRECTIONS:
    bias = params[f"{direction}_bias"].reshape(4, HIDDEN)
    np.testing.assert_array_equal(bias[1], 1)
    np.testing.assert_array_equal(bias[jnp.array([0, 2, 3])], 0)
    kernel = params[f"{direction}_recurrent_kernel"]
    blocks += jnp.split(kernel, 4, axis=1)
  for block in blocks:
    np.testing.assert_allclose(block @ block.T, jnp.eye(HIDDEN), atol=1e-5)
  # Each drawn by itself.
  assert not any((a == b).any() for a in blocks for b in blocks if a is not b)


def test_each_kernel_has_a_gate_row_for_its_last_axis():
  _, variables, _ = _init()
  assert jax.tree.map(jnp.shape, variables["params"]) == {
    f"{direction}_{name}": shape
    for direction in ("forward", "backward")
    for name, shape in {
      "input_kernel": (CHANNELS, 4 * HIDDEN),
      "recurrent_kernel": (HIDDEN, 4 * HIDDEN),
      "bias": (4 * HIDDEN,),
    }.items()
  }


def test_backward_is_forward_on_reversed_frames():
  module, variables, x = _init()
  params = variables["params"]
  swapped = {
    f"{theirs}_{name}": params[f"{ours}_{name}"]
    for ours, theirs in (("forward", "backward"), ("backward", "forward"))
    for name in ("input_kernel", "recurrent_kernel", "bias")
  }
  there = module.apply(variables, x)
  back = module.apply({"params": swapped}, x[:, ::-1])[:, ::-1]
  back = jnp.roll(back, HIDDEN, axis=-1)
  np.testing.assert_allclose(back, there, atol=1e-6)


def test_bfloat16_keeps_its_dtype_and_stays_close():
  module, variables, x = _init()
  low = lstm.BiLSTM(HIDDEN, jnp.bfloat16).apply(variables, x)
  assert low.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    low.astype(jnp.float32), module.apply(variables, x), atol=0.03
  )
