"""How a stage begins from the weights of another; nothing is compiled."""

import jax
import numpy as np
import pytest

from experiments import bnn_ablation
from jaxocr.compress import transfer
from jaxocr.models import crnn
from jaxocr.train import sharding
from jaxocr.train import ship
from jaxocr.train import text_step

CONFIG = bnn_ablation.Config()
SIZES = dict(num_classes=5, stem_channels=2, projection=6, hidden=4)
CELLS = {cell.name: cell for cell in bnn_ablation.GRID}


def begin(name, weights, **architecture):
  """State of a cell that starts from `weights`, and the transfer report."""
  (stage,) = bnn_ablation.make_stages(CELLS[name], CONFIG)
  mesh = sharding.make_mesh(jax.devices()[:1])
  start, _ = text_step.make_step(
    CONFIG, stage, SIZES | architecture, lambda assets, keys: None, mesh
  )
  state, moved = start(weights)
  return state, transfer.describe(moved)


def teacher():
  """Weights of random numbers."""
  image = jax.ShapeDtypeStruct((1, 32, 16, 1), np.float32)
  model = crnn.CRNN(**SIZES)
  shapes = dict(jax.eval_shape(model.init, jax.random.key(0), image))
  rng = np.random.default_rng(0)
  drawn = jax.tree.map(lambda x: np.float32(rng.random(x.shape)), shapes)
  return ship.Weights(drawn.pop("params"), drawn)


def test_learnt_steps_are_set_from_their_kernels():
  weights = teacher()
  state, told = begin("bilstm_lsq4", weights)
  steps = [k for k in state.params["bilstm"] if k.endswith("_step")]
  assert len(steps) == 4
  for name in steps:
    kernel = weights.params["bilstm"][name.removesuffix("_step")]
    np.testing.assert_allclose(
      state.params["bilstm"][name], kernel.max(0) / 7 + 1e-6, rtol=1e-6
    )
    assert f"bilstm/{name} re-initialised: a step, set from its kernel" in told
  count = len(jax.tree.leaves((weights.params, weights.collections)))
  assert told.startswith(f"{count} of {count + 4} leaves copied\n")
  # A stage after that goes on with the steps that were learnt.
  params = jax.device_get(state.params)
  params["bilstm"][steps[0]] = np.full_like(params["bilstm"][steps[0]], 0.25)
  state, told = begin("bilstm_lsq4", ship.Weights(params, weights.collections))
  assert told == f"{count + 4} of {count + 4} leaves copied"
  np.testing.assert_array_equal(state.params["bilstm"][steps[0]], 0.25)


def test_ranges_begin_empty_and_are_accounted_for():
  weights = teacher()
  state, told = begin("features_int8", weights, activation_bits=8)
  assert told.count("learnt anew, from the first batch on") == 6
  assert {int(x) for x in jax.tree.leaves(state.collections["ranges"])} == {0}
  np.testing.assert_array_equal(
    state.params["head"]["kernel"], weights.params["head"]["kernel"]
  )
  with pytest.raises(transfer.TransferError, match="ranges/frames_range/count"):
    begin("base", weights, activation_bits=8)
