"""A trained float digit network, as the start of one that is compressed."""

import os

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.compress import packed as packed_lib
from jaxocr.compress import rules as rules_lib
from jaxocr.data import digit_augment
from jaxocr.export import bundle
from jaxocr.models import fold
from jaxocr.train import digit_run


def load_float(
  model: str, *, network: str = "", named: str = "model"
) -> tuple[dict, dict]:
  """Architecture and folded parameters of a float run.

  Args:
    model: A run's folder or its file.
    network: Which it must be; empty: any.
    named: What the setting is called that gave `model`.

  Raises:
    ValueError: There is none, or it is of another network or form.
  """
  path = (
    os.path.join(model, bundle.BUNDLE_NAME) if os.path.isdir(model) else model
  )
  experiment = f"--experiment={network or 'lenet5'}"
  if not os.path.isfile(path):
    raise ValueError(
      f"{named}={model}: there is no {path}; train one with {experiment}, or "
      "leave it empty"
    )
  found = bundle.load_bundle(path)
  architecture = dict(found.meta["architecture"])
  leaves = jax.tree.leaves(found.params, is_leaf=packed_lib.is_packed)
  if (
    "network" not in architecture
    or architecture["network"] != (network or architecture["network"])
    or not architecture.pop("folded", False)
    or not all(isinstance(leaf, packed_lib.FloatTensor) for leaf in leaves)
  ):
    raise ValueError(
      f"{named}={model} is no float {network or 'digit network'}; give a run "
      f"of {experiment} with --cfg.form=float"
    )
  return architecture, jax.device_get(rules_lib.unpack(found.params))


def get_float(
  run: digit_run.DigitRun, model: str, trained: str, **how: str
) -> tuple[dict, dict]:
  """Architecture and folded parameters.

  Args:
    run: With the settings for training.
    model: A run or file; empty: the network `trained` is trained now.
    trained: Which one.
    **how: Arguments of `load_float`.
  """
  if model:
    return load_float(model, **how)
  architecture = digit_run.architecture(
    run.config, trained, len(run.set.classes)
  )
  weights = run.train(architecture, run.config.seed)
  return architecture, jax.device_get(
    jax.jit(fold.fold)(weights.params, weights.collections)
  )


def calibration_images(run: digit_run.DigitRun, count: int) -> list[np.ndarray]:
  """Batches [B, 28, 28, 1] of the first training images, unmoved."""
  size = run.config.batch_size
  pixels = run.set.train.images[:count].astype(np.float32) / 255
  image = np.asarray(
    digit_augment.prepare(jnp.asarray(pixels), standard=run.config.standard)
  )
  # Of one shape; what does not fill a batch is left out, unless it is all.
  whole = max(1, len(image) // size)
  return [image[i * size : (i + 1) * size] for i in range(whole)]
