"""Shapes, one-bit features and gradients of the whole network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import rules
from jaxocr.compress import specs
from jaxocr.models import binary
from jaxocr.models import crnn

SMALL = dict(num_classes=5, stem_channels=4, projection=6, hidden=4)


def _init(backbone, width=32, **more):
  model = crnn.CRNN(backbone=backbone, **(SMALL | more))
  image = jax.random.uniform(jax.random.key(0), (2, 32, width, 1))
  return model, jax.jit(model.init)(jax.random.key(1), image), image


NETWORKS = [
  dict(backbone="binary"),
  dict(backbone="binary", binary_activations=False),
  dict(backbone="mobilenet"),
]


@pytest.mark.parametrize("network", NETWORKS)
def test_one_frame_every_four_pixels_at_any_width(network):
  model = crnn.CRNN(**network, **SMALL)
  key = jax.random.key(0)
  for width in (32, 52, 256):
    image = jnp.zeros((1, 32, width, 1))
    logits, _ = jax.eval_shape(model.init_with_output, key, image)
    assert logits.shape == (1, width // 4, 5)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("backbone", ["binary", "mobilenet"])
def test_bfloat16_computes_low_and_keeps_float32_state(backbone):
  model = crnn.CRNN(backbone=backbone, dtype=jnp.bfloat16, **SMALL)

  def train(key, image):
    variables = model.init(key, image)
    return variables, *model.apply(
      variables, image, train=True, mutable=["batch_stats", "taps"]
    )

  variables, logits, updates = jax.eval_shape(
    train, jax.random.key(0), jnp.zeros((2, 32, 32, 1))
  )
  taps = dict(updates.pop("taps"))["backbone"]
  assert {leaf.dtype for leaf in jax.tree.leaves(taps)} == {
    jnp.dtype(jnp.bfloat16)
  }
  assert logits.dtype == jnp.float32
  for leaf in jax.tree.leaves((variables["params"], updates)):
    assert leaf.dtype == jnp.float32


def test_every_backbone_convolution_but_the_stem_is_latent_binary():
  _, variables, _ = _init("binary")
  found = rules.match(variables["params"], rules.BINARY_KERNELS)
  backbone = jax.tree_util.tree_leaves_with_path(
    found["backbone"], is_leaf=lambda s: isinstance(s, specs.Spec)
  )
  shapes = jax.tree.leaves(variables["params"]["backbone"])
  for (path, spec), weights in zip(backbone, shapes, strict=True):
    convolution = weights.ndim == 4 and "stem" not in rules.path_name(path)
    assert isinstance(spec, specs.Binary) == convolution, path


def test_binary_features_enter_the_convolution_as_signs():
  """Scaling the input of a `BinaryConv` changes its shortcut only."""
  x = jax.random.normal(jax.random.key(0), (1, 4, 4, 3))
  layer = binary.BinaryConv(3)
  variables = layer.init(jax.random.key(1), x, 1.0, train=False)
  bend = {
    "slope": jnp.ones(3),
    "before": {"offset": jnp.zeros(3)},
    "after": {"offset": jnp.zeros(3)},
  }
  variables = {**variables, "params": {**variables["params"], "bend": bend}}
  small = layer.apply(variables, x, 1.0, train=False) - x
  large = layer.apply(variables, 8 * x, 1.0, train=False) - 8 * x
  np.testing.assert_allclose(small, large, atol=1e-5)


def test_weights_only_leaves_features_real():
  x = jax.random.normal(jax.random.key(0), (1, 4, 4, 3))
  layer = binary.BinaryConv(3, binary_activations=False)
  variables = layer.init(jax.random.key(1), x, 1.0, train=False)
  assert (
    float(
      jnp.max(
        jnp.abs(
          layer.apply(variables, x, 1.0, train=False)
          - layer.apply(variables, 8 * x, 1.0, train=False)
          + 7 * x
        )
      )
    )
    > 0.1
  )


def test_every_parameter_of_the_binary_network_gets_a_gradient():
  model, variables, image = _init("binary", width=64)

  def loss(params):
    logits, _ = model.apply(
      {**variables, "params": rules.fake(params, rules.BINARY_KERNELS)},
      image,
      train=True,
      mutable=["batch_stats"],
    )
    return jnp.sum(jax.nn.log_softmax(logits)[..., 1])

  gradients = jax.jit(jax.grad(loss))(variables["params"])
  for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
    assert bool(jnp.all(jnp.isfinite(gradient)))
    assert float(jnp.max(jnp.abs(gradient))) > 0, rules.path_name(path)


@pytest.mark.parametrize("network", NETWORKS)
def test_taps(network):
  model, variables, image = _init(**network)
  assert variables.keys() == {"params", "batch_stats"}  # No taps.
  logits, found = jax.jit(lambda v, x: model.apply(v, x, mutable=["taps"]))(
    variables, image
  )
  assert found.keys() == {"taps"}
  taps = dict(found["taps"])
  backbone = taps.pop("backbone")
  assert taps.keys() == {"frames_tap"}
  assert taps["frames_tap"].shape == (2, 1, 8, 6)
  # Rows are halved in the blocks 0, 2 and 4, columns in block 0.
  channels = 4 * np.array([2, 2, 4, 4, 4, 4])
  if network["backbone"] == "mobilenet":
    channels = [64, 64, 128, 128, 128, 128]
  rows = [8, 8, 4, 4, 2, 2]
  assert {name: x.shape for name, x in backbone.items()} == {
    "stem_tap": (2, 16, 16, 4),
    **{
      f"block{i}_tap": (2, h, 8, c)
      for i, (h, c) in enumerate(zip(rows, channels, strict=True))
    },
  }
  np.testing.assert_allclose(
    jax.jit(model.apply)(variables, image), logits, rtol=1e-5, atol=1e-6
  )


def test_the_float_twin_has_the_parameters_of_the_binary_network():
  _, student, _ = _init("binary")
  _, twin, _ = _init("binary", binary_activations=False)
  assert jax.tree.map(jnp.shape, student) == jax.tree.map(jnp.shape, twin)


def test_the_float_twin_hears_of_no_hardness():
  for network, same in zip(NETWORKS, (False, True, True), strict=True):
    model, variables, image = _init(**network)
    apply = jax.jit(model.apply)
    soft = apply(variables, image, jnp.float32(0.0))
    hard = apply(variables, image, jnp.float32(1.0))
    assert bool(jnp.all(soft == hard)) == same, network


def test_bad_shapes_and_backbones_are_named():
  model, variables, _ = _init("binary")
  with pytest.raises(ValueError, match=r"\(1, 32, 30, 1\).*W by 4"):
    model.apply(variables, jnp.zeros((1, 32, 30, 1)))
  with pytest.raises(ValueError, match="backbone='tiny'"):
    _init("tiny")
