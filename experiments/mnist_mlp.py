"""One-bit fully connected network that reads MNIST's digits.

  python launch.py --experiment=mnist_mlp --cfg.mnist_dir=FOLDER

Expect 0.988 of the test images after 80 epochs (0.9881 with seed 0; brevitas
states 0.9888 for this LFC, 1W1A), 382 kB, in 50 min on one busy core of two.

Input, activations and all weights are one bit, the last layer's too; BatchNorm
follows each product. FOLDER holds the four official files; nothing is fetched.
The log calls an image a line: it is read as a line of one character.
"""

import dataclasses
import json
import math
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr import files
from jaxocr.compress import rules as rules_lib
from jaxocr.compress import summary
from jaxocr.data import batch as batch_lib
from jaxocr.data import idx
from jaxocr.models import fold
from jaxocr.models import mlp
from jaxocr.text import ctc
from jaxocr.train import clock as clock_lib
from jaxocr.train import configs
from jaxocr.train import distributed
from jaxocr.train import evaluate
from jaxocr.train import hardware
from jaxocr.train import loop
from jaxocr.train import objective as objective_lib
from jaxocr.train import optimiser
from jaxocr.train import report
from jaxocr.train import report_lines
from jaxocr.train import sharding
from jaxocr.train import state as state_lib
from jaxocr.train import step
from jaxocr.train import workdirs

RULES = rules_lib.BINARY_KERNELS
_CLIP_NORM = 10.0  # Only stops a runaway: norms are below 1.
_LOG_EVERY = 50  # Steps.
_KEEP_CHECKPOINTS = 2


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything that a run depends on."""

  # Folder with the four official files, train-* and t10k-*, gzipped.
  mnist_dir: str = ""
  # Of the initial weights, the order of images and their shifts.
  seed: int = 0

  # Units of each hidden layer. 1024,1024,1024 is FINN's LFC, 256,256,256 its
  # SFC, 64,64,64 its TFC.
  hidden: str = "1024,1024,1024"
  # Share of hidden units zeroed in training.
  dropout: float = 0.2

  # Times the number of training images, drawn with replacement.
  epochs: int = 80
  # Images of an update, a multiple of the devices.
  batch_size: int = 256
  # Of Adam's first step; then a cosine to zero.
  learning_rate: float = 1e-2
  # Training images are moved by up to so many px each way.
  shift_px: int = 1
  # Memory of the averages that are evaluated; 0 for the last values.
  ema_decay: float = 0.998

  def validate(self) -> None:
    """Raises ValueError for the first thing that cannot work."""
    if not self.mnist_dir:
      raise ValueError(
        "mnist_dir is not set; give --cfg.mnist_dir=FOLDER that holds "
        f"{', '.join(idx.TRAIN + idx.TEST)}"
      )
    sharding.check_batch_size(self.batch_size, jax.device_count())
    hidden_units(self)
    rules = [
      ("dropout", "in [0, 1)", lambda v: 0 <= v < 1),
      ("ema_decay", "in [0, 1)", lambda v: 0 <= v < 1),
      ("epochs", "1 or more", lambda v: v >= 1),
      ("learning_rate", "above 0", lambda v: v > 0),
      ("shift_px", "0 or more", lambda v: v >= 0),
    ]
    for name, rule, holds in rules:
      value = getattr(self, name)
      if not holds(value):
        raise ValueError(f"{name}={value!r}; it must be {rule}")
    idx.load_mnist(self.mnist_dir)


def hidden_units(config: Config) -> tuple[int, ...]:
  """The sizes in `hidden`."""
  parts = config.hidden.split(",")
  if not all(part.strip().isdecimal() and int(part) for part in parts):
    raise ValueError(
      f"hidden={config.hidden!r}; it must be positive numbers with commas "
      "between them, such as 256,256,256"
    )
  return tuple(int(part) for part in parts)


def run(config: Config, workdir: str | os.PathLike) -> dict:
  """Trains, evaluates; returns what report.json holds."""
  clock = clock_lib.Clock()
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  mesh = sharding.make_mesh()
  digits, test = idx.load_mnist(config.mnist_dir)
  steps_per_epoch = math.ceil(len(digits.labels) / config.batch_size)
  steps = config.epochs * steps_per_epoch
  schedule = optimiser.make_schedule(
    learning_rate=config.learning_rate, warmup_steps=0, steps=steps
  )
  model = mlp.BinaryMLP(
    hidden_units(config), idx.CLASSES, dropout=config.dropout
  )
  state, train_step = make_step(config, model, schedule, digits, mesh)
  read = make_read(config, model, test, mesh)
  state = loop.fit(
    state,
    train_step,
    read,
    plan=loop.Plan(
      steps=steps,
      batch_size=config.batch_size,
      log_every=_LOG_EVERY,
      eval_every=steps_per_epoch,
      checkpoint_every=steps_per_epoch,
      keep_checkpoints=_KEEP_CHECKPOINTS,
    ),
    workdir=workdir,
    clock=clock,
    learning_rate=schedule,
  )
  lines = read(state)
  figures = {
    # Of the last step: none is chosen by its test images.
    "test_accuracy": evaluate.score(lines)["line_accuracy"],
    "test_images": len(lines),
    "parameters": state_lib.count_parameters(state.params),
    "bytes": packed_bytes(state),
    "seed": config.seed,
    "epochs": config.epochs,
    "steps": steps,
    "seconds": clock.seconds,
    "hardware": hardware.describe(),
    "config": configs.as_dict(config),
    "finished": True,
  }
  if distributed.is_writer():
    with files.aside(workdir / report.REPORT_FILE) as part:
      part.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(workdirs.figures(figures))
  return figures


def make_step(config, model, schedule, digits: idx.Digits, mesh):
  """Returns (new state, train_step(state, done)), as `loop.fit` takes them."""
  tx = optimiser.make_optimiser(
    schedule, weight_decay=0.0, clip_norm=_CLIP_NORM
  )
  train_step = sharding.TrainStep(
    step.make_train_step(
      model,
      tx,
      objective_lib.class_objective,
      ema_decay=config.ema_decay,
      rules=RULES,
    ),
    make_sample(digits.images.shape, config.shift_px),
    mesh,
    batch_size=config.batch_size,
  )
  whole = sharding.replicated(mesh)
  around = (config.shift_px, config.shift_px)
  assets = sharding.place(
    (np.pad(digits.images, ((0, 0), around, around)), digits.labels), whole
  )

  def start():
    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    image = jnp.zeros((1, *digits.images.shape[1:], 1))
    return state_lib.init_state(model, tx, init_key, image), run_key

  state, key = jax.jit(start, out_shardings=whole)()
  return state, lambda state, done: train_step(state, assets, key, done)


def make_sample(shape: tuple[int, int, int], shift_px: int):
  """Makes `sample((images, labels), keys [B]) -> Batch`, images by chance.

  Args:
    shape: (N, H, W) of the training images.
    shift_px: How far `images` are padded on each side; a window of H x W is cut
      out at any place.
  """
  places = jnp.array([shape[0], 2 * shift_px + 1, 2 * shift_px + 1])

  def draw(images, labels, key):
    place = jax.random.randint(key, (3,), 0, places)
    image = jax.lax.dynamic_slice(images, place, (1, *shape[1:]))[0]
    return image, labels[place[0]]

  def sample(assets, keys):
    image, label = jax.vmap(draw, (None, None, 0))(*assets, keys)
    ones = jnp.ones(label.shape, jnp.int32)
    return batch_lib.Batch(
      image=image[..., None].astype(jnp.float32) / 255,
      label=label[:, None].astype(jnp.int32),
      length=ones,
      mask=ones.astype(jnp.float32),
    )

  return sample


def make_read(config, model, test: idx.Digits, mesh):
  """Makes `read(state)`: all test images, each a line of one character."""
  whole, split = sharding.replicated(mesh), sharding.split_lines(mesh)

  def classify(state, images):
    params = rules_lib.fake(state.ema_params, RULES)
    variables = {"params": params, **state.ema_collections}
    logits = model.apply(variables, images[..., None] / 255)
    classes, probabilities = ctc.best_path(logits[:, None])
    return classes[:, 0], probabilities[:, 0]

  classify = jax.jit(classify, in_shardings=(whole, split), out_shardings=whole)
  count, size = len(test.images), config.batch_size
  padded = np.pad(test.images, ((0, -count % size), (0, 0), (0, 0)))
  batches = [
    sharding.place(padded[first : first + size], split)
    for first in range(0, count, size)
  ]

  def read(state):
    found = jax.device_get([classify(state, images) for images in batches])
    classes, probabilities = (
      np.concatenate(parts)[:count] for parts in zip(*found, strict=True)
    )
    return [
      report_lines.LineResult(
        image, str(truth), ctc.Reading(str(digit), float(sure), ()), "real"
      )
      for image, truth, digit, sure in zip(
        test.images, test.labels, classes, probabilities, strict=True
      )
    ]

  return read


def packed_bytes(state: state_lib.TrainState) -> int:
  """Of the network as shipped: its bits, a gain and an offset a channel."""
  folded = fold.fold(state.ema_params, state.ema_collections)
  return summary.summary(folded, RULES).nbytes
