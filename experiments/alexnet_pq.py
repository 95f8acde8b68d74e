"""AlexNet on MNIST by product quantisation, with errors corrected.

  python launch.py --experiment=alexnet_pq --cfg.mnist_dir=FOLDER

Expect 0.992 of the test images after multi-layer correction, at 22 times fewer
bytes, as of the float network; 0.991 after single-layer correction, 0.27 of
k-means alone. The fine-tuning so far takes 0.2 points away. 12 min on a busy
core with --cfg.model=RUN of --experiment=alexnet; else that is trained first.

Float network -> k-means alone -> codes and codewords fitted to each layer's
responses -> fitted behind the layers already quantised -> codewords and offsets
trained, codes fixed (Wu et al. 2016). Codebooks and codes take the place of all
kernels but the first, whose single input channel has no sub-vectors. Layers
that are done are kept in the folder, so a run that was stopped goes on.
"""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr import files
from jaxocr.compress import packed as packed_lib
from jaxocr.compress import rules as rules_lib
from jaxocr.compress import specs
from jaxocr.compress import summary
from jaxocr.models import digit_zoo
from jaxocr.models import lookup
from jaxocr.models import macs
from jaxocr.train import codebooks
from jaxocr.train import digit_config
from jaxocr.train import digit_figures
from jaxocr.train import digit_run
from jaxocr.train import digit_start
from jaxocr.train import digit_tune
from jaxocr.train import distributed
from jaxocr.train import evaluate
from jaxocr.train import ship
from jaxocr.train import text_config

NETWORK = "alexnet"
CELLS = "cells"
_POSITIVE = (
  "images",
  "sweeps",
  "tune_steps",
  "tune_learning_rate",
)


@dataclasses.dataclass(frozen=True)
class Config(digit_config.DigitConfig):
  """Everything that a run depends on."""

  seeds: int = 1
  epochs: int = 2
  # A run or file of --experiment=alexnet, in float; empty: trained first.
  model: str = ""

  # Channels of a sub-vector, and codewords: of convolutions,
  conv_d: int = 8
  conv_codewords: int = 128
  # of the two large products,
  fc_d: int = 4
  fc_codewords: int = 32
  # and of the last one (the published settings, as are those above).
  last_d: int = 1
  last_codewords: int = 16
  # Of codewords: float32, as published, or float16.
  storage: str = "float16"

  # Training images, unmoved, that responses are taken from.
  images: int = 2048
  # Over the sub-spaces of a layer, at most.
  sweeps: int = 3
  # Updates of the fine-tuning.
  tune_steps: int = 100
  # Peak of Adam's there.
  tune_learning_rate: float = 2e-4

  def validate(self) -> None:
    """Raises ValueError for the first thing that cannot work."""
    super().validate()
    text_config.check_fields(
      self,
      [
        ("seeds", "1: one network is compressed", lambda v: v == 1),
        ("form", "float", lambda v: v == "float"),
        *((name, "above 0", lambda v: v > 0) for name in _POSITIVE),
      ],
    )
    make_rules(self)
    if self.model:
      digit_start.load_float(self.model, network=NETWORK)


def make_rules(config: Config) -> rules_lib.Rules:
  """The form of every parameter, those that do not suit it included."""

  def of(part):
    d, codewords = (getattr(config, f"{part}_{n}") for n in ("d", "codewords"))
    return specs.Codebook(d, codewords, config.storage)

  return (
    ("conv./(binary_)?kernel", of("conv")),
    ("fc[67]/binary_kernel", of("fc")),
    ("fc8/kernel", of("last")),
    (".*", specs.Float("float16")),
  )


def run(config: Config, workdir: str | os.PathLike) -> dict:
  """Compresses step by step; returns what report.json holds."""
  run = digit_run.DigitRun(config, workdir)
  architecture, params = digit_start.get_float(
    run, config.model, NETWORK, network=NETWORK
  )
  rules, skipped = rules_lib.leave_unfit(
    params, make_rules(config), specs.Float("float16")
  )
  for path, reason in skipped.items():
    run.say(f"left as it is: {path}: {reason}")
  network = codebooks.Network(
    digit_zoo.make(**architecture, folded=True),
    {"params": params},
    digit_start.calibration_images(run, config.images),
  )
  variants = [_variant(run, architecture, "float", params)]
  plain = jax.device_get(rules_lib.pack(params, rules))
  variants.append(_variant(run, architecture, "k-means", plain))
  corrected = {}
  for name, several in (("single-layer", False), ("multi-layer", True)):
    corrected[name] = codebooks.correct_layers(
      network,
      plain,
      several=several,
      sweeps=config.sweeps,
      folder=run.workdir / CELLS / name,
    )
    variants.append(_variant(run, architecture, name, corrected[name]))
  tuned = digit_tune.tune(
    run,
    architecture,
    corrected["multi-layer"],
    steps=config.tune_steps,
    learning_rate=config.tune_learning_rate,
  )
  variants.append(_variant(run, architecture, "fine-tuned", tuned))
  accuracy = {row["name"]: row["test_accuracy"] for row in variants}
  sizes = summary.summarise(tuned, _work(architecture, params))
  run.say(sizes.table())
  rows = _layer_rows(corrected, _work(architecture, params))
  figures = {
    **digit_figures.spread([accuracy["fine-tuned"]]),
    "float_accuracy": accuracy["float"],
    "ratio": sizes.ratio,
    "accuracy_drop": accuracy["float"] - accuracy["fine-tuned"],
    "accuracy_drop_corrected": accuracy["float"] - accuracy["multi-layer"],
    "accuracy_drop_uncorrected": accuracy["float"] - accuracy["k-means"],
    "speed_up_by_operations": sum(r["macs"] for r in rows)
    / sum(r["operations"] for r in rows),
    "parameters": sizes.count,
    "bytes": sizes.nbytes,
    "float_bytes": sizes.float_nbytes,
    "test_images": len(run.set.test.labels),
    "epochs": config.epochs,
    "steps": config.tune_steps,
    "variants": variants,
    "layers": rows,
    "skipped": skipped,
  }
  run.save_packed(tuned, architecture, figures)
  lines = _judge(run, architecture, tuned)
  return run.report(figures, lines)


def _variant(run, architecture, name, params) -> dict:
  """A row of the table: of floats, or of a packed tree; kept once judged."""
  kept = run.workdir / CELLS / f"{name}.json"
  if kept.exists():
    return json.loads(kept.read_text(encoding="utf-8"))
  lines = _judge(run, architecture, params)
  leaves = jax.tree.leaves(params, is_leaf=packed_lib.is_packed)
  stored = sum(leaf.nbytes for leaf in leaves)
  floats = 4 * sum(int(np.prod(leaf.shape)) for leaf in leaves)
  row = {
    "name": name,
    "test_accuracy": evaluate.score(lines)["line_accuracy"],
    "bytes": stored,
    "ratio": floats / stored,
  }
  run.say(
    f"{name:12} test accuracy {row['test_accuracy']:.4f}, {stored:,} bytes "
    f"({row['ratio']:.1f} times smaller)"
  )
  if distributed.is_writer():
    kept.parent.mkdir(exist_ok=True)
    with files.aside(kept) as part:
      part.write_text(json.dumps(row) + "\n", encoding="utf-8")
  return row


def _judge(run, architecture, params):
  """All test images, read with a tree of floats or of packed tensors."""
  if any(
    map(
      packed_lib.is_packed,
      jax.tree.leaves(params, is_leaf=packed_lib.is_packed),
    )
  ):
    params = jax.device_get(jax.jit(rules_lib.unpack)(params))
  return run.judge(ship.Weights(params, {}), architecture)


def _work(architecture, params) -> dict:
  """Multiply-accumulates of one image, by parameter."""
  model = digit_zoo.make(**architecture, folded=True)
  image = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
  variables = jax.eval_shape(lambda p: {"params": p}, params)
  return macs.count_macs(model.apply, variables, image)


# Pixels that enter each layer, of one image; see `alexnet.AlexNet`.
_PLACES_IN = {"conv2": 6 * 6, "conv3": 3 * 3, "conv4": 3 * 3, "conv5": 3 * 3}


def _layer_rows(corrected, work) -> list[dict]:
  """One row a layer: sizes, operations, errors by kind of correction."""
  flat = codebooks.flatten(corrected["multi-layer"])
  single = {r["layer"]: r for r in codebooks.rows(corrected["single-layer"])}
  rows = []
  for row in codebooks.rows(corrected["multi-layer"]):
    path, shape = row["layer"], flat[row["layer"]].shape
    dense = sum(work[path].values())
    taps_by_outputs = int(np.prod(shape)) // shape[-2]
    counted = lookup.operations(
      shape,
      d=row["d"],
      codewords=row["codewords"],
      places_in=_PLACES_IN.get(path.split("/")[0], 1),
      places_out=dense // (taps_by_outputs * shape[-2]),
    )
    rows.append(
      {
        **row,
        "single_layer_error_before": single[path]["error_before"],
        "single_layer_error_after": single[path]["error_after"],
        "macs": counted.dense,
        "operations": counted.products + counted.look_ups,
      }
    )
  return rows
