"""One run of a digit experiment: its images, its seeds, what it leaves."""

from collections.abc import Callable, Mapping
import copy
import math
import os
import pathlib
import time
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxocr import inspection
from jaxocr.compress import rules as rules_lib
from jaxocr.data import digit_augment
from jaxocr.data import digit_batches
from jaxocr.data import digits as digits_lib
from jaxocr.data import idx
from jaxocr.export import bundle
from jaxocr.models import digit_zoo
from jaxocr.models import fold
from jaxocr.train import clock as clock_lib
from jaxocr.train import configs
from jaxocr.train import digit_board
from jaxocr.train import digit_config
from jaxocr.train import digit_figures
from jaxocr.train import digit_report
from jaxocr.train import digit_step
from jaxocr.train import distributed
from jaxocr.train import evaluate
from jaxocr.train import hardware
from jaxocr.train import loop
from jaxocr.train import objective
from jaxocr.train import optimiser
from jaxocr.train import sharding
from jaxocr.train import ship
from jaxocr.train import workdirs
from jaxocr.train import writers

_KEEP_CHECKPOINTS = 1
_SAVES = 400  # Steps between checkpoints within an epoch.
_LOOKED_AT = 1000  # Test images of which activations are looked at.

Lines = digit_step.Lines


class DigitRun:
  """What the seeds of a run share.

  Attributes:
    config: Of the run.
    workdir: Its folder.
    set: The images.
    clock: Started with the run.
    mesh: Of all devices.
    done: Steps of the seeds so far.
  """

  def __init__(
    self, config: digit_config.DigitConfig, workdir: str | os.PathLike
  ):
    """Loads the images.

    Raises:
      workdirs.WorkdirError: They cannot be had.
    """
    self.config, self.workdir = config, pathlib.Path(workdir)
    self.workdir.mkdir(parents=True, exist_ok=True)
    self.clock = clock_lib.Clock()
    try:
      # One process prepares a set, the others read it.
      if not distributed.is_writer():
        distributed.barrier("digits prepared")
      self.set = config.load()
      if distributed.is_writer():
        distributed.barrier("digits prepared")
    except (digits_lib.DataError, idx.IdxError) as error:
      raise workdirs.WorkdirError(str(error)) from error
    self.mesh = sharding.make_mesh()
    self.done = 0
    self._compiled = {}

  def with_config(self, config: digit_config.DigitConfig) -> "DigitRun":
    """The same images and folder, for what comes after the seeds so far."""
    other = copy.copy(self)
    other.config, other._compiled = config, {}
    return other

  @property
  def steps(self) -> int:
    """Updates of one seed."""
    return self.config.steps(len(self.set.train.labels))

  def say(self, *lines: str) -> None:
    """Prints, in the process that writes."""
    if distributed.is_writer():
      for line in lines:
        print(line, flush=True)

  def train(
    self,
    architecture: Mapping[str, Any],
    seed: int,
    *,
    name: str = "",
    make_tx: Callable[[optax.Schedule], optax.GradientTransformation]
    | None = None,
    schedule: optax.Schedule | None = None,
    start: ship.Weights | None = None,
  ) -> ship.Weights:
    """Trains one seed, from its newest checkpoint where there is one.

    Args:
      architecture: Arguments of `digit_zoo.make`.
      seed: Of initial weights, order and movements.
      name: Of its checkpoints; `seedN` by default.
      make_tx: Schedule -> optimiser; None: Adam by parameter group.
      schedule: Updates done -> learning rate; None: warm-up and a cosine.
      start: Weights of this architecture to begin with; None for new ones.

    Returns:
      The averages at its end.
    """
    config, steps = self.config, self.steps
    name = name or f"seed{seed}"
    schedule = schedule or self._schedule()
    step, begin = self._step(architecture, name, schedule, make_tx)
    init_key, run_key = jax.random.split(jax.random.key(seed))
    state = begin(init_key)
    if start is not None:
      state = state.replace(
        params=start.params,
        collections=start.collections,
        ema_params=start.params,
        ema_collections=start.collections,
      )
      # From the host: a donated state may not hold one buffer twice.
      whole = sharding.replicated(self.mesh)
      state = sharding.place(jax.device_get(state), whole)
    read = self.reader(architecture)
    per_epoch = math.ceil(steps / config.epochs)
    with digit_board.Board(self.workdir) as board:

      def look(state):
        board.histograms(self.done + int(state.step), state.ema_params)
        return read(state)

      state = loop.fit(
        state,
        _Feed(self, step, seed, run_key),
        look,
        plan=loop.Plan(
          steps=steps,
          batch_size=config.batch_size,
          log_every=config.log_every,
          eval_every=per_epoch,
          checkpoint_every=min(per_epoch, _SAVES),
          keep_checkpoints=_KEEP_CHECKPOINTS,
          stage=name,
          earlier_steps=self.done,
        ),
        workdir=self.workdir,
        clock=self.clock,
        learning_rate=schedule,
      )
    self.done += steps
    return ship.Weights(
      *jax.device_get((state.ema_params, state.ema_collections))
    )

  def step_ms(
    self, architecture: Mapping[str, Any], *, count: int = 5
  ) -> float:
    """Median time of an update, in milliseconds, drawing the batch included."""
    step, begin = self._step(architecture, "", self._schedule(), None)
    key = jax.random.key(0)
    state, feed = begin(key), _Feed(self, step, self.config.seed, key)
    times = []
    for done in range(count + 1):
      started = time.perf_counter()
      state, metrics = feed(state, done)
      jax.block_until_ready((state, metrics))
      times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times[1:]))  # The first compiles.

  def skip(self) -> None:
    """Counts a seed whose results are kept from earlier."""
    self.done += self.steps

  def batches(self, seed: int) -> Callable[[int], digit_batches.Pair]:
    """step -> this process's share of the training batch."""
    return digit_batches.training_batches(
      self.set.train,
      batch_size=self.config.batch_size,
      seed=seed,
      process=jax.process_index(),
      processes=jax.process_count(),
    )

  def feed(self, pair: digit_batches.Pair):
    """A process's share of a batch, on the mesh."""
    return sharding.place_share(pair, sharding.split_lines(self.mesh))

  def reader(self, architecture: Mapping[str, Any]) -> Callable[[Any], Lines]:
    """`read(state)` of `digit_step.make_reader`, made once."""
    key = ("read", *architecture.items())
    if key not in self._compiled:
      self._compiled[key] = digit_step.make_reader(
        self.config, architecture, self.set, self.mesh
      )
    return self._compiled[key]

  def judge(
    self, weights: ship.Weights, architecture: Mapping[str, Any]
  ) -> Lines:
    """All test images, as the shipped form of the weights reads them."""
    state = types.SimpleNamespace(
      ema_params=weights.params, ema_collections=weights.collections
    )
    return self.reader(architecture)(state)

  def look(
    self, weights: ship.Weights, architecture: Mapping[str, Any]
  ) -> dict[str, np.ndarray]:
    """What each layer says of the first test images, by its tap's name."""
    model = digit_zoo.make(**architecture)
    pixels = jnp.asarray(self.set.test.images[:_LOOKED_AT], jnp.float32) / 255
    image = digit_augment.prepare(pixels, standard=self.config.standard)
    params = rules_lib.fake(
      weights.params, digit_config.FORMS[self.config.form][0]
    )
    logits, collections = jax.jit(
      lambda v, x: model.apply(v, x, mutable=["taps"])
    )({"params": params, **weights.collections}, image)
    return jax.device_get(dict(objective.outputs(logits, collections).taps))

  def run_seeds(self, architecture: Mapping[str, Any]) -> dict:
    """Trains and judges every seed; saves the first; writes the report."""
    config = self.config
    accuracies, first, weights = [], None, None
    for seed in range(config.seed, config.seed + config.seeds):
      trained = self.train(architecture, seed)
      lines = self.judge(trained, architecture)
      accuracies.append(evaluate.score(lines)["line_accuracy"])
      self.say(f"seed {seed}: test accuracy {accuracies[-1]:.4f}")
      if first is None:
        first, weights = lines, trained
    sizes = digit_figures.form_sizes(weights.params, weights.collections)
    figures = {
      **digit_figures.spread(accuracies),
      "accuracies": accuracies,
      "test_images": len(first),
      **sizes,
      "bytes": sizes["bytes_of"][_kind(config.form)],
      "macs": digit_figures.count_macs(architecture),
      "epochs": config.epochs,
      "steps": self.steps,
    }
    self.save(weights, architecture, figures)
    taps = self.look(weights, architecture)
    figures["dead_units"] = digit_figures.dead_shares(taps)
    if distributed.is_writer():
      with digit_board.Board(self.workdir) as board:
        board.graph(digit_board.layer_table(architecture, weights.params))
        board.embedding(self.set, taps["last"])
    return self.report(figures, first, pictures=self._pictures())

  def _pictures(self) -> list[digit_report.Pictures]:
    """What the saved network sees of the first test image, as files."""
    if not distributed.is_writer():
      return []
    seen = inspection.inspect(
      self.workdir / bundle.BUNDLE_NAME, self.set.test.images[0]
    )
    paths = inspection.save(seen, self.workdir / inspection.FOLDER)
    return [(f"What it sees of a {seen.read}", paths)]

  def save(self, weights, architecture, figures) -> None:
    """Packs, folded, into the workdir."""
    rules = digit_config.FORMS[self.config.form][0]
    params = jax.device_get(
      fold.pack_folded(weights.params, weights.collections, rules)
    )
    kept = {k: v for k, v in weights.collections.items() if k == "ranges"}
    self.save_packed(params, architecture, figures, kept)

  def save_packed(self, params, architecture, figures, collections=()) -> None:
    """Folded and packed parameters into the workdir."""
    if distributed.is_writer():
      bundle.save_bundle(
        self.workdir / bundle.BUNDLE_NAME,
        params,
        dict(collections),
        {
          "architecture": {**architecture, "folded": True},
          "alphabet": {
            "name": self.set.name,
            "characters": list(self.set.classes),
          },
          "preprocess": {
            "size": digits_lib.SIZE_PX,
            "standard": self.config.standard,
          },
          "training": {**figures, "seed": self.config.seed},
        },
      )

  def report(self, figures: Mapping[str, Any], lines: Lines, **extra) -> dict:
    """Writes report.json and report.html; returns what the first holds."""
    figures = {
      **figures,
      "seed": self.config.seed,
      "hardware": hardware.describe(),
      "config": configs.as_dict(self.config),
      "images_per_s": self.clock.lines_per_s,
      "seconds": self.clock.seconds,
      "finished": True,
    }
    if distributed.is_writer():
      page = digit_report.write(
        self.workdir,
        figures,
        history=writers.read_history(self.workdir),
        lines=lines,
        classes=self.set.classes,
        **extra,
      )
      self.say(workdirs.figures(figures), f"report {page}")
    return figures

  def _schedule(self) -> optax.Schedule:
    return optimiser.make_schedule(
      learning_rate=self.config.learning_rate,
      warmup_steps=min(self.config.warmup_steps, self.steps // 10),
      steps=self.steps,
    )

  def _step(self, architecture, name, schedule, make_tx):
    """(step, begin): compiled once for all seeds of an optimiser."""
    key = (tuple(architecture.items()), make_tx and name)
    if key not in self._compiled:
      self._compiled[key] = digit_step.make_step(
        self.config,
        architecture,
        self.mesh,
        schedule=schedule,
        steps=self.steps,
        make_tx=make_tx,
      )
    return self._compiled[key]


class _Feed:
  """`train_step(state, done)` that asks the pipeline for the step's batch."""

  def __init__(self, run: DigitRun, step, seed: int, key):
    self._run, self._step, self._key = run, step, key
    self._batches = run.batches(seed)

  def __call__(self, state, done):
    assets = self._run.feed(self._batches(done))
    return self._step(state, assets, self._key, done)


def architecture(
  config: digit_config.DigitConfig, network: str, classes: int, **fields
) -> dict:
  """Arguments of `digit_zoo.make` for the config's form."""
  features = digit_config.FORMS[config.form][1]
  return {"network": network, "classes": classes, **features, **fields}


def _kind(form: str) -> str:
  return "binary" if form.startswith("binary") else form
