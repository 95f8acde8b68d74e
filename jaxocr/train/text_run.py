"""One run of a text experiment: its lines, its networks, what it leaves."""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import os
import pathlib
from typing import Any
import zlib

import jax
import numpy as np

from jaxocr import native
from jaxocr.compress import rules as rules_lib
from jaxocr.compress import summary
from jaxocr.compress import transfer
from jaxocr.data import real
from jaxocr.models import crnn
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.train import clock as clock_lib
from jaxocr.train import configs
from jaxocr.train import distributed
from jaxocr.train import evaluate
from jaxocr.train import hardware
from jaxocr.train import loop
from jaxocr.train import report
from jaxocr.train import report_lines
from jaxocr.train import sharding
from jaxocr.train import ship
from jaxocr.train import stages as stages_lib
from jaxocr.train import text_config
from jaxocr.train import text_lines
from jaxocr.train import text_step
from jaxocr.train import workdirs
from jaxocr.train import writers

PyTree = Any


class TextRun:
  """What the parts of a run share.

  Attributes:
    config: Of the run.
    workdir: Its folder.
    alphabet: What is read.
    clock: Started with the run.
    files: Real lines to be judged by.
    mesh: Of all devices.
    assets: What lines are drawn from.
    sample: Draws lines from them, as of `data.source`.
  """

  def __init__(
    self,
    config: text_config.TextConfig,
    workdir: str | os.PathLike,
    *,
    lines: tuple[PyTree, PyTree, Callable] | None = None,
  ):
    """Reads the real lines and draws the glyphs.

    Args:
      config: Of the run.
      workdir: Its folder.
      lines: What they are drawn from in training, what in evaluation, and how,
        as of `data.source`; None: the config's fonts, in both, and its
        train_data in training.

    Raises:
      workdirs.WorkdirError: The glyphs kept there are damaged or of another
        alphabet, or a set of real lines cannot be read.
    """
    self.config, self.workdir = config, pathlib.Path(workdir)
    self.workdir.mkdir(parents=True, exist_ok=True)
    self.clock = clock_lib.Clock()
    self.alphabet = alphabet_lib.load_alphabet(config.alphabet)
    with text_lines.as_workdir_errors():
      self.files = [
        real.read_labels(path, self.alphabet)
        for path in text_config.split_paths(config.eval_labels)
      ]
    self.say(*(file.summary() for file in self.files))
    self.mesh = sharding.make_mesh()
    why = native.lacking(self.mesh.size)
    if why and config.dtype == "float32":
      self.say(f"training is slower without its C++ ({why})")
    self._mixed = None
    if lines is None:
      assets, sample = text_lines.make_source(
        config, self.alphabet, self.workdir
      )
      lines = assets, assets, sample
      if config.train_data:
        self._mixed = text_lines.MixedLines(
          config, self.alphabet, assets, self.mesh, self.clock
        )
        self.say(*self._mixed.notes)
    elif config.train_data:
      raise workdirs.WorkdirError(
        f"train_data={config.train_data}: this experiment draws lines of its "
        "own; leave it empty"
      )
    learnt, judged, sample = lines
    self.sample = sample
    self._training_sample = self._mixed.sample if self._mixed else sample
    whole = sharding.replicated(self.mesh)
    self.assets = sharding.place(learnt, whole)
    self._rendered = evaluate.RenderedLines(
      sample,
      self.assets if judged is learnt else sharding.place(judged, whole),
      self.mesh,
      batch_size=config.batch_size,
    )
    self._steps = collections.Counter()  # Of the stages so far, by series.
    self._compiled = {}  # Steps and evaluators, by what they depend on.
    self._expected = []  # What is to be compiled ahead: functions.

  def say(self, *lines: str) -> None:
    """Prints, in the process that writes."""
    if distributed.is_writer():
      for line in lines:
        print(line, flush=True)

  def expect(
    self,
    stage: stages_lib.Stage,
    architecture: Mapping[str, Any],
    *,
    teacher: tuple[Mapping[str, Any], ship.Weights] | None = None,
  ) -> None:
    """Says what is trained after the stage that comes now.

    It is compiled as soon as that one is under way, on the core that it leaves.
    Arguments as of `train`.
    """
    teacher = teacher if stage.distillation else None
    taught = None if teacher is None else teacher[0]
    if self._key(stage, architecture, taught) in self._compiled:
      return
    if self._mixed:
      return  # Steps of several widths: each is compiled when it comes.

    def compile():
      begin, train_step = self._step(stage, architecture, taught)
      train_step.compile(
        jax.eval_shape(lambda: begin(None)[0]),
        self.assets,
        _run_key(self.config.seed, ""),
        None if teacher is None else ship.variables(teacher[1]),
      )

    self._expected.append(compile)

  def train(
    self,
    stage: stages_lib.Stage,
    architecture: Mapping[str, Any],
    *,
    start: ship.Weights | None = None,
    teacher: tuple[Mapping[str, Any], ship.Weights] | None = None,
    seed: int | None = None,
    series: str | None = None,
  ) -> ship.Weights:
    """Trains a stage, from its newest checkpoint where there is one.

    Args:
      stage: What to do.
      architecture: Arguments of `crnn.CRNN`.
      start: Weights to begin with; None for new ones.
      teacher: Its architecture and weights; used by stages that distil.
      seed: Of the training lines; None: the config's.
      series: A folder in the run's, where stages are a training of their own,
        one of several: their curves and checkpoints lie there, and their lines
        follow each other in a sequence that depends on the seed alone, so that
        trainings of one seed see the same. None: the run is one training, and
        its stages see other lines.

    Returns:
      The averages at its end.
    """
    teacher = teacher if stage.distillation else None
    begin, train_step = self._step(
      stage, architecture, None if teacher is None else teacher[0]
    )
    state, moved = begin(start)
    if moved:
      self.say(f"stage {stage.name}: {transfer.describe(moved)}")
    taught = None
    if teacher is not None:
      taught = sharding.place(
        ship.variables(teacher[1]), sharding.replicated(self.mesh)
      )
    seed = self.config.seed if seed is None else seed
    key = _run_key(seed, stage.name if series is None else "")
    earlier = self._steps[series]
    evaluator = self._evaluator(architecture, stage.rules)

    before = 0 if series is None else earlier
    with self._feed(earlier, stage.steps, seed) as feed:

      def update(state, done):
        result = train_step(state, feed(done), key, before + done, taught)
        while self._expected:
          self._expected.pop()()
        return result

      state = loop.fit(
        state,
        update,
        lambda state: evaluator.rendered(state, self.config.progress_lines),
        plan=loop.Plan(
          steps=stage.steps,
          batch_size=self.config.batch_size,
          log_every=self.config.log_every,
          eval_every=self.config.eval_every,
          checkpoint_every=self.config.checkpoint_every,
          keep_checkpoints=self.config.keep_checkpoints,
          stage=stage.name,
          earlier_steps=earlier,
        ),
        workdir=self.workdir / (series or ""),
        clock=self.clock,
        learning_rate=stage.schedule(self.config.warmup_steps),
      )
    self._steps[series] += stage.steps
    if self._mixed:
      self.say(*self._mixed.told_broken())
    return ship.Weights(
      *jax.device_get((state.ema_params, state.ema_collections))
    )

  def draw(self, batches: int) -> Iterator[np.ndarray]:
    """Images [B, H, W, 1] of lines that neither train nor judge."""
    draw = jax.jit(lambda assets, keys: self.sample(assets, keys).image)
    for i in range(batches):
      key = jax.random.fold_in(_run_key(self.config.seed, "draw"), i)
      keys = jax.random.split(key, self.config.batch_size)
      yield np.asarray(jax.device_get(draw(self.assets, keys)))

  def judge(
    self,
    weights: ship.Weights,
    architecture: Mapping[str, Any],
    rules: rules_lib.Rules,
  ) -> tuple[list[report_lines.LineResult], dict]:
    """All lines as the shipped form of the weights reads them, and scores."""
    evaluator = self._evaluator(architecture, rules)
    state = _Averages(weights.params, weights.collections)
    lines = evaluator.rendered(state, self.config.eval_lines)
    scores = {**evaluate.score(lines), "lines": len(lines)}
    if self.files:
      read = [x for file in self.files for x in evaluator.real(state, file)]
      scores["real"] = evaluate.real_figures(read, self.files)
      lines = lines + read
    return lines, scores

  def save(
    self,
    name: str,
    weights: ship.Weights,
    architecture: Mapping[str, Any],
    rules: rules_lib.Rules,
    training: Mapping[str, Any],
  ) -> tuple[int, summary.Summary]:
    """Packs, folded, into `workdir`/`name`; its size and what is in it."""
    return ship.save(
      self.workdir / name, weights, architecture, rules, self.alphabet, training
    )

  def report(
    self, figures: Mapping[str, Any], lines: Sequence[report_lines.LineResult]
  ) -> dict:
    """Writes report.json and report.html; returns what the first holds."""
    figures = {
      **figures,
      "seed": self.config.seed,
      "hardware": hardware.describe(),
      "config": configs.as_dict(self.config),
      "lines_per_s": self.clock.lines_per_s,
      "seconds": self.clock.seconds,
      "finished": True,
    }
    if distributed.is_writer():
      page = report.write_report(
        self.workdir,
        figures,
        history=writers.read_history(self.workdir),
        lines=lines,
      )
      self.say(workdirs.figures(figures), f"report {page}")
    return figures

  def _feed(
    self, earlier: int, steps: int, seed: int
  ) -> contextlib.AbstractContextManager[Callable]:
    """Updates done -> what the step's lines are drawn from."""
    if self._mixed:
      return self._mixed.feed(self.assets, earlier, steps, seed)
    return contextlib.nullcontext(lambda done: self.assets)

  def _step(self, stage, architecture, teacher):
    """Of the stage; what is compiled serves all of its runs."""
    key = self._key(stage, architecture, teacher)
    if key not in self._compiled:
      self._compiled[key] = text_step.make_step(
        self.config,
        stage,
        architecture,
        self._training_sample,
        self.mesh,
        teacher=teacher,
        split_assets=(False, True) if self._mixed else False,
      )
    return self._compiled[key]

  def _key(self, stage, architecture, teacher):
    """What a compiled step depends on."""
    return (stage, *(a and tuple(a.items()) for a in (architecture, teacher)))

  def _evaluator(self, architecture, rules) -> evaluate.Evaluator:
    """Of a network and form; what is compiled serves all its weights."""
    architecture = {**architecture, "folded": ship.folds(rules)}
    key = (rules, *architecture.items())
    if key not in self._compiled:
      self._compiled[key] = evaluate.Evaluator(
        crnn.CRNN(**architecture),
        self.alphabet,
        self._rendered,
        self.mesh,
        deploy=ship.make_deploy(rules),
      )
    return self._compiled[key]


@dataclasses.dataclass(frozen=True)
class _Averages:
  """The part of a TrainState that is judged."""

  ema_params: PyTree
  ema_collections: PyTree


def architecture(
  config: text_config.TextConfig,
  alphabet: alphabet_lib.Alphabet,
  **changes: Any,
) -> dict:
  """Arguments of CRNN but its dtype, as the saved model states them."""
  return {
    "num_classes": alphabet.num_classes,
    "stem_channels": config.stem_channels,
    "projection": config.projection,
    "hidden": config.hidden,
    **changes,
  }


def _run_key(seed: int, stage: str) -> jax.Array:
  """Of the lines of a stage, whatever came before, or of a series ("")."""
  return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stage.encode()))
