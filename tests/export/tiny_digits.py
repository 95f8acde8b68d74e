"""Bundles of digit networks with random weights, in every form."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.compress import rules as rules_lib
from jaxocr.compress import specs
from jaxocr.export import bundle
from jaxocr.export import digit_model
from jaxocr.models import digit_zoo
from jaxocr.train import digit_config
from tests.export import tiny

CODEBOOKS = (
  (r"(c3|c5|conv2|near2)/binary_kernel", specs.Codebook(4, 16)),
  (r".*", specs.Float("float16")),
)
FORMS = {**digit_config.FORMS, "codebooks": (CODEBOOKS, {})}


def save(path, network, form, **fields):
  """Writes a bundle; what is read back."""
  rules, features = FORMS[form]
  sizes = {"network": network, **features, "folded": True, **fields}
  model = digit_zoo.make(**sizes)
  image = jnp.zeros((1, 28, 28, 1))
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  found = jax.tree_util.tree_map_with_path(_random, shapes)
  ranges = {k: v for k, v in found.items() if k == "ranges"}
  pack = jax.jit(lambda params: rules_lib.pack(params, rules))
  bundle.save_bundle(
    path,
    jax.device_get(pack(found["params"])),
    ranges,
    {
      "architecture": sizes,
      "alphabet": {"name": "digits", "characters": list("0123456789")},
      "preprocess": {"size": 28, "standard": network != "cnn"},
      "training": {},
    },
  )
  return digit_model.load(path)


def _random(path, leaf):
  if path[-1].key == "low":
    return np.float32(0)  # As after a ReLU.
  if path[-1].key == "high":
    return np.float32(8)  # Nothing is cut off.
  return tiny.random(path, leaf)


def images(count, seed=0):
  """Blobs, [count, 28, 28, 1] in [0, 1]."""
  rng = np.random.default_rng(seed)
  coarse = rng.uniform(0, 1, (count, 7, 7, 1)) ** 3
  return np.kron(coarse, np.ones((1, 4, 4, 1))).astype(np.float32)
