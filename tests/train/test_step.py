import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxocr.compress import rules
from jaxocr.compress import specs
from jaxocr.models import layers
from jaxocr.train import objective
from jaxocr.train import state as state_lib
from jaxocr.train import step as step_lib
from tests.train import tiny


@functools.cache
def make_step():
  """A new state and a jitted step that must not be traced twice."""
  tx = optax.sgd(0.1)
  model = tiny.TinyModel()
  state = state_lib.init_state(
    model, tx, jax.random.key(0), jnp.zeros((1, tiny.HEIGHT, tiny.WIDTH, 1))
  )
  train_step = step_lib.make_train_step(
    model, tx, objective.ctc_objective, ema_decay=0.9
  )
  return state, jax.jit(chex.assert_max_traces(train_step, n=1))


def ctc(variables, batch, factor=1.0):
  """The loss of a tiny model in training, without any step."""
  logits, _ = tiny.TinyModel().apply(
    variables, batch.image, train=True, mutable=["batch_stats"]
  )
  outputs = objective.Outputs(factor * logits, {})
  return objective.ctc_objective(outputs, batch)[0]


def make_batch(seed=0, count=4):
  keys = jax.random.split(jax.random.key(seed), count)
  return tiny.sample(jnp.asarray(tiny.LEVELS), keys)


def test_one_step_of_gradient_descent():
  state, train_step = make_step()
  batch = make_batch()

  @jax.jit
  def loss(params):
    return ctc({"params": params, **state.collections}, batch)

  grads = jax.grad(loss)(state.params)
  new, metrics = train_step(state, batch, jax.random.key(1))
  chex.assert_trees_all_close(
    new.params,
    jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads),
    atol=1e-6,
  )
  assert int(new.step) == 1
  total, count = metrics["loss"]
  assert float(total / count) == pytest.approx(float(loss(state.params)))
  norm = float(optax.tree.norm(grads))
  assert float(metrics["grad_norm"][0]) == pytest.approx(norm, rel=1e-5)
  assert float(metrics["finite"][0]) == 1


def test_batch_norm_moments_move_by_its_momentum():
  state, train_step = make_step()
  new, _ = train_step(state, make_batch(), jax.random.key(1))
  moments = new.collections["batch_stats"]["BatchNorm_0"]
  kernel = state.params["Conv_0"]
  image = make_batch().image
  conv = jax.lax.conv_general_dilated(
    image,
    kernel["kernel"],
    (tiny.HEIGHT, 4),
    "VALID",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  mean = jnp.mean(conv, (0, 1, 2))
  chex.assert_trees_all_close(moments["mean"], 0.1 * mean, atol=1e-6)


@pytest.mark.parametrize(
  "done, expected", [(0, 1 / 10), (1, 2 / 11), (80, 0.9), (10_000, 0.9)]
)
def test_memory_of_the_averages_ramps_up(done, expected):
  decay = step_lib.ramp(0.9, jnp.array(done))
  assert float(decay) == pytest.approx(expected)


def test_averages_follow_parameters_and_moments():
  state, train_step = make_step()
  new, _ = train_step(state, make_batch(), jax.random.key(1))

  def blend(a, b):
    return 0.1 * a + 0.9 * b  # The first step keeps a tenth.

  chex.assert_trees_all_close(
    (new.ema_params, new.ema_collections),
    jax.tree.map(
      blend, (state.params, state.collections), (new.params, new.collections)
    ),
    rtol=1e-5,
    atol=1e-6,
  )


def test_integers_are_not_averaged():
  old, new = {"n": jnp.array(1)}, {"n": jnp.array(5)}
  assert int(step_lib.average(old, new, jnp.array(0.9))["n"]) == 5


def test_a_gradient_that_is_not_finite_is_flagged():
  state, train_step = make_step()
  batch = make_batch()
  batch = batch.replace(image=batch.image.at[0, 0, 0, 0].set(jnp.nan))
  _, metrics = train_step(state, batch, jax.random.key(1))
  assert float(metrics["finite"][0]) == 0


class HardeningModel(nn.Module):
  """A network whose logits show the hardness it was given."""

  @nn.compact
  def __call__(self, image, hardness=1.0, *, train=False):
    return (1 + hardness) * tiny.TinyModel()(image, train=train)


@pytest.mark.parametrize(
  "hardness, signs", [(0.0, 1.0), (0.5, 0.25), (1.0, 0.0), (None, 1.0)]
)
def test_kernels_and_signs_are_as_hard_as_their_schedules_say(hardness, signs):
  model, tx, batch = HardeningModel(), optax.sgd(0.1), make_batch()
  state = state_lib.init_state(model, tx, jax.random.key(0), batch.image)
  train_step = step_lib.make_train_step(
    model,
    tx,
    objective.ctc_objective,
    ema_decay=0.9,
    rules=rules.BINARY_KERNELS,
    hardness=None if hardness is None else lambda step: hardness + 0.0 * step,
    sign_hardness=lambda step: signs + 0.0 * step,
  )
  _, metrics = jax.jit(train_step)(state, batch, jax.random.key(1))
  hardness = 1 if hardness is None else hardness
  # By hand: alpha is the mean magnitude of a column, the sign has no zero.
  inner = dict(state.params["TinyModel_0"])
  kernel = inner["binary_kernel"]
  alpha = jnp.abs(kernel).mean(axis=0)[None]
  hard = jnp.where(kernel >= 0, alpha, -alpha)
  inner["binary_kernel"] = hardness * hard + (1 - hardness) * kernel
  moments = state.collections["batch_stats"]["TinyModel_0"]
  variables = {"params": inner, "batch_stats": moments}
  expected = ctc(variables, batch, factor=1 + signs)
  total, count = metrics["loss"]
  assert float(total / count) == pytest.approx(float(expected), rel=1e-3)


class TappedModel(nn.Module):
  """A network that shows its input as a tap."""

  @nn.compact
  def __call__(self, image, *, train=False):
    layers.tap(self, "image", image)
    return tiny.TinyModel()(image, train=train)


def test_the_objective_hears_the_teacher_who_is_no_part_of_the_state():
  batch, heard = make_batch(), []

  def compare(outputs, batch, step, taught):
    heard.append((outputs, taught))
    loss = jnp.sum(outputs.taps["image"] * taught.logits)
    loss = loss + 0.0 * jnp.sum(outputs.logits) + step
    return loss, {"loss": (loss, jnp.ones(()))}

  model, tx = TappedModel(), optax.sgd(0.1)
  state = state_lib.init_state(model, tx, jax.random.key(0), batch.image)
  train_step = jax.jit(
    step_lib.make_train_step(model, tx, compare, ema_decay=0.9)
  )
  key = jax.random.key(1)
  for done, level in ((0, 2.0), (1, 3.0)):
    said = objective.Outputs(level * batch.image, {"t": batch.image})
    new, metrics = train_step(state, batch, key, said)
    expected = level * float(jnp.sum(batch.image**2)) + done
    loss = float(metrics["loss"][0])
    assert loss == pytest.approx(expected, rel=1e-5)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert new.collections.keys() == {"batch_stats"}  # No taps.
    state = new
  (outputs, taught), *more = heard
  assert not more  # Traced once for both.
  assert outputs.taps.keys() == {"image"}
  assert taught.taps.keys() == {"t"}


LATENT_RULES = (("binary_kernel", specs.Binary()), *rules.ALL_FLOAT)


def test_latent_kernels_are_watched():
  state, _ = make_step()
  train_step = step_lib.make_train_step(
    tiny.TinyModel(),
    optax.sgd(0.1),
    objective.ctc_objective,
    ema_decay=0.9,
    rules=LATENT_RULES,
  )
  kernel = state.params["binary_kernel"]
  # The second channel is out of the estimator's reach and says 1 in every
  # frame; the others are drawn upwards, and across zero.
  kernel = (kernel * -1e-4).at[:, 1].set(5.0)
  state = state.replace(params=state.params | {"binary_kernel": kernel})
  new, metrics = train_step(state, make_batch(), jax.random.key(1))
  turned = jnp.sum((kernel >= 0) != (new.params["binary_kernel"] >= 0))
  assert 0 < int(turned) < kernel.size
  found = {k: [float(v) for v in metrics[k]] for k in metrics}
  assert found["flip_ratio"] == [float(turned), kernel.size]
  assert found["starved_share"] == [1, kernel.shape[1]]


def test_latent_kernels_of_a_float_twin_are_not():
  state, train_step = make_step()
  assert "binary_kernel" in state.params
  _, metrics = train_step(state, make_batch(), jax.random.key(1))
  assert metrics.keys() == {"loss", "grad_norm", "finite"}


def test_without_latent_kernels_nothing_is_said_of_them():
  class Plain(nn.Module):
    @nn.compact
    def __call__(self, image, *, train=False):
      return nn.Dense(4)(image[:, :, ::4, 0].swapaxes(1, 2))

  model, tx, batch = Plain(), optax.sgd(0.1), make_batch()
  state = state_lib.init_state(model, tx, jax.random.key(0), batch.image)
  train_step = step_lib.make_train_step(
    model, tx, objective.ctc_objective, ema_decay=0.9
  )
  _, metrics = jax.eval_shape(train_step, state, batch, jax.random.key(1))
  assert metrics.keys() == {"loss", "grad_norm", "finite"}
