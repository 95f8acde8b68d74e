"""Float CRNN that reads numbers: the teacher, and the baselines.

  python launch.py --experiment=crnn

Two cores: about an hour beside other work. Expect 0.97 line accuracy on
rendered numbers, 0.88 on receipts.

The default is the float twin of the binary network: the same layers with real
features and real weights, so that the maps of one can be compared with those
of the other. --cfg.backbone=mobilenet is the depthwise separable baseline.
"""

import dataclasses
import os

from jaxocr.compress import rules as rules_lib
from jaxocr.export import bundle
from jaxocr.models import crnn
from jaxocr.train import adapt
from jaxocr.train import stages
from jaxocr.train import state as state_lib
from jaxocr.train import text_config
from jaxocr.train import text_run


@dataclasses.dataclass(frozen=True)
class Config(text_config.TextConfig):
  """Everything that a run depends on."""

  # Updates. Each learns from batch_size new lines.
  steps: int = 14000
  # binary (the layers of the binary network, in float) or mobilenet.
  backbone: str = "binary"
  # A run or file of this experiment to go on from; its alphabet may be another,
  # then the characters in both keep what was learnt of them.
  start: str = ""

  def validate(self) -> None:
    """Raises ValueError for the first thing that cannot work."""
    super().validate()
    text_config.check_fields(
      self,
      [
        ("backbone", f"one of {crnn.BACKBONES}", crnn.BACKBONES.__contains__),
        ("steps", "above 1", lambda v: v > 1),
        (
          "warmup_steps",
          f"below steps={self.steps}",
          lambda v: v < self.steps,
        ),
      ],
    )
    if self.start:
      adapt.load_start(self.start)


def run(config: Config, workdir: str | os.PathLike) -> dict:
  """Trains, evaluates, saves; returns what report.json holds."""
  run = text_run.TextRun(config, workdir)
  stage = float_stage(config.steps, config.learning_rate)
  architecture = text_run.architecture(
    config, run.alphabet, backbone=config.backbone, binary_activations=False
  )
  start = None
  if config.start:
    found = adapt.load_start(config.start)
    start, matched = adapt.adapt(found, run.alphabet, seed=config.seed)
    run.say(f"start {config.start}: {matched.describe()}")
  weights = run.train(stage, architecture, start=start)
  lines, scores = run.judge(weights, architecture, rules_lib.ALL_FLOAT)
  figures = {
    **scores,
    "parameters": state_lib.count_parameters(weights.params),
    "steps": config.steps,
  }
  size, _ = run.save(
    bundle.BUNDLE_NAME,
    weights,
    architecture,
    None,
    {**figures, "seed": config.seed},
  )
  return run.report({**figures, "bytes": size}, lines)


def float_stage(steps: int, learning_rate: float) -> stages.Stage:
  """Everything in full precision."""
  return stages.Stage("float", steps, learning_rate=learning_rate)
