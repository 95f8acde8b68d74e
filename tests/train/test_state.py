import jax
import jax.numpy as jnp
import optax

from jaxocr.train import state as state_lib
from tests.train import tiny


def make_state():
  return state_lib.init_state(
    tiny.TinyModel(),
    optax.sgd(0.1),
    jax.random.key(0),
    jnp.zeros((1, tiny.HEIGHT, tiny.WIDTH, 1)),
  )


def test_new_state_averages_start_at_the_parameters():
  state = make_state()
  assert int(state.step) == 0 and state.step.dtype == jnp.int32
  assert set(state.collections) == {"batch_stats"}
  for a, b in zip(
    jax.tree.leaves((state.params, state.collections)),
    jax.tree.leaves((state.ema_params, state.ema_collections)),
    strict=True,
  ):
    assert (a == b).all()


def test_new_state_can_be_donated():
  # A buffer held twice cannot be given away twice.
  taken = jax.jit(
    lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0
  )
  state = taken(make_state())
  assert int(state.step) == 1


def test_parameters_are_counted_by_hand():
  # Convolution 8 * 4 * 6, BatchNorm 6 + 6, kernel 6 * 4.
  assert state_lib.count_parameters(make_state().params) == 192 + 12 + 24
