"""8-bit digit networks: rounded after training, and in training.

  python launch.py --experiment=qat_digits --cfg.start=runs/lenet5

A float digit network (a run of any of them, or one that is trained first) three
times: as it is; with integer weights and 8-bit features whose ranges were seen
on 512 images (post); and trained on with both (qat). Test accuracy and bytes go
to table.md. The network is folded before, so that what is rounded is what is
shipped.

Weights are within +-63, so that no engine's 16-bit sums of two products
saturate; those that meet the pixels, which are not rounded, have all 8 bits.
"""

import dataclasses
import os

from jaxocr import files
from jaxocr.compress import summary
from jaxocr.models import digit_zoo
from jaxocr.train import calibrate
from jaxocr.train import digit_config
from jaxocr.train import digit_figures
from jaxocr.train import digit_run
from jaxocr.train import digit_start
from jaxocr.train import distributed
from jaxocr.train import evaluate
from jaxocr.train import ship
from jaxocr.train import text_config

TABLE_NAME = "table.md"


@dataclasses.dataclass(frozen=True)
class Config(digit_config.DigitConfig):
  """Everything that a run depends on."""

  # One network is rounded.
  seeds: int = 1
  # A run or file of a digit experiment, in float; empty: trained first.
  start: str = ""
  # Which one is trained first.
  network: str = "lenet5"

  # Times that the 8-bit network sees each training image.
  qat_epochs: int = 2
  # Peak of its rate: it only settles on its grid.
  qat_learning_rate: float = 5e-4
  # Share of its steps after which the features' ranges stay.
  freeze_share: float = 0.8
  # Training images that the ranges are seen on before.
  calibration_images: int = 512

  def validate(self) -> None:
    """Raises ValueError for the first thing that cannot work."""
    super().validate()
    text_config.check_fields(
      self,
      [
        ("seeds", "1: one network is rounded", lambda v: v == 1),
        ("form", "float: what is rounded", lambda v: v == "float"),
        (
          "network",
          f"one of {[*digit_zoo.NETWORKS]}",
          digit_zoo.NETWORKS.__contains__,
        ),
        ("qat_epochs", "above 0", lambda v: v > 0),
        ("qat_learning_rate", "above 0", lambda v: v > 0),
        ("freeze_share", "in (0, 1]", lambda v: 0 < v <= 1),
        ("calibration_images", "above 0", lambda v: v > 0),
      ],
    )
    if self.start:
      digit_start.load_float(self.start, named="start")


def run(config: Config, workdir: str | os.PathLike) -> dict:
  """Trains, evaluates, saves; returns what report.json holds."""
  run = digit_run.DigitRun(config, workdir)
  twin, params = digit_start.get_float(
    run, config.start, config.network, named="start"
  )
  exact = ship.Weights(params, {})
  rounding = run.with_config(
    dataclasses.replace(
      config,
      form="qat",
      epochs=config.qat_epochs,
      learning_rate=config.qat_learning_rate,
    )
  )
  images = digit_start.calibration_images(run, config.calibration_images)
  rounded = {
    **twin,
    **digit_config.FORMS["qat"][1],
    # The ranges' own count begins with the batches that were looked at.
    "freeze_after": len(images) + round(config.freeze_share * rounding.steps),
  }
  network = digit_zoo.make(**rounded, folded=True)
  post = calibrate.calibrate(exact, network, images)
  trained = rounding.train(
    {**rounded, "folded": True}, config.seed, name="qat", start=post
  )
  variants = []
  for name, owner, weights, architecture in (
    ("float", run, exact, twin),
    ("post", rounding, post, rounded),
    ("qat", rounding, trained, rounded),
  ):
    lines = owner.judge(weights, architecture)
    rules = digit_config.FORMS[owner.config.form][0]
    sizes = summary.summary(weights.params, rules)
    variants.append(
      {
        "name": name,
        "test_accuracy": evaluate.score(lines)["line_accuracy"],
        "bytes": sizes.nbytes,
      }
    )
  told = table(variants)
  run.say(told)
  if distributed.is_writer():
    with files.aside(run.workdir / TABLE_NAME) as part:
      part.write_text(told, encoding="utf-8")
  accuracy = {row["name"]: row["test_accuracy"] for row in variants}
  figures = {
    **digit_figures.spread([accuracy["qat"]]),
    "accuracy_drop": accuracy["float"] - accuracy["qat"],
    "accuracy_drop_post": accuracy["float"] - accuracy["post"],
    "parameters": sizes.count,
    "bytes": sizes.nbytes,
    "test_images": len(lines),
    "epochs": config.qat_epochs,
    "steps": rounding.steps,
    "variants": variants,
  }
  rounding.save(trained, rounded, figures)
  return rounding.report(figures, lines)


def table(variants: list[dict]) -> str:
  """As Markdown."""
  rows = [["network", "test accuracy", "bytes"], ["---"] * 3]
  rows += [
    [v["name"], f"{v['test_accuracy']:.4f}", f"{v['bytes']:,}"]
    for v in variants
  ]
  return "".join(f"| {' | '.join(row)} |\n" for row in rows)
