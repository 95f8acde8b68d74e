"""When does look-up inference pay? Codebooks and codes against the dense layer.

  PYTHONPATH=. python benchmarks/lookup.py --rounds=7

Each layer in turns, jitted, at the batch sizes given; prints the ratio of the
medians beside that of the operations, and writes --json.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr import files
from jaxocr.compress import codebook
from jaxocr.models import layers
from jaxocr.models import lookup

# Name -> kernel, d, K, height and width of a convolution's input.
LAYERS = {
  "AlexNet fc6, d=4, K=32": ((9216, 4096), 4, 32, ()),
  "AlexNet fc7, d=4, K=32": ((4096, 4096), 4, 32, ()),
  "AlexNet fc7, d=8, K=16": ((4096, 4096), 8, 16, ()),
  "AlexNet conv3, d=8, K=128": ((3, 3, 256, 384), 8, 128, (13, 13)),
  "CRNN block5, d=4, K=64": ((3, 3, 96, 96), 4, 64, (2, 24)),
  "CRNN BiLSTM input, d=4, K=64": ((96, 384), 4, 64, ()),
}


def make(shape, d, codewords, size, batch):
  """(dense, look-up), functions of no argument, compiled."""
  rng = np.random.default_rng(0)
  sets, taps, outputs, d = codebook.spaces(shape, d)
  books = jnp.asarray(rng.normal(size=(sets, codewords, d)), jnp.float32)
  codes = rng.integers(codewords, size=(sets, taps, outputs))
  codes = jnp.asarray(codes, jnp.uint8)
  x = rng.normal(size=(batch, *size, shape[-2]))
  x = jnp.asarray(x, jnp.float32)
  kernel = jax.block_until_ready(codebook.join(books, codes, shape))
  if size:
    around = layers.same_padding(shape[0])
    one = jax.jit(layers.spatial_conv)
    other = jax.jit(
      lambda x, b, c: lookup.conv(x, b, c, size=shape[0], padding=around)
    )
  else:
    one, other = jax.jit(layers.product), jax.jit(lookup.dense)
  np.testing.assert_allclose(
    one(x, kernel), other(x, books, codes), rtol=1e-3, atol=1e-2
  )
  return lambda: one(x, kernel), lambda: other(x, books, codes)


def timed(function, seconds=0.2) -> float:
  """Milliseconds of a call, the mean over some `seconds`."""
  started, calls = time.perf_counter(), 0
  while (spent := time.perf_counter() - started) < seconds:
    jax.block_until_ready(function())
    calls += 1
  return 1000 * spent / calls


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--batches", default="1,16")
  parser.add_argument("--json", default="lookup.json")
  args = parser.parse_args()
  rows = []
  for name, (shape, d, codewords, size) in LAYERS.items():
    for batch in map(int, args.batches.split(",")):
      pair = make(shape, d, codewords, size, batch)
      turns = [[timed(f) for f in pair] for _ in range(args.rounds)]
      dense, looked_up = map(statistics.median, zip(*turns, strict=True))
      places = int(np.prod(size, dtype=int))
      counted = lookup.operations(
        shape, d=d, codewords=codewords, places_in=places, places_out=places
      )
      rows.append(
        {
          "layer": name,
          "batch": batch,
          "dense_ms": dense,
          "look_up_ms": looked_up,
          "ratio": dense / looked_up,
          "ratio_of_operations": counted.ratio,
        }
      )
      print(
        f"{name}, batch {batch}: dense {dense:.3f} ms, look-up "
        f"{looked_up:.3f} ms: {dense / looked_up:.2f}x "
        f"({counted.ratio:.2f}x by operations)",
        flush=True,
      )
  with files.aside(args.json) as part:
    part.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
