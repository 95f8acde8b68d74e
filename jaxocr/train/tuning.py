"""What the fine-tuning of packed networks shares: its start and its rule."""

import jax
import optax

from jaxocr.compress import opened as opened_lib
from jaxocr.train import sharding
from jaxocr.train import state as state_lib

NAME = "tuned"  # Of its checkpoints.


def begin(
  opened: opened_lib.Opened, tx: optax.GradientTransformation, mesh
) -> state_lib.TrainState:
  """The state that training an opened network starts from."""
  fixed = {opened_lib.FIXED: opened.fixed}
  state = state_lib.TrainState(
    step=jax.numpy.zeros((), "int32"),
    params=opened.params,
    collections=fixed,
    opt_state=tx.init(opened.params),
    ema_params=opened.params,
    ema_collections=fixed,
  )
  # From the host: a donated state may not hold one buffer twice.
  return sharding.place(jax.device_get(state), sharding.replicated(mesh))


def make_tx(schedule: optax.Schedule, clip_norm: float):
  """Adam without decay: codewords are few and all of them used."""
  return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(schedule))
