"""A CRNN that reads handwritten numbers, of lines made of MNIST's digits.

  python launch.py --experiment=handwritten_numbers --cfg.mnist_dir=FOLDER

Expect 0.955 of 2,000 lines of test digits (0.9555, CER 0.008, seed 0), in 26
min on one core.

Lines are drawn from the training digits while it learns and judged on lines of
the test digits, whose writers it has not seen. It starts from the shipped float
reader of printed numbers.
"""

import dataclasses
import os

from experiments import bnn_crnn
from experiments import crnn
from jaxocr import zoo
from jaxocr.compress import rules as rules_lib
from jaxocr.data import digit_lines
from jaxocr.data import digits
from jaxocr.data import idx
from jaxocr.data import preprocess
from jaxocr.data import render
from jaxocr.export import bundle
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.train import ship
from jaxocr.train import state as state_lib
from jaxocr.train import text_config
from jaxocr.train import text_run
from jaxocr.train import workdirs


@dataclasses.dataclass(frozen=True)
class Config(text_config.TextConfig):
  """Everything that a run depends on."""

  # mnist, or digits: scikit-learn's, for those without MNIST.
  dataset: str = "mnist"
  # Folder with MNIST's four .gz files; empty: fetched once by TFDS.
  mnist_dir: str = ""
  # Where TFDS keeps prepared sets; empty: ~/tensorflow_datasets.
  data_dir: str = ""
  # Updates.
  steps: int = 6500
  # Fewest digits of a line.
  min_length: int = 4
  # Most.
  max_length: int = 8
  # Eight digits of 22 px.
  width: int = 192
  learning_rate: float = 3e-3
  # A flat scan, written more variously than hands do: what it has to learn are
  # shapes, and a MNIST digit, 20 px high, has no detail that could be faded or
  # cut away.
  strengths: render.RenderStrengths = dataclasses.field(
    default_factory=lambda: dataclasses.replace(
      render.NOTHING,
      size=0.12,
      stretch=0.3,
      slant=0.3,
      rotation=0.06,
      perspective=0.06,
      spacing=0.2,
      weight=0.35,
      blur=0.2,
    )
  )
  # Of the lines that it is judged by: MNIST's test digits as they are, black on
  # white, apart and of a height as hands have it.
  test_strengths: render.RenderStrengths = dataclasses.field(
    default_factory=lambda: dataclasses.replace(
      render.NOTHING, size=0.05, spacing=0.1
    )
  )

  def validate(self) -> None:
    """Raises ValueError for the first thing that cannot work."""
    super().validate()
    self.test_strengths.validate()
    alphabet = alphabet_lib.load_alphabet(self.alphabet)
    missing = set("0123456789") - set(alphabet.characters)
    if missing:
      raise ValueError(
        f"alphabet={self.alphabet} lacks {''.join(sorted(missing))}; it must "
        "have all digits"
      )
    text_config.check_fields(
      self,
      [
        (
          "min_length",
          f"in 1..max_length={self.max_length}",
          lambda v: 1 <= v <= self.max_length,
        ),
        (
          "steps",
          f"above warmup_steps={self.warmup_steps}",
          lambda v: v > self.warmup_steps,
        ),
      ],
    )


def run(config: Config, workdir: str | os.PathLike) -> dict:
  """Trains, evaluates, saves; returns what report.json holds."""
  alphabet = alphabet_lib.load_alphabet(config.alphabet)
  run = text_run.TextRun(config, workdir, lines=make_lines(config, alphabet))
  architecture = text_run.architecture(
    config, alphabet, backbone="binary", binary_activations=False
  )
  stage = crnn.float_stage(config.steps, config.learning_rate)
  weights = run.train(stage, architecture, start=start(config, alphabet))
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
    rules_lib.ALL_FLOAT,
    {**figures, "seed": config.seed},
  )
  return run.report({**figures, "bytes": size}, lines)


def make_lines(config: Config, alphabet: alphabet_lib.Alphabet):
  """Lines of training digits, lines of test digits, and how they are drawn."""
  try:
    found = digits.load(
      config.dataset, mnist_dir=config.mnist_dir, data_dir=config.data_dir
    )
    return digit_lines.make_source(
      found.train,
      found.test,
      alphabet,
      height=preprocess.HEIGHT_PX,
      width=config.width,
      lengths=(config.min_length, config.max_length),
      strengths=config.strengths,
      test_strengths=config.test_strengths,
    )
  except (digits.DataError, idx.IdxError, ValueError) as error:
    raise workdirs.WorkdirError(str(error)) from error


def start(config: Config, alphabet: alphabet_lib.Alphabet):
  """The shipped float reader's weights; None where it is of another shape."""
  found = bnn_crnn.load_teacher(zoo.path("numeric-float"))
  if bnn_crnn.misfit(found, config, alphabet):
    return None
  return ship.load_weights(found)
