"""Fine-tuning of a packed digit network: codewords and offsets, codes fixed."""

from collections.abc import Mapping
import types
from typing import Any

import jax

from jaxocr.compress import opened as opened_lib
from jaxocr.data import digit_augment
from jaxocr.models import digit_zoo
from jaxocr.train import digit_run
from jaxocr.train import loop
from jaxocr.train import objective
from jaxocr.train import optimiser
from jaxocr.train import sharding
from jaxocr.train import step as step_lib
from jaxocr.train import tuning

PyTree = Any


def tune(
  run: digit_run.DigitRun,
  architecture: Mapping[str, Any],
  packed: PyTree,
  *,
  steps: int,
  learning_rate: float,
) -> PyTree:
  """Trains what may learn on the training images; the averages, packed.

  Args:
    run: Its images, batches, averages and folder; checkpoints as for a seed.
    architecture: Arguments of `digit_zoo.make`, of the folded network.
    packed: As of `rules.pack`.
    steps: Updates.
    learning_rate: Peak of Adam's; then a cosine to zero.
  """
  config = run.config
  model = digit_zoo.make(**architecture, folded=True)
  opened = opened_lib.Opened(model, packed)
  schedule = optimiser.make_schedule(
    learning_rate=learning_rate, warmup_steps=steps // 10, steps=steps
  )
  tx = tuning.make_tx(schedule, config.clip_norm)
  train_step = sharding.TrainStep(
    step_lib.make_train_step(
      opened, tx, objective.class_objective, ema_decay=config.ema_decay
    ),
    digit_augment.make_sample(config.movement(), standard=config.standard),
    run.mesh,
    batch_size=config.batch_size,
    split_assets=True,
  )
  batches, key = run.batches(config.seed), jax.random.key(config.seed)
  read = run.reader(architecture)

  def look(state):
    kernels = opened.kernels(state.ema_params, opened.fixed)
    return read(types.SimpleNamespace(ema_params=kernels, ema_collections={}))

  state = loop.fit(
    tuning.begin(opened, tx, run.mesh),
    lambda state, done: train_step(state, run.feed(batches(done)), key, done),
    look,
    plan=loop.Plan(
      steps=steps,
      batch_size=config.batch_size,
      log_every=config.log_every,
      eval_every=steps,
      checkpoint_every=max(1, steps // 4),
      keep_checkpoints=1,
      stage=tuning.NAME,
      earlier_steps=run.done,
    ),
    workdir=run.workdir,
    clock=run.clock,
    learning_rate=schedule,
  )
  return opened.pack(jax.device_get(state.ema_params))
