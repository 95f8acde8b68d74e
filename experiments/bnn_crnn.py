"""Binary CRNN that reads numbers, trained on lines rendered from fonts.

  python launch.py --experiment=bnn_crnn

Two cores: 10 min with installation. Expect 0.91 line accuracy on rendered
numbers, 0.86 on receipts.

Signs are soft for the first 15 % of the steps and fully hard from 40 % on, so
that evaluations before then read little.

No download and no data: the fonts that matplotlib ships are drawn on the device
inside the training step. To see how real lines fare, give a file of
path<TAB>label lines: --cfg.eval_labels=FILE.tsv
"""

import dataclasses
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import optax

from jaxocr.compress import rules as rules_lib
from jaxocr.data import atlas as atlas_lib
from jaxocr.data import corpus as corpus_lib
from jaxocr.data import preprocess
from jaxocr.data import real
from jaxocr.data import render
from jaxocr.data import source
from jaxocr.export import bundle
from jaxocr.models import crnn
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
from jaxocr.train import sharding
from jaxocr.train import state as state_lib
from jaxocr.train import step
from jaxocr.train import workdirs
from jaxocr.train import writers

_POSITIVE = [
  "stem_channels",
  "projection",
  "hidden",
  "learning_rate",
  "clip_norm",
  "eval_lines",
  "progress_lines",
  "log_every",
  "eval_every",
  "checkpoint_every",
  "keep_checkpoints",
]
RULES = {
  "binary": rules_lib.BINARY_KERNELS,
  "binary_weights": rules_lib.BINARY_KERNELS,
  "mobilenet": rules_lib.ALL_FLOAT,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything that a run depends on."""

  # numeric, latin, or a file with one character a line.
  alphabet: str = "numeric"
  # Folders of more .ttf and .otf files, comma-separated.
  fonts: str = ""
  # Of the initial weights and all training lines; evaluation lines stay.
  seed: int = 0

  # Updates. Each learns from batch_size new lines.
  steps: int = 7200
  # Lines of an update, a multiple of the devices. A binary network gains more
  # from many updates than from large ones.
  batch_size: int = 32
  # Px. Three in four real numeric lines are no wider at height 32; longer ones
  # are read as well.
  width: int = 96
  # Longest label: 12 px a character, as little as in real lines.
  max_length: int = 8
  # Share of labels that are random strings, the rest look like real ones.
  random_share: float = 0.08

  # binary (weights and activations), binary_weights or mobilenet (float).
  backbone: str = "binary"
  # Channels at half height; the blocks go on from there.
  stem_channels: int = 24
  # Channels of a frame before the BiLSTM.
  projection: int = 96
  # LSTM units in each direction.
  hidden: int = 96
  # Of the computation: float32, or bfloat16 where the device is fast in it.
  dtype: str = "float32"

  # Peak of Adam's; a binary network needs and stands a high one.
  learning_rate: float = 4e-3
  # Linear warm-up; then a cosine to zero.
  warmup_steps: int = 100
  # Share of the run in which signs stay soft: frames align sooner in a float
  # network.
  soft_share: float = 0.15
  # Share of the run in which they then harden.
  hardening_share: float = 0.25
  # Of float kernels only; the run is too short to need more.
  weight_decay: float = 1e-4
  # Memory of the averages that are evaluated and saved, about 500 steps.
  ema_decay: float = 0.998
  # On the norm of all gradients; cuts the spikes of CTC's first steps.
  clip_norm: float = 5.0

  # Rendered lines of the last evaluation; 2000 give +-1.3 % at 90 %.
  eval_lines: int = 2000
  # Rendered lines of the evaluations on the way, the first of those.
  progress_lines: int = 256
  # Real lines: files of path<TAB>label, comma-separated.
  eval_labels: str = ""
  # Steps between log entries.
  log_every: int = 50
  # Steps between evaluations; each is saved with its line accuracy.
  eval_every: int = 1000
  # Steps between checkpoints, half a minute or so on two cores.
  checkpoint_every: int = 400
  # The last so many checkpoints are kept, and the best.
  keep_checkpoints: int = 2

  # How far the renderer goes with each effect.
  strengths: render.RenderStrengths = dataclasses.field(
    default_factory=render.RenderStrengths
  )

  def validate(self) -> None:
    """Raises ValueError for the first thing that cannot work."""
    alphabet = alphabet_lib.load_alphabet(self.alphabet)
    self.strengths.validate()
    sharding.check_batch_size(self.batch_size, jax.device_count())
    make_schedule(self)
    frames = self.width // ctc.FRAME_PX
    longest = (frames + 1) // 2
    rules = [
      (
        "width",
        f"a positive multiple of {ctc.FRAME_PX}",
        lambda v: v > 0 and v % ctc.FRAME_PX == 0,
      ),
      (
        "max_length",
        f"in 1..{longest}, for which width={self.width} has frames",
        lambda v: 1 <= v <= longest,
      ),
      ("backbone", f"one of {crnn.BACKBONES}", crnn.BACKBONES.__contains__),
      ("dtype", f"one of {tuple(DTYPES)}", DTYPES.__contains__),
      ("random_share", "in [0, 1]", lambda v: 0 <= v <= 1),
      ("soft_share", "in [0, 1)", lambda v: 0 <= v < 1),
      (
        "hardening_share",
        f"in [0, {1 - self.soft_share:g}), what soft_share leaves",
        lambda v: 0 <= v < 1 - self.soft_share,
      ),
      ("ema_decay", "in [0, 1)", lambda v: 0 <= v < 1),
      ("weight_decay", "0 or more", lambda v: v >= 0),
      *((name, "above 0", lambda v: v > 0) for name in _POSITIVE),
    ]
    for name, rule, holds in rules:
      value = getattr(self, name)
      if not holds(value):
        raise ValueError(f"{name}={value!r}; it must be {rule}")
    for path in _split(self.eval_labels):
      if not os.path.isfile(path):
        raise ValueError(f"eval_labels={path}: there is no such file")
    _draw_glyphs(self.fonts, alphabet)


def run(config: Config, workdir: str | os.PathLike) -> dict:
  """Trains, evaluates, saves; returns what report.json holds."""
  clock = clock_lib.Clock()
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  mesh = sharding.make_mesh()
  alphabet = alphabet_lib.load_alphabet(config.alphabet)
  files = [real.read_labels(p, alphabet) for p in _split(config.eval_labels)]
  for file in files:
    if distributed.is_writer():
      print(file.summary())
  assets, sample = make_source(config, alphabet, workdir)
  assets = sharding.place(assets, sharding.replicated(mesh))
  model = make_model(config, alphabet)
  evaluator = evaluate.Evaluator(
    model.clone(dtype=jnp.float32),  # As the saved model will be read.
    alphabet,
    sample,
    assets,
    mesh,
    batch_size=config.batch_size,
    rules=RULES[config.backbone],
  )
  state = train(config, model, sample, assets, mesh, evaluator, workdir, clock)
  return finish(config, alphabet, state, evaluator, files, workdir, clock)


def make_model(config: Config, alphabet: alphabet_lib.Alphabet) -> crnn.CRNN:
  """The network of a config."""
  return crnn.CRNN(
    **_architecture(config, alphabet), dtype=DTYPES[config.dtype]
  )


def make_source(
  config: Config, alphabet: alphabet_lib.Alphabet, workdir: pathlib.Path
):
  """Lines of the config's fonts; (assets, sample) as of `data.source`.

  The glyphs are kept in the workdir, so that a resumed run draws the same even
  where fonts have come or gone.
  """
  path = workdir / "atlas.npz"
  if distributed.is_writer() and not path.exists():
    atlas_lib.save_atlas(path, _draw_glyphs(config.fonts, alphabet))
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


def make_step(config: Config, model: crnn.CRNN, sample, mesh):
  """Returns (new state, run key, step); see `sharding.shard_train_step`."""
  tx = optimiser.make_optimiser(
    make_schedule(config),
    weight_decay=config.weight_decay,
    clip_norm=config.clip_norm,
  )
  train_step = sharding.shard_train_step(
    step.make_train_step(
      model,
      tx,
      objective.ctc_objective,
      ema_decay=config.ema_decay,
      rules=RULES[config.backbone],
      hardness=make_hardness(config),
    ),
    sample,
    mesh,
    batch_size=config.batch_size,
  )

  def start():
    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    image = jnp.zeros((1, preprocess.HEIGHT_PX, config.width, 1))
    return state_lib.init_state(model, tx, init_key, image), run_key

  state, key = jax.jit(start, out_shardings=sharding.replicated(mesh))()
  return state, key, train_step


def make_schedule(config: Config) -> optax.Schedule:
  """The learning rate after so many updates."""
  return optimiser.make_schedule(
    learning_rate=config.learning_rate,
    warmup_steps=config.warmup_steps,
    steps=config.steps,
  )


def train(config, model, sample, assets, mesh, evaluator, workdir, clock):
  """From a new state, or the newest checkpoint, to the last step's state."""
  state, key, train_step = make_step(config, model, sample, mesh)
  return loop.fit(
    state,
    lambda state: train_step(state, assets, key),
    lambda state: evaluator.rendered(state, config.progress_lines),
    plan=loop.Plan(
      steps=config.steps,
      batch_size=config.batch_size,
      log_every=config.log_every,
      eval_every=config.eval_every,
      checkpoint_every=config.checkpoint_every,
      keep_checkpoints=config.keep_checkpoints,
    ),
    workdir=workdir,
    clock=clock,
    learning_rate=make_schedule(config),
  )


def make_hardness(config: Config) -> optax.Schedule:
  """How hard the signs are after so many updates."""
  begin = round(config.soft_share * config.steps)
  rise = max(1, round(config.hardening_share * config.steps))
  return optax.linear_schedule(0.0, 1.0, rise, transition_begin=begin)


def finish(config, alphabet, state, evaluator, files, workdir, clock):
  """Evaluates, saves the model and reports; returns the report."""
  lines = evaluator.rendered(state, config.eval_lines)
  figures = {
    **evaluate.score(lines),
    "lines": len(lines),
    "parameters": state_lib.count_parameters(state.params),
    "seed": config.seed,
    "steps": config.steps,
    "hardware": hardware.describe(),
    "config": configs.as_dict(config),
    "lines_per_s": clock.lines_per_s,
    "finished": True,
  }
  if files:
    read = [line for file in files for line in evaluator.real(state, file)]
    figures["real"] = evaluate.real_figures(read, files)
    lines += read
  figures["seconds"] = clock.seconds
  # All processes fetch, one writes.
  state = jax.device_get(state)
  if distributed.is_writer():
    path = workdir / bundle.BUNDLE_NAME
    bundle.save_bundle(
      path,
      rules_lib.fake(state.ema_params, RULES[config.backbone]),
      state.ema_collections,
      {
        "architecture": _architecture(config, alphabet),
        "alphabet": {
          "name": alphabet.name,
          "characters": alphabet.characters,
        },
        "preprocess": {
          "height": preprocess.HEIGHT_PX,
          "frame_px": ctc.FRAME_PX,
        },
        "training": figures,
      },
    )
    figures["bytes"] = path.stat().st_size
    page = report.write_report(
      workdir, figures, history=writers.read_history(workdir), lines=lines
    )
    print(f"{workdirs.figures(figures)}\nmodel {path}\nreport {page}")
  return figures


@functools.cache
def _draw_glyphs(
  fonts: str, alphabet: alphabet_lib.Alphabet
) -> atlas_lib.GlyphAtlas:
  faces = atlas_lib.default_fonts() + atlas_lib.find_fonts(_split(fonts))
  return atlas_lib.build_atlas(faces, alphabet)


def _architecture(config: Config, alphabet: alphabet_lib.Alphabet) -> dict:
  """Arguments of CRNN but its dtype, as the saved model states them."""
  return {
    "num_classes": alphabet.num_classes,
    "backbone": config.backbone,
    "stem_channels": config.stem_channels,
    "projection": config.projection,
    "hidden": config.hidden,
  }


def _split(text: str) -> list[str]:
  return [part for part in text.split(",") if part]
