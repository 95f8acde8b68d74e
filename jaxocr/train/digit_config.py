"""The settings that all experiments with digits share."""

import dataclasses
import math

import jax

from jaxocr.compress import affine
from jaxocr.compress import rules as rules_lib
from jaxocr.compress import specs
from jaxocr.data import digit_augment
from jaxocr.data import digits
from jaxocr.data import idx
from jaxocr.train import sharding
from jaxocr.train import text_config

INT8: rules_lib.Rules = rules_lib.BINARY_SHIPPED[1:]
# Weights within +-63 where they meet 8-bit features: no engine's 16-bit sums of
# two products saturate. The first layer's meet pixels.
QAT: rules_lib.Rules = (
  (r"(c1|conv1)/kernel", specs.Affine()),
  (r"(.*/)?(\w+_)?kernel", specs.Affine(affine.Grid(bits=7))),
  (r".*", specs.Float("float16")),
)
# How a network is trained and shipped: rules, and what its features become.
FORMS = {
  "float": (rules_lib.ALL_FLOAT, {}),
  "int8": (INT8, {"activation_bits": 8}),
  "qat": (QAT, {"activation_bits": 8}),
  "binary_weights": (rules_lib.BINARY_SHIPPED, {}),
  "binary": (rules_lib.BINARY_SHIPPED, {"binary_activations": True}),
}


@dataclasses.dataclass(frozen=True)
class DigitConfig:
  """Images, form, optimiser and bookkeeping of a digit experiment."""

  # mnist, digits (scikit-learn's 8x8, no files needed), or a TFDS set that is
  # prepared already.
  dataset: str = "mnist"
  # Folder with MNIST's four .gz files; empty: fetched once by TFDS.
  mnist_dir: str = ""
  # Where TFDS keeps prepared sets; empty: ~/tensorflow_datasets.
  data_dir: str = ""
  # Of the first run: initial weights, order and movements.
  seed: int = 0
  # Runs, with seed, seed + 1, ...; the figures are their mean.
  seeds: int = 3

  # float; int8 (weights and activations); qat (the same with weights of 7 bits
  # inside, see --experiment=qat_digits); binary_weights; binary (both). First
  # and last layer stay int8 in the binary ones.
  form: str = "float"
  # Pixels of mean 0 and deviation 1 rather than in [0, 1].
  standard: bool = True

  # Times that each training image is seen.
  epochs: int = 8
  # Images of an update, a multiple of the devices.
  batch_size: int = 128
  # Peak of Adam's; then a cosine to zero.
  learning_rate: float = 4e-3
  # Linear warm-up.
  warmup_steps: int = 100
  # Of float kernels.
  weight_decay: float = 1e-4
  # Memory of the averages that are judged; 0 for the last values.
  ema_decay: float = 0.998
  # On the norm of all gradients; only stops a runaway.
  clip_norm: float = 10.0
  # Share of the steps in which binary forms harden.
  harden: float = 0.4

  # Training images are moved by up to so many px each way,
  shift_px: float = 2.0
  # turned by up to so many rad,
  rotate: float = 0.15
  # scaled by up to this log-ratio in each direction,
  scale: float = 0.1
  # and sheared by up to so many px per px.
  shear: float = 0.15

  # Steps between log entries.
  log_every: int = 50

  def validate(self) -> None:
    """Raises ValueError for the first thing that cannot work."""
    sharding.check_batch_size(self.batch_size, jax.device_count())
    text_config.check_fields(
      self,
      [
        ("form", f"one of {[*FORMS]}", FORMS.__contains__),
        ("ema_decay", "in [0, 1)", lambda v: 0 <= v < 1),
        ("harden", "in [0, 1]", lambda v: 0 <= v <= 1),
        *(
          (name, "0 or more", lambda v: v >= 0)
          for name in ("seed", "warmup_steps", "weight_decay", *_MOVEMENTS)
        ),
        *((name, "above 0", lambda v: v > 0) for name in _POSITIVE),
      ],
    )
    if self.mnist_dir and self.dataset != digits.MNIST:
      raise ValueError(
        f"mnist_dir is for dataset=mnist, not for dataset={self.dataset}; "
        "leave one of them out"
      )

  def movement(self) -> digit_augment.Movement:
    """How far training images are moved."""
    return digit_augment.Movement(
      **{name: getattr(self, name) for name in _MOVEMENTS}
    )

  def steps(self, images: int) -> int:
    """Updates of a run over so many training images."""
    return math.ceil(self.epochs * images / self.batch_size)

  def load(self) -> digits.DigitSet:
    """The images.

    Raises:
      digits.DataError, idx.IdxError: They cannot be had.
    """
    found = digits.load(
      self.dataset, mnist_dir=self.mnist_dir, data_dir=self.data_dir
    )
    if not len(found.train.labels) or not len(found.test.labels):
      raise idx.IdxError(f"dataset={self.dataset} has a part without images")
    return found


_MOVEMENTS = ("shift_px", "rotate", "scale", "shear")
_POSITIVE = (
  "seeds",
  "epochs",
  "batch_size",
  "learning_rate",
  "clip_norm",
  "log_every",
)
