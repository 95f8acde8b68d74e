"""The settings that all experiments with lines of text share."""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp

from jaxocr.data import atlas as atlas_lib
from jaxocr.data import augment
from jaxocr.data import mixture
from jaxocr.data import render
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import ctc
from jaxocr.train import sharding

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
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


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """Lines, network, optimiser and bookkeeping of a text experiment."""

  # numeric, latin, or a file with one character a line.
  alphabet: str = "numeric"
  # Folders of more .ttf and .otf files, comma-separated.
  fonts: str = ""
  # Of the initial weights and all training lines; evaluation lines stay.
  seed: int = 0

  # Lines of an update, a multiple of the devices. A binary network gains more
  # from many updates than from large ones.
  batch_size: int = 32
  # Px. Nine in ten real numeric lines are no wider at height 32; longer ones
  # are read as well.
  width: int = 128
  # Longest label: 12 px a character, as little as in real lines.
  max_length: int = 10
  # Share of labels that are random strings, the rest look like real ones.
  random_share: float = 0.08

  # Sets of real lines to train on besides, comma-separated, in any format of
  # `jaxocr data`.
  train_data: str = ""
  # How often each of them is drawn from, comma-separated numbers; empty: as
  # often as it has lines.
  train_weights: str = ""
  # Share of a step's lines that is rendered, where there are real ones.
  rendered_share: float = 0.5
  # Px: widths of a step's lines, comma-separated; each is compiled for. Real
  # lines go to the narrowest that holds them. Empty: `width` alone.
  train_widths: str = ""
  # Processes that read and scale real lines, each of which holds all labels and
  # takes seconds to start; 0: two threads of this one, which mostly suffice.
  train_workers: int = 0

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
  # Real lines: sets in any format of `jaxocr data`, comma-separated.
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
  # How far real training lines are changed.
  real_strengths: render.RenderStrengths = dataclasses.field(
    default_factory=lambda: augment.REAL_STRENGTHS
  )

  def sources(self) -> tuple[mixture.Source, ...]:
    """What train_data and train_weights say."""
    paths = split_paths(self.train_data)
    weights = _numbers("train_weights", self.train_weights, float)
    if weights and len(weights) != len(paths):
      raise ValueError(
        f"train_weights={self.train_weights} for {len(paths)} sets of "
        f"train_data={self.train_data}; give one for each, or none"
      )
    if not all(0 < weight < float("inf") for weight in weights):
      raise ValueError(
        f"train_weights={self.train_weights}; each must be above 0"
      )
    pairs = zip(paths, weights or [None] * len(paths), strict=True)
    return tuple(mixture.Source(*pair) for pair in pairs)

  def widths(self) -> tuple[int, ...]:
    """Those of train_widths, or `width`."""
    given = _numbers("train_widths", self.train_widths, int)
    return tuple(sorted(given)) or (self.width,)

  def validate(self) -> None:
    """Raises ValueError for the first thing that cannot work."""
    alphabet = alphabet_lib.load_alphabet(self.alphabet)
    self.strengths.validate()
    sharding.check_batch_size(self.batch_size, jax.device_count())
    frames = self.width // ctc.FRAME_PX
    longest = (frames + 1) // 2
    check_fields(
      self,
      [
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
        ("dtype", f"one of {tuple(DTYPES)}", DTYPES.__contains__),
        ("random_share", "in [0, 1]", lambda v: 0 <= v <= 1),
        ("rendered_share", "in [0, 1)", lambda v: 0 <= v < 1),
        ("ema_decay", "in [0, 1)", lambda v: 0 <= v < 1),
        ("weight_decay", "0 or more", lambda v: v >= 0),
        ("warmup_steps", "0 or more", lambda v: v >= 0),
        ("train_workers", "0 or more", lambda v: v >= 0),
        *((name, "above 0", lambda v: v > 0) for name in _POSITIVE),
      ],
    )
    for name in ("eval_labels", "train_data"):
      for path in split_paths(getattr(self, name)):
        if not os.path.exists(path) and not path.startswith("tfds:"):
          raise ValueError(f"{name}={path}: there is no such file or folder")
    self.real_strengths.validate()
    self.sources()
    for width in self.widths():
      frames = width // ctc.FRAME_PX
      if width % ctc.FRAME_PX or self.max_length > (frames + 1) // 2:
        raise ValueError(
          f"train_widths={self.train_widths}: {width} must be a multiple of "
          f"{ctc.FRAME_PX} with frames for max_length={self.max_length}"
        )
    others = ("train_weights", "train_widths", "train_workers")
    given = [f"{x}={getattr(self, x)}" for x in others if getattr(self, x)]
    if given and not self.train_data:
      raise ValueError(
        f"{', '.join(given)} without real lines; give train_data"
      )
    draw_glyphs(self.fonts, alphabet)


def check_fields(config, rules) -> None:
  """Raises ValueError for the first field that breaks its rule.

  Args:
    config: Any dataclass.
    rules: (field name, the rule in words, value -> whether it holds).
  """
  for name, rule, holds in rules:
    value = getattr(config, name)
    if not holds(value):
      raise ValueError(f"{name}={value!r}; it must be {rule}")


@functools.cache
def draw_glyphs(
  fonts: str, alphabet: alphabet_lib.Alphabet
) -> atlas_lib.GlyphAtlas:
  """The glyphs of the default fonts and of those in the folders `fonts`."""
  faces = atlas_lib.default_fonts() + atlas_lib.find_fonts(split_paths(fonts))
  return atlas_lib.build_atlas(faces, alphabet)


def _numbers(name: str, text: str, kind: type) -> list:
  try:
    return [kind(part) for part in split_paths(text)]
  except ValueError as error:
    raise ValueError(
      f"{name}={text}; write {kind.__name__} numbers, comma-separated"
    ) from error


def split_paths(text: str) -> list[str]:
  """The parts of a comma-separated setting."""
  return [part for part in text.split(",") if part]
