"""Do long lines lose characters? Errors of a recogniser by length of line.

  python benchmarks/long_lines.py [--model RUN_OR_FILE_OR_NAME] [--lines 200]

Random strings of the model's alphabet, each length in an image of its own
width, drawn with all effects of the renderer but rotation, perspective and
curve, whose displacement grows with the line. 25 to 36 characters are the
lengths of long scene text (LTB), 100 those of a line of a book.
"""

import argparse
import dataclasses
import json

import jax
import numpy as np

import jaxocr
from jaxocr import cpu
from jaxocr.data import atlas as atlas_lib
from jaxocr.data import render
from jaxocr.text import scores

_PX = 15  # Of a character.
_LENGTHS = (5, 10, 25, 36, 64, 100, 200)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--model", default="numeric-1bit")
  parser.add_argument("--lines", type=int, default=200)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--json")
  args = parser.parse_args()
  rows = measure(args.model, args.lines, args.seed)
  if args.json:
    with open(args.json, "w", encoding="utf-8") as file:
      json.dump(rows, file, indent=2)


def measure(model: str, lines: int, seed: int) -> list[dict]:
  """Draws, reads and counts each length; prints a line of each."""
  cpu.set_up()
  reader = jaxocr.load(model)
  alphabet = reader.alphabet
  atlas = atlas_lib.build_atlas(atlas_lib.default_fonts(), alphabet)
  strengths = dataclasses.replace(
    render.RenderStrengths(), rotation=0.0, perspective=0.0, curve=0.0
  )
  rng = np.random.default_rng(seed)
  solid = [c for c in alphabet.characters if c != " "]
  rows = []
  for length in _LENGTHS:
    texts = ["".join(rng.choice(solid, length)) for _ in range(lines)]
    labels = np.array([alphabet.encode(text) for text in texts], np.int32)
    images = render.render_lines(
      jax.random.key(seed),
      atlas,
      labels,
      np.full(lines, length, np.int32),
      width=_PX * length,
      strengths=strengths,
    )
    images = np.round(255 * np.asarray(images[..., 0])).astype(np.uint8)
    said = [reading.text for reading in reader(list(images))]
    found = {
      "characters": length,
      "lines": lines,
      "cer": scores.divide(scores.character_error_rate(said, texts)),
      "read_per_written": sum(map(len, said)) / (length * lines),
    }
    print(json.dumps(found), flush=True)
    rows.append(found)
  return rows


if __name__ == "__main__":
  main()
