"""LeNet-5 on MNIST: float, int8 or one bit.

  python launch.py --experiment=lenet5 --cfg.mnist_dir=FOLDER

Expect 0.992 of the test images (0.9919 +- 0.0014, seeds 0 to 2), in 12 min on
one core beside other work. --cfg.form=binary is the one-bit network,
--cfg.layout=1998 the published layers.
"""

import dataclasses
import os

from jaxocr.train import digit_config
from jaxocr.train import digit_run
from jaxocr.train import text_config

LAYOUTS = ("relu", "1998")


@dataclasses.dataclass(frozen=True)
class Config(digit_config.DigitConfig):
  """Everything that a run depends on."""

  # relu (ReLU, largest of 2x2, all connections) or 1998 (as published).
  layout: str = "relu"

  def validate(self) -> None:
    """Raises ValueError for the first thing that cannot work."""
    super().validate()
    text_config.check_fields(
      self,
      [
        ("layout", f"one of {LAYOUTS}", LAYOUTS.__contains__),
        (
          "form",
          "float or int8 for layout=1998",
          lambda v: self.layout == "relu" or not v.startswith("binary"),
        ),
      ],
    )


def run(config: Config, workdir: str | os.PathLike) -> dict:
  """Trains all seeds, evaluates, saves; returns what report.json holds."""
  run = digit_run.DigitRun(config, workdir)
  network = "lenet5" if config.layout == "relu" else "lenet5_1998"
  return run.run_seeds(
    digit_run.architecture(config, network, len(run.set.classes))
  )
