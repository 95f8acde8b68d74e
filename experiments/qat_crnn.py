"""8-bit CRNN that reads numbers: rounded after training, and in training.

  python launch.py --experiment=qat_crnn

The float network (shipped, or trained first) three times: as it is; with 8-bit
weights and features whose ranges were seen on 512 lines (post); and trained on
with both (qat), taught by its own float logits. What they read, weigh and cost
goes to table.md, with the time of a line on each engine that is installed.

One busy core: 11 min. Expect 0.97 line accuracy on rendered numbers and 0.88 on
receipts of all three.

Convolutions have weights within +-63, so that no engine's 16-bit sums of two
products saturate; the BiLSTM has all 8 bits; the head stays float.
"""

import dataclasses
import os
import pathlib
from typing import Any

from experiments import bnn_crnn
from jaxocr import describe
from jaxocr import exporting
from jaxocr import files
from jaxocr import reader as reader_lib
from jaxocr.compress import affine
from jaxocr.compress import distil
from jaxocr.compress import rules as rules_lib
from jaxocr.compress import specs
from jaxocr.export import bundle
from jaxocr.export import check
from jaxocr.export import engines
from jaxocr.models import crnn
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.train import calibrate
from jaxocr.train import stages
from jaxocr.train import state as state_lib
from jaxocr.train import text_config
from jaxocr.train import text_run

RULES: rules_lib.Rules = (
  (
    r"(.*/)?(binary_kernel|collapse/kernel)",
    specs.Affine(affine.Grid(bits=7)),
  ),
  (r"bilstm/\w+_kernel|backbone/stem/kernel", specs.Affine()),
  (r"head/.*", specs.Float()),
  (r".*", specs.Float("float16")),
)
TABLE_NAME = "table.md"


@dataclasses.dataclass(frozen=True)
class Config(text_config.TextConfig):
  """Everything that a run depends on."""

  # A run or file of `--experiment=crnn`. Empty: the shipped one where it has
  # the same alphabet and sizes, else one that is trained first.
  teacher: str = ""
  # Updates of a teacher that is trained first.
  teacher_steps: int = 8000

  # Updates of the 8-bit network.
  steps: int = 1200
  # Peak of their rate: the network only settles on its grid.
  qat_learning_rate: float = 5e-4
  # Share of the steps after which the features' ranges stay.
  freeze_share: float = 0.8
  # Lines that the ranges are seen on before.
  calibration_lines: int = 512
  # Weight of the float network's logits, beside CTC's 1.
  logit: float = 24.0

  def validate(self) -> None:
    """Raises ValueError for the first thing that cannot work."""
    super().validate()
    text_config.check_fields(
      self,
      [
        ("teacher_steps", "above 1", lambda v: v > 1),
        ("steps", "above 1", lambda v: v > 1),
        ("qat_learning_rate", "above 0", lambda v: v > 0),
        ("freeze_share", "in (0, 1]", lambda v: 0 < v <= 1),
        (
          "calibration_lines",
          f"a multiple of batch_size={self.batch_size}, above 0",
          lambda v: v > 0 and v % self.batch_size == 0,
        ),
        ("logit", "0 or more", lambda v: v >= 0),
      ],
    )
    if self.teacher:
      alphabet = alphabet_lib.load_alphabet(self.alphabet)
      fault = bnn_crnn.misfit(
        bnn_crnn.load_teacher(self.teacher), self, alphabet
      )
      if fault:
        raise ValueError(f"teacher={self.teacher}: {fault}")


def run(config: Config, workdir: str | os.PathLike) -> dict:
  """Trains, evaluates, saves; returns what report.json holds."""
  run = text_run.TextRun(config, workdir)
  twin, _ = bnn_crnn.architectures(config, run.alphabet)
  teacher, origin = bnn_crnn.get_teacher(config, run, twin)
  batches = config.calibration_lines // config.batch_size
  rounded = {
    **twin,
    "activation_bits": 8,
    # The ranges' own count begins with the batches that were looked at.
    "freeze_after": batches + round(config.freeze_share * config.steps),
  }
  post = calibrate.calibrate(
    teacher, crnn.CRNN(**{**rounded, "folded": True}), run.draw(batches)
  )
  weights = run.train(
    make_stage(config), rounded, start=post, teacher=(twin, teacher)
  )
  variants, lines = [], []
  for name, file, found, architecture, rules in (
    ("float", "float.safetensors", teacher, twin, rules_lib.ALL_FLOAT),
    ("post", "post.safetensors", post, rounded, RULES),
    ("qat", bundle.BUNDLE_NAME, weights, rounded, RULES),
  ):
    lines, scores = run.judge(found, architecture, rules)
    said = {**scores, "seed": config.seed, "teacher": origin}
    said.pop("lines")
    said["steps"] = config.steps if name == "qat" else 0
    size, _ = run.save(file, found, architecture, rules, said)
    variants.append(
      {
        "name": name,
        **scores,
        "file_bytes": size,
        **bnn_crnn.sizes(found, rules),
        **measured(run.workdir / file),
      }
    )
    run.say(bnn_crnn.row(variants[-1]))
  with files.aside(run.workdir / TABLE_NAME) as part:
    part.write_text(table(variants), encoding="utf-8")
  run.say(table(variants))
  return run.report(
    {
      **scores,
      "parameters": state_lib.count_parameters(weights.params),
      "teacher": origin,
      "steps": config.steps,
      "variants": variants,
      "bytes": variants[-1]["file_bytes"],
    },
    lines,
  )


def make_stage(config: Config) -> stages.Stage:
  """The training with rounded weights and features."""
  taught = distil.Distillation(logit=config.logit, temperature=2.0)
  return stages.Stage(
    "qat",
    config.steps,
    learning_rate=config.qat_learning_rate,
    rules=RULES,
    distillation=taught if config.logit else None,
  )


def measured(path: pathlib.Path) -> dict[str, Any]:
  """Multiply-accumulates by precision; per engine, file size and time."""
  model = reader_lib.load_model(path)
  reference = engines.JaxEngine(model)
  figures: dict[str, Any] = {
    "macs_by_precision": describe.fields(path, model)["all"][
      "macs_by_precision"
    ],
    "engines": {"jax": {"ms": check.latency_ms(reference)}},
  }
  int8 = model.network.activation_bits is not None
  for name in exporting.TARGETS:
    target = path.with_suffix(f".{name}")
    try:
      exporting.write(model, target, int8=int8, reference=reference)
      engine = engines.open_engine(target, threads=1)
    except ModuleNotFoundError:
      continue  # The table then has one engine less.
    figures["engines"][name] = {
      "ms": check.latency_ms(engine),
      "bytes": target.stat().st_size,
    }
  return figures


def table(variants: list[dict]) -> str:
  """As Markdown; times are of a line of 32x128, one thread but for JAX."""
  names = list(dict.fromkeys(n for v in variants for n in v["engines"]))
  rows = [
    [
      "network",
      "rendered",
      "real",
      "bytes",
      *(f"{name}, bytes" for name in names if name != "jax"),
      *(f"{name}, ms" for name in names),
      "multiply-accumulates",
    ]
  ]
  rows.append(["---"] * len(rows[0]))
  for v in variants:
    real = v.get("real", {}).get("line_accuracy")
    macs = ", ".join(f"{n:,} {k}" for k, n in v["macs_by_precision"].items())
    rows.append(
      [
        v["name"],
        f"{v['line_accuracy']:.3f}",
        "-" if real is None else f"{real:.3f}",
        f"{v['bytes']:,}",
        *(
          f"{v['engines'][name]['bytes']:,}" for name in names if name != "jax"
        ),
        *(f"{v['engines'][name]['ms']:.2f}" for name in names),
        macs,
      ]
    )
  return "".join(f"| {' | '.join(row)} |\n" for row in rows)
