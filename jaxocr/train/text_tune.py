"""Fine-tuning of a packed recogniser: codewords and floats, codes fixed."""

from collections.abc import Mapping
import pathlib
from typing import Any

import jax
import numpy as np

from jaxocr import native
from jaxocr.compress import distil
from jaxocr.compress import opened as opened_lib
from jaxocr.compress import rules as rules_lib
from jaxocr.models import crnn
from jaxocr.train import loop
from jaxocr.train import objective
from jaxocr.train import optimiser
from jaxocr.train import sharding
from jaxocr.train import ship
from jaxocr.train import step as step_lib
from jaxocr.train import text_config
from jaxocr.train import text_run
from jaxocr.train import text_step
from jaxocr.train import tuning

PyTree = Any


def tune(
  run: text_run.TextRun,
  architecture: Mapping[str, Any],
  packed: PyTree,
  *,
  teacher: tuple[Mapping[str, Any], PyTree],
  folder: pathlib.Path,
  steps: int,
  learning_rate: float,
  logit: float,
) -> PyTree:
  """Trains what may learn on rendered lines; the averages, packed.

  Args:
    run: Its lines and averages.
    architecture: Arguments of `crnn.CRNN`, folded.
    packed: As of `rules.pack`.
    teacher: Architecture and parameters of a folded network whose logits are
      learnt as well.
    folder: For its curve and checkpoints.
    steps: Updates.
    learning_rate: Peak of Adam's; then a cosine to zero.
    logit: Weight of the teacher's logits, see `compress.distil`.
  """
  config = run.config
  dtype = text_config.DTYPES[config.dtype]
  opened = opened_lib.Opened(crnn.CRNN(**architecture, dtype=dtype), packed)
  schedule = optimiser.make_schedule(
    learning_rate=learning_rate, warmup_steps=steps // 10, steps=steps
  )
  tx = tuning.make_tx(schedule, config.clip_norm)
  learn = step_lib.make_train_step(
    opened,
    tx,
    objective.make_distilled(distil.Distillation(logit=logit)),
    ema_decay=config.ema_decay,
  )
  train_step = sharding.TrainStep(
    native.applied(learn, run.mesh.size),
    run.sample,
    run.mesh,
    batch_size=config.batch_size,
    teacher=text_step.make_teacher(tuple(teacher[0].items()), dtype),
  )
  taught = sharding.place({"params": teacher[1]}, sharding.replicated(run.mesh))
  # Other lines than those of trainings, which fold in a checksum.
  key = jax.random.fold_in(jax.random.key(config.seed), np.uint32(2**32 - 1))

  def look(state):
    kernels = opened.kernels(state.ema_params, opened.fixed)
    weights = ship.Weights(jax.device_get(kernels), {})
    lines, _ = run.judge(weights, architecture, rules_lib.ALL_FLOAT)
    return [line for line in lines if line.source == "rendered"]

  state = loop.fit(
    tuning.begin(opened, tx, run.mesh),
    lambda state, done: train_step(state, run.assets, key, done, taught),
    look,
    plan=loop.Plan(
      steps=steps,
      batch_size=config.batch_size,
      log_every=config.log_every,
      eval_every=steps,
      checkpoint_every=max(1, steps // 4),
      keep_checkpoints=1,
      stage=tuning.NAME,
    ),
    workdir=folder,
    clock=run.clock,
    learning_rate=schedule,
  )
  return opened.pack(jax.device_get(state.ema_params))
