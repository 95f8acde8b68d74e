"""The one-bit fully connected network."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import rules
from jaxocr.compress import specs
from jaxocr.models import mlp

HIDDEN = (6, 5)


def _init(**more):
  model = mlp.BinaryMLP(HIDDEN, 4, **more)
  image = jax.random.uniform(jax.random.key(0), (8, 3, 4, 1))
  return model, jax.jit(model.init)(jax.random.key(1), image), image


def _one_bit(variables):
  params = rules.fake(variables["params"], rules.BINARY_KERNELS)
  return {**variables, "params": params}


@pytest.mark.parametrize(
  "hidden, weights, channels",
  [
    # FINN, Umuroglu et al. 2017: 2.9, 0.33 and 0.06 million weights.
    ((1024, 1024, 1024), 784 * 1024 + 2 * 1024**2 + 10240, 3 * 1024 + 10),
    ((256, 256, 256), 784 * 256 + 2 * 256**2 + 2560, 3 * 256 + 10),
    ((64, 64, 64), 784 * 64 + 2 * 64**2 + 640, 3 * 64 + 10),
  ],
)
def test_sizes(hidden, weights, channels):
  model = mlp.BinaryMLP(hidden)
  params = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
  )["params"]
  forms = rules.match(params, rules.BINARY_KERNELS)
  flat = flax.traverse_util.flatten_dict(params)
  sizes = {specs.Binary(): 0, specs.Float(): 0}
  for path, spec in flax.traverse_util.flatten_dict(forms).items():
    sizes[spec] += flat[path].size
  assert sizes == {specs.Binary(): weights, specs.Float(): 2 * channels}


def test_logits_by_numpy():
  model, variables, image = _init()
  rng = np.random.default_rng(0)
  # Moments, gains (some negative) and offsets that all make a difference.
  variables = jax.tree.map(np.array, variables)
  for name in ("hidden0_norm", "hidden1_norm", "logits_norm"):
    moments = variables["batch_stats"][name]
    norm = variables["params"][name]
    shape = moments["mean"].shape
    moments["mean"], moments["var"] = rng.normal(size=shape), rng.random(shape)
    norm["scale"], norm["bias"] = rng.normal(size=shape), rng.normal(size=shape)
  variables = jax.tree.map(np.float32, variables)
  one_bit = _one_bit(variables)

  x = np.where(np.asarray(image).reshape(8, 12) >= 0.5, 1.0, -1.0)
  for name in ("hidden0", "hidden1", "logits"):
    kernel = np.asarray(one_bit["params"][name]["binary_kernel"])
    moments = variables["batch_stats"][f"{name}_norm"]
    norm = variables["params"][f"{name}_norm"]
    x = (x @ kernel - moments["mean"]) / np.sqrt(moments["var"] + 1e-5)
    x = x * norm["scale"] + norm["bias"]
    if name != "logits":
      x = np.where(x >= 0, 1.0, -1.0)

  np.testing.assert_allclose(model.apply(one_bit, image), x, rtol=1e-4)
  np.testing.assert_allclose(jax.jit(model.apply)(one_bit, image), x, rtol=1e-4)


def test_only_signs_enter_a_product(monkeypatch):
  model, variables, image = _init()
  seen = []

  def product(x, kernel):
    seen.append((x, kernel))
    return x @ kernel

  monkeypatch.setattr(mlp.layers, "product", product)
  model.apply(_one_bit(variables), image)
  assert [kernel.shape for _, kernel in seen] == [(12, 6), (6, 5), (5, 4)]
  for x, kernel in seen:
    assert set(np.unique(x)) == {-1, 1}
    # Two values an output channel.
    assert (np.abs(kernel) == np.abs(kernel[:1])).all()


def test_a_pixel_is_plus_one_from_one_half_on(monkeypatch):
  seen = []
  model = mlp.BinaryMLP((), 2)
  image = jnp.array([0, 127, 128, 255]).reshape(1, 2, 2, 1) / 255
  variables = model.init(jax.random.key(0), image)
  monkeypatch.setattr(
    mlp.layers, "product", lambda x, kernel: seen.append(x) or x @ kernel
  )
  model.apply(variables, image)
  model.apply(variables, jnp.full((1, 2, 2, 1), 0.5))
  assert [x.tolist() for x in seen] == [[[-1, -1, 1, 1]], [[1, 1, 1, 1]]]


def test_dropout_is_of_training_only(monkeypatch):
  model = mlp.BinaryMLP((400,), 2, dropout=0.5)
  image = jnp.ones((1, 20, 20, 1))
  variables = model.init(jax.random.key(0), image)
  seen = []
  monkeypatch.setattr(
    mlp.layers, "product", lambda x, kernel: seen.append(x) or x @ kernel
  )

  def zeros(train):
    seen.clear()
    model.apply(
      variables,
      image,
      train=train,
      mutable=["batch_stats"],
      rngs={"dropout": jax.random.key(2)},
    )
    return [float(jnp.mean(x == 0)) for x in seen]

  assert zeros(train=False) == [0, 0]
  # 400 draws: +-0.1 is four standard deviations.
  assert zeros(train=True) == pytest.approx([0, 0.5], abs=0.1)


def test_every_parameter_gets_a_gradient():
  model, variables, image = _init()
  goal = jax.random.normal(jax.random.key(2), (8, 4))

  def loss(params):
    variables_ = _one_bit({**variables, "params": params})
    logits, _ = model.apply(
      variables_, image, train=True, mutable=["batch_stats"]
    )
    return jnp.sum(logits * goal)

  grads = jax.jit(jax.grad(loss))(variables["params"])
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    assert jnp.isfinite(leaf).all() and jnp.any(leaf != 0), path


def test_bfloat16_computes_low_and_keeps_float32_state():
  model, variables, image = _init(dtype=jnp.bfloat16)
  logits, updates = model.apply(
    variables, image, train=True, mutable=["batch_stats"]
  )
  assert logits.dtype == jnp.float32
  for leaf in jax.tree.leaves((variables["params"], updates)):
    assert leaf.dtype == jnp.float32
