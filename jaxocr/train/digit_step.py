"""The compiled parts of a digit run: its training step and its reader."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from jaxocr import exact
from jaxocr.compress import rules as rules_lib
from jaxocr.data import digit_augment
from jaxocr.data import digit_batches
from jaxocr.data import digits as digits_lib
from jaxocr.models import digit_zoo
from jaxocr.text import ctc
from jaxocr.train import digit_config
from jaxocr.train import objective
from jaxocr.train import optimiser
from jaxocr.train import report_lines
from jaxocr.train import sharding
from jaxocr.train import ship
from jaxocr.train import state as state_lib
from jaxocr.train import step as step_lib

Lines = list[report_lines.LineResult]


def make_step(
  config: digit_config.DigitConfig,
  architecture: Mapping[str, Any],
  mesh: Mesh,
  *,
  schedule: optax.Schedule,
  steps: int,
  make_tx: Callable[[optax.Schedule], optax.GradientTransformation]
  | None = None,
) -> tuple[Callable, Callable]:
  """Makes a `sharding.TrainStep` and `begin(key) -> state`.

  Args:
    config: Of the run.
    architecture: Arguments of `digit_zoo.make`.
    mesh: Of one axis.
    schedule: Updates done -> learning rate.
    steps: Updates of a seed; binary forms harden over a share of them.
    make_tx: Schedule -> optimiser; None: Adam by parameter group.
  """
  rules, features = digit_config.FORMS[config.form]
  hardness = None
  if rules == rules_lib.BINARY_SHIPPED:
    rise = max(1, round(config.harden * steps))
    hardness = optax.linear_schedule(0.0, 1.0, rise)
  if make_tx is None:
    tx = optimiser.make_optimiser(
      schedule,
      weight_decay=config.weight_decay,
      clip_norm=config.clip_norm,
    )
  else:
    tx = make_tx(schedule)
  model = digit_zoo.make(**architecture)
  step = sharding.TrainStep(
    step_lib.make_train_step(
      model,
      tx,
      objective.class_objective,
      ema_decay=config.ema_decay,
      rules=rules,
      hardness=hardness,
      sign_hardness=hardness if "binary_activations" in features else None,
    ),
    digit_augment.make_sample(config.movement(), standard=config.standard),
    mesh,
    batch_size=config.batch_size,
    split_assets=True,
  )
  image = jnp.zeros((1, digits_lib.SIZE_PX, digits_lib.SIZE_PX, 1))
  begin = jax.jit(
    lambda key: state_lib.init_state(model, tx, key, image),
    out_shardings=sharding.replicated(mesh),
  )
  return step, begin


def make_reader(
  config: digit_config.DigitConfig,
  architecture: Mapping[str, Any],
  found: digits_lib.DigitSet,
  mesh: Mesh,
) -> Callable[[Any], Lines]:
  """Makes `read(state)`: all test images as the shipped averages read them.

  A state is anything with `ema_params` and `ema_collections`.
  """
  rules = digit_config.FORMS[config.form][0]
  model = digit_zoo.make(**{**architecture, "folded": True})
  whole, split = sharding.replicated(mesh), sharding.split_lines(mesh)
  deploy = ship.make_deploy(rules)

  @exact.products
  def classify(variables, images):
    pixels = images.astype(jnp.float32) / 255
    image = digit_augment.prepare(pixels, standard=config.standard)
    logits = model.apply(variables, image)
    classes, sure = ctc.best_path(logits[:, None])
    return classes[:, 0], sure[:, 0]

  classify = jax.jit(classify, in_shardings=(whole, split), out_shardings=whole)

  def read(state) -> Lines:
    variables = sharding.place(
      deploy(state.ema_params, state.ema_collections), whole
    )
    lines = []
    for images, labels, mask in digit_batches.evaluation_batches(
      found.test, batch_size=config.batch_size
    ):
      seen = classify(variables, sharding.place(images, split))
      rows = zip(images, labels, *jax.device_get(seen), mask, strict=True)
      lines += [_line(found.classes, *row[:4]) for row in rows if row[4]]
    return lines

  return read


def _line(classes, image, label, digit, sure) -> report_lines.LineResult:
  """An image as a line of one character."""
  name, sure = classes[digit], float(sure)
  seen = ctc.Character(name, sure, 0, image.shape[1])
  read = ctc.Reading(name, sure, (seen,))
  return report_lines.LineResult(image, classes[label], read, "real")
