"""Bundles of CRNNs so small that an engine answers in a millisecond.

Their weights are random, moments and thresholds too, so that nothing is zero.
"""

import functools
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr import reader as reader_lib
from jaxocr.compress import codebook
from jaxocr.compress import packed as packed_lib
from jaxocr.compress import rules as rules_lib
from jaxocr.models import crnn
from jaxocr.models import fold
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.train import ship

ALPHABET = alphabet_lib.Alphabet("0123456789.", name="few")
SIZES = {
  "num_classes": ALPHABET.num_classes,
  "stem_channels": 4,
  "projection": 8,
  "hidden": 12,
}
INT8_RULES = rules_lib.BINARY_SHIPPED[1:]
# Architecture, and the rules that it is shipped by; None keeps the moments.
FORMS = {
  "float": ({"binary_activations": False}, None),
  "binary": ({}, rules_lib.BINARY_SHIPPED),
  # Its first features are all 0, and lie on the thresholds of their signs.
  "zeros": ({}, rules_lib.BINARY_SHIPPED),
  "int8": ({"binary_activations": False}, INT8_RULES),
  "qat": (
    {"binary_activations": False, "activation_bits": 8},
    INT8_RULES,
  ),
  "mobilenet": (
    {"backbone": "mobilenet", "binary_activations": False},
    rules_lib.ALL_FLOAT,
  ),
  "mobilenet_int4": (
    {
      "backbone": "mobilenet",
      "binary_activations": False,
      "activation_bits": 4,
    },
    INT8_RULES,
  ),
}


@functools.cache
def weights(form):
  """Of a form, with moments and ranges as after training."""
  changes, _ = FORMS[form]
  network = crnn.CRNN(**SIZES, **changes)
  image = jnp.zeros((1, 32, 64, 1))
  shapes = jax.eval_shape(
    lambda: network.init(jax.random.key(0), image, train=False)
  )
  found = jax.tree_util.tree_map_with_path(random, shapes)
  if form == "zeros":
    found = jax.tree_util.tree_map_with_path(_without_stem, found)
  params = found.pop("params")
  return ship.Weights(params, found)


def random(path, leaf):
  name = jax.tree_util.keystr(path, simple=True, separator="/")
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  kind = name.rpartition("/")[2]
  if kind == "var":
    return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
  if kind == "count":
    return np.int32(9)
  if kind in ("low", "high"):
    return np.float32({"low": -2.0, "high": 2.5}[kind])
  scale = 0.5
  if kind.endswith("kernel"):
    scale = 1 / np.sqrt(np.prod(leaf.shape[:-1]))
  values = rng.normal(0, scale, leaf.shape)
  if kind == "scale":
    values += 1
  return values.astype(np.float32)


def _without_stem(path, leaf):
  name = jax.tree_util.keystr(path, simple=True, separator="/")
  if ("stem" in name or "threshold" in name) and not name.endswith("var"):
    return np.zeros_like(leaf)
  return leaf


def save(path, form):
  """Writes the bundle of a form; what is read back."""
  changes, rules = FORMS[form]
  ship.save(
    path, weights(form), {**SIZES, **changes}, rules, ALPHABET, {"steps": 0}
  )
  return reader_lib.load_model(path)


# Kernels as codebooks: d, K and type of the codewords, as each layout and each
# width of a code is to be met. d divides not all channels.
CODEBOOKS = {
  r"backbone/block0/spatial/.*kernel": (3, 10, "float16"),
  r"backbone/.*spatial/.*kernel": (4, 256, "float32"),
  r"backbone/.*kernel": (2, 16, "float16"),
  r"bilstm/.*_input_kernel": (4, 64, "float16"),
  r"bilstm/.*_recurrent_kernel": (5, 16, "float16"),
  r"collapse/kernel": (4, 300, "float32"),
  r"head/kernel": (5, 8, "float16"),
}


def save_codebooks(path, form="float"):
  """Like `save`, with random codes and codewords as of CODEBOOKS."""
  params = jax.device_get(
    fold.pack_folded(
      weights(form).params, weights(form).collections, rules_lib.ALL_FLOAT
    )
  )
  params = jax.tree_util.tree_map_with_path(
    _in_codes, params, is_leaf=packed_lib.is_packed
  )
  sizes = {**SIZES, **FORMS[form][0], "folded": True}
  ship.save_packed(path, params, {}, sizes, ALPHABET, {"steps": 0})
  return reader_lib.load_model(path)


def _in_codes(path, tensor):
  name = rules_lib.path_name(path)
  found = [v for k, v in CODEBOOKS.items() if re.fullmatch(k, name)]
  if not found or tensor.shape[-2] == 1:
    return tensor
  d, codewords, storage = found[0]
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  sets, taps, outputs, d = codebook.spaces(tensor.shape, d)
  deviation = 1 / np.sqrt(taps * tensor.shape[-2])
  return packed_lib.pack_codebooks(
    jnp.asarray(rng.normal(0, deviation, (sets, codewords, d)), "float32"),
    jnp.asarray(rng.integers(0, codewords, (sets, taps, outputs))),
    shape=tensor.shape,
    storage=storage,
    dtype="float32",
  )


def images(width, batch, seed=0):
  """Dark strokes on paper, [batch, 32, width, 1] in [0, 1]."""
  rng = np.random.default_rng(seed)
  coarse = rng.uniform(0, 1, (batch, 8, width // 4, 1))
  return np.kron(coarse, np.ones((1, 4, 4, 1))).astype(np.float32)
