"""Folding BatchNorm changes nothing that a network says."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import rules
from jaxocr.compress import specs
from jaxocr.models import crnn
from jaxocr.models import fold
from jaxocr.models import norm as norm_lib

SMALL = dict(num_classes=5, stem_channels=2, projection=6, hidden=4)
NETWORKS = {
  "binary": dict(backbone="binary"),
  "twin": dict(backbone="binary", binary_activations=False),
  "mobilenet": dict(backbone="mobilenet"),
}


def make(name, **more):
  return crnn.CRNN(**SMALL, **NETWORKS[name], **more)


def shapes(name, **more):
  image = jnp.zeros((1, 32, 16, 1))
  return jax.eval_shape(make(name, **more).init, jax.random.key(0), image)


def draw(name, leaf):
  """(params, collections) with each leaf as `leaf(rng, path, shape)` has it."""
  rng = np.random.default_rng(0)
  flat = flax.traverse_util.flatten_dict(dict(shapes(name)))
  drawn = {k: jnp.float32(leaf(rng, k, x.shape)) for k, x in flat.items()}
  variables = flax.traverse_util.unflatten_dict(drawn)
  return variables.pop("params"), variables


def uneven(rng, path, shape):
  """Moments and gains that all make a difference; half the gains negative."""
  if path[-1] == "var":
    return rng.uniform(0.5, 2, shape)
  if path[-1] == "scale":
    return rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)
  size = 1 / np.sqrt(np.prod(shape[:-1])) if path[-1].endswith("kernel") else 1
  return rng.normal(size=shape) * size


def dyadic(rng, path, shape):
  """Values with which a backbone of signs computes without any rounding."""
  if path[-1] == "var":
    return np.full(shape, np.float32(1) - np.float32(norm_lib.NORM_EPSILON))
  if path[-1] == "slope":
    return np.ones(shape)
  if path[-1] == "scale":
    return rng.choice([-2, -1, 1, 2], shape)
  return rng.integers(-8, 9, shape) / 8


def say(model, variables, image):
  """Logits and taps."""

  @jax.jit
  def apply(variables, image):
    return model.apply(variables, image, train=False, mutable=["taps"])

  return apply(variables, image)


@pytest.mark.parametrize("name", ["twin", "mobilenet"])
def test_logits_stay(name):
  params, collections = draw(name, uneven)
  image = jax.random.uniform(jax.random.key(1), (2, 32, 16, 1))
  before, _ = say(make(name), {"params": params, **collections}, image)
  folded = fold.fold(params, collections)
  after, _ = say(make(name, folded=True), {"params": folded}, image)
  assert float(jnp.std(before)) > 0.1
  np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_signs_stay():
  # Any rounding may turn a sign that is near to nothing; here there is none.
  params, collections = draw("binary", dyadic)
  image = jax.random.randint(jax.random.key(1), (2, 32, 16, 1), 0, 5) / 4
  before, taps = say(make("binary"), {"params": params, **collections}, image)
  folded = fold.fold(params, collections)
  model = make("binary", folded=True)
  after, folded_taps = say(model, {"params": folded}, image)
  taps, folded_taps = taps["taps"], folded_taps["taps"]
  assert len(taps["backbone"]) == 7
  for name, features in taps["backbone"].items():
    assert len(np.unique(features)) > 20, name
    np.testing.assert_array_equal(folded_taps["backbone"][name], features, name)
  np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_tree_is_that_of_a_folded_model(name):
  params, collections = draw(name, uneven)
  expected = shapes(name, folded=True)
  assert expected.keys() == {"params"}  # No moments.
  folded = jax.eval_shape(fold.fold, params, collections)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), folded) == jax.tree.map(
    lambda x: (x.shape, x.dtype), expected["params"]
  )


def test_by_hand():
  params = {
    "conv": {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]])},
    "conv_norm": {"scale": jnp.array([6.0, -2]), "bias": jnp.array([1.0, 2])},
    "head": {"kernel": jnp.ones((2, 1))},
  }
  epsilon = norm_lib.NORM_EPSILON
  moments = {"mean": jnp.array([10.0, 3]), "var": jnp.array([9, 1]) - epsilon}
  given = jax.tree.map(np.array, params)
  folded = fold.fold(params, {"batch_stats": {"conv_norm": moments}})
  # Gains are 6 / 3 and -2 / 1.
  np.testing.assert_allclose(
    folded["conv"]["kernel"], [[2, -4], [6, -8]], rtol=1e-6
  )
  assert folded["conv_norm"].keys() == {"offset"}
  np.testing.assert_allclose(
    folded["conv_norm"]["offset"], [1 - 20, 2 + 6], rtol=1e-6
  )
  np.testing.assert_array_equal(folded["head"]["kernel"], [[1], [1]])
  jax.tree.map(np.testing.assert_array_equal, params, given)  # Left alone.


@pytest.mark.parametrize("recipe", [rules.BINARY_KERNELS, rules.BINARY_SHIPPED])
def test_one_bit_kernels_and_folding_commute(recipe):
  """The network that is trained is the one that is shipped."""
  params, collections = draw("binary", uneven)

  @jax.jit
  def both(params, collections):
    faked = rules.fake(params, rules.BINARY_KERNELS)
    shipped = fold.fold(params, collections)
    return fold.fold(faked, collections), rules.fake(shipped, recipe)

  trees = [
    flax.traverse_util.flatten_dict(t) for t in both(params, collections)
  ]
  trained, shipped = trees
  kernels = [path for path in trained if path[-1] == "binary_kernel"]
  assert len(kernels) == 14
  turned = 0
  for path in kernels:
    np.testing.assert_array_equal(
      jnp.sign(shipped[path]), jnp.sign(trained[path])
    )
    # Scales are float16 on both sides.
    np.testing.assert_allclose(shipped[path], trained[path], rtol=2**-10)
    latent = flax.traverse_util.flatten_dict(params)[path]
    turned += np.sum(np.sign(latent) != np.sign(shipped[path]))
  assert turned > 100  # Where gains are negative.


@pytest.mark.parametrize(
  "names, text",
  [
    (("conv", "batch_norm", "kernel"), "batch_norm follows 0 kernels"),
    (("conv", "norm", "kernel"), "norm follows 0 kernels"),
    (("conv", "conv_norm", "weights"), "conv_norm follows 0 kernels"),
  ],
)
def test_a_norm_without_a_kernel_is_named(names, text):
  layer, norm, kernel = names
  params = {
    "net": {layer: {kernel: jnp.ones((2, 2))}, norm: _unit(("scale", "bias"))}
  }
  moments = {"batch_stats": {"net": {norm: _unit(("mean", "var"))}}}
  with pytest.raises(ValueError, match=f"net/{text}; .* called NAME_norm"):
    fold.fold(params, moments)


def test_a_norm_after_two_kernels_is_named():
  params = {
    "conv": {"a_kernel": jnp.ones((2, 2)), "b_kernel": jnp.ones((2, 2))},
    "conv_norm": _unit(("scale", "bias")),
  }
  moments = {"batch_stats": {"conv_norm": _unit(("mean", "var"))}}
  with pytest.raises(ValueError, match="conv_norm follows 2 kernels"):
    fold.fold(params, moments)


def _unit(names):
  return {name: jnp.ones(2) for name in names}


@pytest.mark.parametrize("compiled", [False, True])
def test_a_weight_of_zero_is_one_before_and_after(compiled):
  """sign(0) = +1, so a negative gain has to make it -1."""
  values = np.float32([0.0, -0.0, 1e-30, -1e-30, 0.5, -0.5])
  kernel = np.stack([values] * 4, axis=1)
  # A gain that underflows with 1e-30, and none.
  gain = np.float32([-2, 2, -1e-20, 0]) * np.sqrt(1 + norm_lib.NORM_EPSILON)
  params = {
    "conv": {"binary_kernel": kernel},
    "conv_norm": {"scale": gain, "bias": np.zeros(4, np.float32)},
  }
  moments = {"mean": np.zeros(4, np.float32), "var": np.ones(4, np.float32)}
  fold_ = jax.jit(fold.fold) if compiled else fold.fold
  folded = fold_(params, {"batch_stats": {"conv_norm": moments}})
  recipe = ((".*/binary_kernel", specs.Binary()), *rules.ALL_FLOAT)
  signs = np.where(values >= 0, 1, -1)[:, None] * np.sign(gain)[None, :3]
  latent = folded["conv"]["binary_kernel"]
  np.testing.assert_array_equal(np.where(latent >= 0, 1, -1)[:, :3], signs)
  found = rules.unpack(rules.pack(folded, recipe))["conv"]["binary_kernel"]
  # What training computes with, times the gain.
  before = rules.fake(params, recipe)["conv"]["binary_kernel"] * gain[None]
  np.testing.assert_allclose(found[:, :2], before[:, :2], rtol=1e-3)
  np.testing.assert_array_equal(found[:, 3], 0)
