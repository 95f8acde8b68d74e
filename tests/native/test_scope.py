"""Where layers use the C++, and that a network learns the same with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr import native
from jaxocr.models import crnn
from jaxocr.native import scope
from jaxocr.train import sharding

needs_kernels = pytest.mark.skipif(
  bool(native.missing()), reason=f"no C++ kernels: {native.missing()}"
)


def _foreign_functions(function, *arguments) -> int:
  return str(jax.make_jaxpr(function)(*arguments)).count("ffi_call[")


@needs_kernels
def test_only_float32_on_one_device_and_only_inside():
  x = jnp.zeros(3)
  assert not native.active(x)
  with native.kernels():
    assert native.active(x)
    assert not native.active(x, x.astype(jnp.bfloat16))
    with native.kernels(devices=8):
      assert not native.active(x)
    assert native.active(x)
  assert not native.active(x)


def test_on_other_backends_it_is_never_asked_for(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(scope.build, "missing", lambda: pytest.fail("asked"))
  with native.kernels():
    assert not native.active(jnp.zeros(3))


def test_what_is_said_where_it_is_lacking(monkeypatch):
  monkeypatch.setattr(scope.build, "missing", lambda: "no compiler")
  assert native.lacking(1) == "no compiler"
  assert native.lacking(8) == ""
  with native.kernels():
    assert not native.active(jnp.zeros(3))


@needs_kernels
@pytest.mark.parametrize(
  "architecture",
  [
    dict(backbone="mobilenet"),
    dict(backbone="binary"),
    dict(backbone="binary", binary_activations=False),
  ],
)
def test_a_network_learns_the_same(architecture):
  model = crnn.CRNN(
    5, stem_channels=8, projection=16, hidden=16, **architecture
  )
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.uniform(size=(4, 32, 24, 1)), jnp.float32)
  weight = jnp.asarray(rng.normal(size=(4, 6, 5)), jnp.float32)
  variables = model.init(jax.random.key(0), image)
  params = variables.pop("params")

  def loss(params):
    logits, collections = model.apply(
      {"params": params, **variables},
      image,
      0.5,
      train=True,
      mutable=[*variables],
    )
    return jnp.sum(logits * weight), (logits, collections)

  def learn(devices):
    def step(params):
      with native.kernels(devices):
        return jax.value_and_grad(loss, has_aux=True)(params)

    return step

  ours, theirs = learn(1), learn(8)
  assert _foreign_functions(ours, params) > 20
  assert not _foreign_functions(theirs, params)
  (_, outputs), gradient = jax.jit(ours)(params)
  (_, wanted), wanted_gradient = jax.jit(theirs)(params)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=2e-5),
    outputs,
    wanted,
  )
  norm = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(gradient))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=2e-5 * norm),
    gradient,
    wanted_gradient,
  )


@needs_kernels
@pytest.mark.parametrize("devices", [1, 2])
def test_a_teacher_uses_it_on_one_device(devices):
  mesh = sharding.make_mesh(jax.devices()[:devices])
  teacher = sharding.shard_teacher(
    lambda variables, image: native.active(image) * image, mesh
  )
  image = jnp.ones((2, 4, 4, 1))
  assert jnp.all(teacher({}, image) == (devices == 1))
