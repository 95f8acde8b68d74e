"""Binary CRNN that reads numbers: taught by a float twin, packed in one file.

  python launch.py --experiment=bnn_crnn

Two idle cores: 13 min with installation where there is a C++ compiler. Expect
0.955 line accuracy on rendered numbers, 0.88 on receipts, in a file of 244 kB.

Stages, each from the averages of the one before: the float teacher (shipped,
or trained first) -> features become signs -> weights become signs, both taught
by its features and logits -> logits and FSP matrices -> int8 for the BiLSTM,
the head and the stem -> packed. Evaluations within a stage use hard signs, so
they read little while these are still soft.

No download and no data: the fonts that matplotlib ships are drawn on the device
inside the training step. To see how real lines fare, give a file of
path<TAB>label lines: --cfg.eval_labels=FILE.tsv
"""

import dataclasses
import itertools
import json
import os
from typing import Any

import jax

from experiments import crnn
from jaxocr import files
from jaxocr import zoo
from jaxocr.compress import distil
from jaxocr.compress import rules as rules_lib
from jaxocr.compress import summary
from jaxocr.export import bundle
from jaxocr.models import fold
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.train import distributed
from jaxocr.train import ship
from jaxocr.train import stages
from jaxocr.train import state as state_lib
from jaxocr.train import text_config
from jaxocr.train import text_run
from jaxocr.train import workdirs

# Where rows of the feature map are halved, FSP compares the two blocks between.
# This run takes the last pair: all three cost a seventh of a step.
FSP_PAIRS = (("block0", "block1"), ("block2", "block3"), ("block4", "block5"))
# Features that the student learns by heart, down to those that enter the
# BiLSTM, which starts as the teacher's.
FEATURE_TAPS = ("block1", "block3", "block5", "frames")
TEACHER_NAME = "teacher.safetensors"
ORIGIN_NAME = "teacher.json"
# Of a network with 8-bit features that starts from one without.
FRESH_RANGES = (("ranges/.*", "learnt anew, from the first batch on"),)
_SHARES = ("signs_share", "binary_share", "int8_share")


@dataclasses.dataclass(frozen=True)
class Config(text_config.TextConfig):
  """Everything that a run depends on."""

  # Px. Three in four real numeric lines are no wider at height 32; longer ones
  # are read as well, the teacher knows them.
  width: int = 96
  # Longest label: 12 px a character, as little as in real lines.
  max_length: int = 8

  # A run or file of `--experiment=crnn`. Empty: the shipped one where it has
  # the same alphabet and sizes, else one that is trained first.
  teacher: str = ""
  # Updates of a teacher that is trained first.
  teacher_steps: int = 8000

  # Updates of the student, over its four stages.
  steps: int = 9000
  # Share of the first stage, in which features become signs.
  signs_share: float = 0.1
  # Share of the second, in which weights become signs; the third, with FSP, has
  # what is left.
  binary_share: float = 0.3
  # Share of the last, which settles with int8 for what is not binary.
  int8_share: float = 0.06
  # Peak of the int8 stage's rate, which only settles what is there; three times
  # as much read 0.9509 of 10,000 lines where this read 0.9531.
  int8_learning_rate: float = 1.5e-4
  # Whether that stage also rounds the features that enter the BiLSTM and the
  # head to 8 bits; their ranges stay from its middle on.
  int8_features: bool = False

  # Weight of the FSP term, beside CTC's 1; see `compress.distil`.
  fsp: float = 1.0
  # Weight of the logits' term, a mean over frames where CTC's is a sum.
  logit: float = 24.0
  # Weight of the features' term, a mean over taps, in the first two stages. It
  # outweighs all others: the student learns features first, then to read.
  feature: float = 80.0
  # Of the logits; higher shows more of what comes second.
  temperature: float = 2.0
  # Whether the teacher's part falls to zero over each stage, so that the labels
  # have the last word.
  fade_teacher: bool = False

  def validate(self) -> None:
    """Raises ValueError for the first thing that cannot work."""
    super().validate()
    text_config.check_fields(
      self,
      [
        ("teacher_steps", "above 1", lambda v: v > 1),
        ("steps", "10 or more", lambda v: v >= 10),
        *((name, "in (0, 1)", lambda v: 0 < v < 1) for name in _SHARES),
        ("int8_learning_rate", "above 0", lambda v: v > 0),
      ],
    )
    shares = [getattr(self, name) for name in _SHARES]
    if min(round(share * self.steps) for share in shares) < 1:
      raise ValueError(
        f"steps={self.steps} leaves a stage without any; each of "
        f"{', '.join(_SHARES)} times steps must be 1 or more"
      )
    if sum(round(share * self.steps) for share in shares) >= self.steps:
      raise ValueError(
        f"{', '.join(_SHARES)} add up to 1 or more; leave some of the steps "
        "for the stage that is taught"
      )
    make_distillation(self, feature=True, fsp=True).validate()
    if self.teacher:
      alphabet = alphabet_lib.load_alphabet(self.alphabet)
      fault = misfit(load_teacher(self.teacher), self, alphabet)
      if fault:
        raise ValueError(f"teacher={self.teacher}: {fault}")


def make_distillation(
  config: Config, *, feature: bool = False, fsp: bool = False
) -> distil.Distillation:
  """What the teacher adds: its logits, and features or an FSP matrix."""
  return distil.Distillation(
    logit=config.logit,
    feature=config.feature if feature else 0.0,
    fsp=config.fsp if fsp else 0.0,
    temperature=config.temperature,
    pairs=FSP_PAIRS[-1:],
    names=FEATURE_TAPS,
  )


def make_stages(config: Config) -> tuple[stages.Stage, ...]:
  """The student's: features, weights, FSP, the rest."""
  signs, binary, int8 = (
    round(getattr(config, name) * config.steps) for name in _SHARES
  )
  hints = make_distillation(config, feature=True)
  shared = dict(
    learning_rate=config.learning_rate, fade_teacher=config.fade_teacher
  )
  return (
    stages.Stage(
      "signs", signs, harden_signs=0.6, distillation=hints, **shared
    ),
    stages.Stage(
      "binary",
      binary,
      rules=rules_lib.BINARY_KERNELS,
      harden_weights=0.4,
      distillation=hints,
      **shared,
    ),
    stages.Stage(
      "binary_fsp",
      config.steps - signs - binary - int8,
      rules=rules_lib.BINARY_KERNELS,
      distillation=make_distillation(config, fsp=True),
      **shared,
    ),
    stages.Stage(
      "int8",
      int8,
      rules=rules_lib.BINARY_SHIPPED,
      distillation=make_distillation(config),
      fresh=FRESH_RANGES if config.int8_features else (),
      **{**shared, "learning_rate": config.int8_learning_rate},
    ),
  )


def run(config: Config, workdir: str | os.PathLike) -> dict:
  """Trains, evaluates, saves; returns what report.json holds."""
  run = text_run.TextRun(config, workdir)
  twin, student = architectures(config, run.alphabet)
  teacher, origin = get_teacher(config, run, twin)
  done, weights = {}, teacher
  shipped = shipped_architecture(config, student)
  plan = [
    (stage, shipped if stage.name == "int8" else student)
    for stage in make_stages(config)
  ]
  taught = dict(teacher=(twin, teacher))
  for now, later in itertools.zip_longest(plan, plan[1:]):
    if later:
      run.expect(*later, **taught)
    weights = done[now[0].name] = run.train(*now, start=weights, **taught)
  figures = {
    "parameters": state_lib.count_parameters(done["int8"].params),
    "steps": config.steps,
    "teacher": origin,
  }
  variants, lines = [], []
  for name, weights, architecture, rules in (
    ("float", teacher, twin, rules_lib.ALL_FLOAT),
    ("binary", done["binary"], student, rules_lib.BINARY_KERNELS),
    ("binary_fsp", done["binary_fsp"], student, rules_lib.BINARY_KERNELS),
    ("packed", done["int8"], shipped, rules_lib.BINARY_SHIPPED),
  ):
    lines, scores = run.judge(weights, architecture, rules)
    variants.append({"name": name, **scores, **sizes(weights, rules)})
    run.say(row(variants[-1]))
  training = {k: v for k, v in scores.items() if k != "lines"}
  size, _ = run.save(
    bundle.BUNDLE_NAME,
    done["int8"],
    shipped,
    rules_lib.BINARY_SHIPPED,
    {**training, "seed": config.seed, **figures},
  )
  variants[-1]["file_bytes"] = size
  figures |= {**scores, "variants": variants, "bytes": size}
  return run.report(figures, lines)


def architectures(
  config: Config, alphabet: alphabet_lib.Alphabet
) -> tuple[dict, dict]:
  """Of the teacher and of the student: the same but for the signs."""
  shared = dict(backbone="binary")
  return (
    text_run.architecture(config, alphabet, binary_activations=False, **shared),
    text_run.architecture(config, alphabet, binary_activations=True, **shared),
  )


def shipped_architecture(config: Config, student: dict) -> dict:
  """Of the last stage and of what is shipped."""
  if not config.int8_features:
    return student
  steps = make_stages(config)[-1].steps
  return {**student, "activation_bits": 8, "freeze_after": max(1, steps // 2)}


def load_teacher(path: str | os.PathLike) -> bundle.Bundle:
  """Of a run's folder or a file.

  Raises:
    ValueError: There is none, or it is damaged.
  """
  if os.path.isdir(path):
    path = os.path.join(path, bundle.BUNDLE_NAME)
  if not os.path.isfile(path):
    raise ValueError(
      f"teacher={path}: there is no such file; train one with "
      "--experiment=crnn, or leave it empty"
    )
  return bundle.load_bundle(path)


def get_teacher(
  config: Config, run: text_run.TextRun, twin: dict
) -> tuple[ship.Weights, dict[str, Any]]:
  """Its weights, and where they are from: file and hash."""
  path = config.teacher or zoo.path("numeric-float")
  own = run.workdir / TEACHER_NAME
  found = load_teacher(path)
  fault = misfit(found, config, run.alphabet)
  if not fault:
    run.say(f"teacher {path}, {found.meta['content_hash'][:12]}")
    return ship.load_weights(found), hold_teacher(run, path, found)
  run.say(f"no shipped teacher fits ({fault}); training one first")
  weights = run.train(
    crnn.float_stage(config.teacher_steps, config.learning_rate), twin
  )
  ship.save(
    own, weights, twin, None, run.alphabet, {"steps": config.teacher_steps}
  )
  return weights, hold_teacher(run, own, bundle.load_bundle(own))


def sizes(weights: ship.Weights, rules: rules_lib.Rules) -> dict:
  """Bytes of the parameters in a variant's form; `ratio` against float32.

  Folded, as it would be shipped; a file has names and metadata besides.
  """
  packed = jax.eval_shape(
    lambda p, c: fold.pack_folded(p, c, rules),
    weights.params,
    weights.collections,
  )
  plain = jax.eval_shape(
    lambda p, c: fold.pack_folded(p, c, rules_lib.ALL_FLOAT),
    weights.params,
    weights.collections,
  )
  whole, float_whole = summary.summarise(packed), summary.summarise(plain)
  backbone = whole.below("backbone")
  return {
    "bytes": whole.nbytes,
    "backbone_bytes": backbone.nbytes,
    "ratio": float_whole.nbytes / whole.nbytes,
    "backbone_ratio": float_whole.below("backbone").nbytes / backbone.nbytes,
  }


def row(variant: dict) -> str:
  """One line of the table for a person."""
  text = (
    f"{variant['name']:11} rendered {variant['line_accuracy']:.3f}, "
    f"{variant['bytes']:,} bytes ({variant['ratio']:.1f} times smaller), "
    f"backbone {variant['backbone_bytes']:,} "
    f"({variant['backbone_ratio']:.1f})"
  )
  if "real" in variant:
    text += f", real {variant['real']['line_accuracy']:.3f}"
  return text


def hold_teacher(
  run: text_run.TextRun, path: str | os.PathLike, found: bundle.Bundle
) -> dict[str, str]:
  """Which teacher it is, wherever it lies; the same one to the run's end.

  Raises:
    workdirs.WorkdirError: The run began with another.
  """
  origin = {"file": os.path.basename(path), "hash": found.meta["content_hash"]}
  kept = run.workdir / ORIGIN_NAME
  if kept.exists():
    began = json.loads(kept.read_text(encoding="utf-8"))
    if began != origin:
      raise workdirs.WorkdirError(
        f"{run.workdir} began with the teacher {began['file']}, "
        f"{began['hash'][:12]}, but {path} is {origin['hash'][:12]}; put that "
        "one back, or --restart with this one"
      )
    return origin
  distributed.barrier("teacher seen")
  if distributed.is_writer():
    with files.aside(kept) as part:
      part.write_text(json.dumps(origin) + "\n", encoding="utf-8")
  return origin


def misfit(
  found: bundle.Bundle,
  config: text_config.TextConfig,
  alphabet: alphabet_lib.Alphabet,
) -> str:
  """Why a bundle cannot be the teacher, or ""."""
  twin, _ = architectures(config, alphabet)
  wanted = {**twin, "folded": False}
  given = found.meta["architecture"]
  differing = [
    f"{k} is {given.get(k)}, wanted {v}"
    for k, v in wanted.items()
    if given.get(k) != v
  ]
  if found.meta["alphabet"]["characters"] != alphabet.characters:
    differing.append("it reads other characters")
  return "; ".join(differing)
