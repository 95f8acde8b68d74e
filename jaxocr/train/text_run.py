"""One run of a text experiment: its lines, its networks, what it leaves."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import os
import pathlib
from typing import Any
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.compress import rules as rules_lib
from jaxocr.compress import specs
from jaxocr.compress import summary
from jaxocr.compress import transfer
from jaxocr.data import atlas as atlas_lib
from jaxocr.data import corpus as corpus_lib
from jaxocr.data import preprocess
from jaxocr.data import real
from jaxocr.data import source
from jaxocr.export import bundle
from jaxocr.models import crnn
from jaxocr.models import fold
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import ctc
from jaxocr.train import clock as clock_lib
from jaxocr.train import configs
from jaxocr.train import distributed
from jaxocr.train import evaluate
from jaxocr.train import hardware
from jaxocr.train import loop
from jaxocr.train import objective
from jaxocr.train import optimiser
from jaxocr.train import report
from jaxocr.train import report_lines
from jaxocr.train import sharding
from jaxocr.train import stages as stages_lib
from jaxocr.train import state as state_lib
from jaxocr.train import step as step_lib
from jaxocr.train import text_config
from jaxocr.train import workdirs
from jaxocr.train import writers

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Weights:
  """A network's parameters and moments, on the host."""

  params: PyTree
  collections: PyTree


class TextRun:
  """What the parts of a run share.

  Attributes:
    config: Of the run.
    workdir: Its folder.
    alphabet: What is read.
    clock: Started with the run.
    files: Real lines to be judged by.
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
        as of `data.source`; None: the config's fonts, in both.

    Raises:
      workdirs.WorkdirError: The glyphs kept there are damaged or of another
        alphabet.
    """
    self.config, self.workdir = config, pathlib.Path(workdir)
    self.workdir.mkdir(parents=True, exist_ok=True)
    self.clock = clock_lib.Clock()
    self.alphabet = alphabet_lib.load_alphabet(config.alphabet)
    self.files = [
      real.read_labels(path, self.alphabet)
      for path in text_config.split_paths(config.eval_labels)
    ]
    self.say(*(file.summary() for file in self.files))
    self._mesh = sharding.make_mesh()
    if lines is None:
      assets, self.sample = make_source(config, self.alphabet, self.workdir)
      lines = assets, assets, self.sample
    learnt, judged, self.sample = lines
    whole = sharding.replicated(self._mesh)
    self._assets = sharding.place(learnt, whole)
    self._rendered = evaluate.RenderedLines(
      self.sample,
      self._assets if judged is learnt else sharding.place(judged, whole),
      self._mesh,
      batch_size=config.batch_size,
    )
    self._steps = 0  # Of the stages so far.
    self._compiled = {}  # Steps and evaluators, by what they depend on.

  def say(self, *lines: str) -> None:
    """Prints, in the process that writes."""
    if distributed.is_writer():
      for line in lines:
        print(line, flush=True)

  def train(
    self,
    stage: stages_lib.Stage,
    architecture: Mapping[str, Any],
    *,
    start: Weights | None = None,
    teacher: tuple[Mapping[str, Any], Weights] | None = None,
    seed: int | None = None,
  ) -> Weights:
    """Trains a stage, from its newest checkpoint where there is one.

    Args:
      stage: What to do.
      architecture: Arguments of `crnn.CRNN`.
      start: Weights to begin with; None for new ones.
      teacher: Its architecture and weights; used by stages that distil.
      seed: Of the training lines; None: the config's.

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
        variables(teacher[1]), sharding.replicated(self._mesh)
      )
    key = _run_key(self.config.seed if seed is None else seed, stage.name)
    evaluator = self._evaluator(architecture, stage.rules)
    state = loop.fit(
      state,
      lambda state: train_step(state, self._assets, key, taught),
      lambda state: evaluator.rendered(state, self.config.progress_lines),
      plan=loop.Plan(
        steps=stage.steps,
        batch_size=self.config.batch_size,
        log_every=self.config.log_every,
        eval_every=self.config.eval_every,
        checkpoint_every=self.config.checkpoint_every,
        keep_checkpoints=self.config.keep_checkpoints,
        stage=stage.name,
        earlier_steps=self._steps,
      ),
      workdir=self.workdir,
      clock=self.clock,
      learning_rate=stage.schedule(self.config.warmup_steps),
    )
    self._steps += stage.steps
    return Weights(*jax.device_get((state.ema_params, state.ema_collections)))

  def skip(self, steps: int) -> None:
    """Counts steps of a stage whose results are kept from earlier."""
    self._steps += steps

  def judge(
    self,
    weights: Weights,
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
    weights: Weights,
    architecture: Mapping[str, Any],
    rules: rules_lib.Rules,
    training: Mapping[str, Any],
  ) -> tuple[int, summary.Summary]:
    """Packs, folded, into `workdir`/`name`; its size and what is in it."""
    return save(
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

  def _step(self, stage, architecture, teacher):
    """As `make_step`; what is compiled serves all runs of the stage."""
    key = (stage, *(a and tuple(a.items()) for a in (architecture, teacher)))
    if key not in self._compiled:
      self._compiled[key] = make_step(
        self.config,
        stage,
        architecture,
        self.sample,
        self._mesh,
        teacher=teacher,
      )
    return self._compiled[key]

  def _evaluator(self, architecture, rules) -> evaluate.Evaluator:
    """Of a network and form; what is compiled serves all its weights."""
    architecture = {**architecture, "folded": folds(rules)}
    key = (rules, *architecture.items())
    if key not in self._compiled:
      self._compiled[key] = evaluate.Evaluator(
        crnn.CRNN(**architecture),
        self.alphabet,
        self._rendered,
        self._mesh,
        deploy=make_deploy(rules),
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


def variables(weights: Weights) -> dict:
  """As Flax takes them."""
  return {"params": weights.params, **weights.collections}


def make_deploy(rules: rules_lib.Rules) -> Callable[..., dict]:
  """(params, collections) -> variables of the model as it is shipped.

  Folded, but for rules that do not commute with it; these stay a study.
  """

  def deploy(params, collections):
    if not folds(rules):
      packed = rules_lib.pack(params, rules)
      return {"params": rules_lib.unpack(packed), **collections}
    packed = jax.device_get(pack_folded(params, collections, rules))
    return {"params": rules_lib.unpack(packed), **_kept(collections)}

  return deploy


def folds(rules: rules_lib.Rules) -> bool:
  """Whether BatchNorm may go into the kernels that `rules` compress."""
  return all(spec.folds for _, spec in rules)


def _kept(collections) -> dict:
  """What a folded model still needs: all but BatchNorm's moments."""
  return {k: v for k, v in collections.items() if k != "batch_stats"}


@functools.partial(jax.jit, static_argnames="rules")
def pack_folded(
  params: PyTree, collections: PyTree, rules: rules_lib.Rules
) -> PyTree:
  """What is shipped; compiled by itself, so that it is the same everywhere."""
  return rules_lib.pack(fold.fold(params, collections), rules)


def make_step(
  config: text_config.TextConfig,
  stage: stages_lib.Stage,
  architecture: Mapping[str, Any],
  sample: Callable,
  mesh,
  *,
  teacher: Mapping[str, Any] | None = None,
):
  """What a stage needs: (begin, step).

  `begin(weights or None)` gives a state, new or with these weights, and the
  transfer report; `step` is that of `sharding.shard_train_step`.

  Args:
    config: Optimiser, batch, dtype and seed.
    stage: What is trained and how.
    architecture: Of the network.
    sample: As of `data.source`.
    mesh: Of all devices.
    teacher: Architecture of the teacher, where the stage has one.
  """
  dtype = text_config.DTYPES[config.dtype]
  model = crnn.CRNN(**architecture, dtype=dtype)
  tx = optimiser.make_optimiser(
    stage.schedule(config.warmup_steps),
    weight_decay=config.weight_decay,
    clip_norm=config.clip_norm,
  )
  train_step = sharding.shard_train_step(
    step_lib.make_train_step(
      model,
      tx,
      stage.objective(),
      ema_decay=config.ema_decay,
      rules=stage.rules,
      hardness=stage.hardness(stage.harden_weights),
      sign_hardness=stage.hardness(stage.harden_signs),
      teacher=None if teacher is None else make_teacher(teacher, dtype),
    ),
    sample,
    mesh,
    batch_size=config.batch_size,
  )

  def new():
    image = jnp.zeros((1, preprocess.HEIGHT_PX, config.width, 1))
    return state_lib.init_state(model, tx, jax.random.key(config.seed), image)

  def begin(weights: Weights | None):
    whole = sharding.replicated(mesh)
    if weights is None:
      return jax.jit(new, out_shardings=whole)(), []
    # Only shapes are asked for: compiling random weights takes long.
    shapes = jax.eval_shape(new)
    (params, collections), moved = transfer.transfer(
      (weights.params, weights.collections), (shapes.params, shapes.collections)
    )
    state = state_lib.TrainState(
      step=np.zeros((), np.int32),
      params=params,
      collections=collections,
      opt_state=tx.init(params),
      ema_params=params,
      ema_collections=collections,
    )
    # Copies: a donated state may not hold one buffer twice.
    return sharding.place(jax.tree.map(np.array, state), whole), moved

  return begin, train_step


def make_teacher(architecture: Mapping[str, Any], dtype) -> step_lib.Teacher:
  """What a network in eval mode says, with its taps."""
  model = crnn.CRNN(**architecture, dtype=dtype)

  def teacher(variables, image):
    logits, collections = model.apply(
      variables, image, train=False, mutable=["taps"]
    )
    return objective.outputs(logits, collections)

  return teacher


def make_source(
  config: text_config.TextConfig,
  alphabet: alphabet_lib.Alphabet,
  workdir: pathlib.Path,
):
  """Lines of the config's fonts; (assets, sample) as of `data.source`.

  The glyphs are kept in the workdir, so that a resumed run draws the same even
  where fonts have come or gone.
  """
  path = workdir / "atlas.npz"
  if distributed.is_writer() and not path.exists():
    atlas_lib.save_atlas(path, text_config.draw_glyphs(config.fonts, alphabet))
  distributed.barrier("atlas")
  try:
    atlas = atlas_lib.load_atlas(path)
  except atlas_lib.FontError as error:
    raise workdirs.WorkdirError(f"{error}; --restart draws it anew") from error
  if atlas.characters != alphabet.characters:
    raise workdirs.WorkdirError(
      f"{path} holds the characters {atlas.characters!r}, but alphabet="
      f"{config.alphabet} has {alphabet.characters!r} by now; put the file "
      "back, or train in another --workdir"
    )
  return source.make_synthetic_source(
    atlas,
    corpus_lib.make_corpus(
      alphabet,
      max_length=config.max_length,
      random_share=config.random_share,
    ),
    height=preprocess.HEIGHT_PX,
    width=config.width,
    max_length=config.max_length,
    strengths=config.strengths,
  )


def save(
  path: pathlib.Path,
  weights: Weights,
  architecture: Mapping[str, Any],
  rules: rules_lib.Rules | None,
  alphabet: alphabet_lib.Alphabet,
  training: Mapping[str, Any],
) -> tuple[int, summary.Summary]:
  """Writes a bundle; its size on disk and what its parameters occupy.

  Args:
    path: Of the file.
    weights: As trained.
    architecture: Of the network that was trained.
    rules: The form of the parameters, which are folded; None saves them with
      their moments in full precision, so that training can go on from them.
    alphabet: What is read.
    training: What is said of how it came about.
  """
  if rules is None:
    params = rules_lib.pack(weights.params, rules_lib.ALL_FLOAT)
    collections, folded = weights.collections, False
  else:
    if not folds(rules):
      raise ValueError(
        f"rules {rules} hold a spec that BatchNorm cannot be folded with; ship "
        "Binary, Affine (per channel, symmetric) or Float"
      )
    params = pack_folded(weights.params, weights.collections, rules)
    collections, folded = _kept(weights.collections), True
  params = jax.device_get(params)
  if distributed.is_writer():
    bundle.save_bundle(
      path,
      params,
      collections,
      {
        "architecture": {**architecture, "folded": folded},
        "alphabet": {
          "name": alphabet.name,
          "characters": alphabet.characters,
        },
        "preprocess": {
          "height": preprocess.HEIGHT_PX,
          "frame_px": ctc.FRAME_PX,
        },
        "rules": specs.as_json(rules or rules_lib.ALL_FLOAT),
        "training": training,
      },
    )
  distributed.barrier(f"saved {path.name}")
  size = path.stat().st_size if path.exists() else 0
  return size, summary.summarise(params)


def load_weights(found: bundle.Bundle) -> Weights:
  """Of a bundle that was saved with its moments, to train on from."""
  return Weights(
    jax.device_get(rules_lib.unpack(found.params)), found.collections
  )


def _run_key(seed: int, stage: str) -> jax.Array:
  """Stages of a run see other lines, whatever their order."""
  return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stage.encode()))
