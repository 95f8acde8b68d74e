"""Time and memory to product-quantise AlexNet's dense layers, 58.6 M weights.

  PYTHONPATH=. python benchmarks/pq_dense.py

Random weights and random inputs after ReLU (of rank 512 and some noise): k-
means, moments of --rows inputs, --sweeps of error correction, packing. Prints a
line a layer and writes --json.
"""

import argparse
import json
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr import files
from jaxocr.compress import codebook
from jaxocr.compress import correct
from jaxocr.compress import packed

# Kernel, d, K: the published setting of AlexNet.
LAYERS = {
  "fc6": ((9216, 4096), 4, 32),
  "fc7": ((4096, 4096), 4, 32),
  "fc8": ((4096, 1000), 1, 16),
}
_BATCH = 512
_RANK = 512


def peak_gb() -> float:
  """Most memory that this process has held, GB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def quantise(name, shape, d, codewords, *, rows, sweeps) -> dict:
  rng = np.random.default_rng(0)
  kernel = rng.standard_normal(shape, np.float32) / np.sqrt(shape[0])
  kernel = jnp.asarray(kernel)
  mixing = jnp.asarray(rng.standard_normal((_RANK, shape[0]), np.float32))
  started = time.perf_counter()
  fitted = codebook.fit(kernel, d=d, codewords=codewords, storage="float16")
  jax.block_until_ready(fitted)
  clustered = time.perf_counter()

  @jax.jit
  def inputs(key):
    deep, noise = jax.random.split(key)
    x = jax.random.normal(deep, (_BATCH, _RANK)) @ mixing / np.sqrt(_RANK)
    return jax.nn.relu(x + 0.3 * jax.random.normal(noise, x.shape))[None]

  moments = correct.no_moments(*shape)
  for i in range(-(-rows // _BATCH)):
    x = inputs(jax.random.key(i))
    moments = correct.add_rows(moments, x, x @ kernel)
  jax.block_until_ready(moments)
  seen = time.perf_counter()
  found = correct.correct(
    *fitted, moments, shape=shape, storage="float16", sweeps=sweeps
  )
  stored = packed.pack_codebooks(
    found.books, found.codes, shape=shape, storage="float16", dtype="float32"
  )
  ended = time.perf_counter()
  row = {
    "layer": name,
    "weights": shape[0] * shape[1],
    "k_means_s": clustered - started,
    "moments_s": seen - clustered,
    "correction_s": ended - seen,
    "peak_gb": peak_gb(),
    "ratio": 4 * shape[0] * shape[1] / stored.nbytes,
    "error_before": found.errors[0],
    "error_after": found.errors[-1],
  }
  print(
    f"{name}: k-means {row['k_means_s']:.0f} s, moments {row['moments_s']:.0f} "
    f"s, correction {row['correction_s']:.0f} s; response error "
    f"{row['error_before']:.2%} -> {row['error_after']:.2%}, "
    f"{row['ratio']:.1f} times smaller; {row['peak_gb']:.2f} GB at most so far",
    flush=True,
  )
  return row


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--rows", type=int, default=4096)
  parser.add_argument("--sweeps", type=int, default=1)
  parser.add_argument("--layers", default="fc6,fc7,fc8")
  parser.add_argument("--json", default="pq_dense.json")
  args = parser.parse_args()
  started = time.perf_counter()
  rows = [
    quantise(name, *LAYERS[name], rows=args.rows, sweeps=args.sweeps)
    for name in args.layers.split(",")
  ]
  seconds = time.perf_counter() - started
  print(f"all: {seconds:.0f} s, {peak_gb():.2f} GB")
  figures = {"layers": rows, "seconds": seconds, "peak_gb": peak_gb()}
  with files.aside(args.json) as part:
    part.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
