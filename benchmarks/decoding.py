"""What each way of decoding gives on labelled sets, from the same logits.

  python benchmarks/decoding.py --data SET [SET...] [--model MODEL]
    [--protocol str36] [--lexicon WORDS] [--lm TEXT] [--tune SET]

Prints a row a decoding: accuracy on each set and decoding time a line. With
--tune, the penalty of the lexicon and the weight of the language model are
those that read most of that set, which must be none of the others.
"""

import argparse
import itertools
import json
import time

import numpy as np

from jaxocr import cpu
from jaxocr import reader as reader_lib
from jaxocr.data import real
from jaxocr.text import decode
from jaxocr.text import protocols

_BEAMS = (4, 16)
_PENALTIES = (1.0, 2.0, 3.0, 5.0, 8.0)
_WEIGHTS = (0.15, 0.3, 0.5)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--model")
  parser.add_argument("--data", nargs="+", required=True)
  parser.add_argument("--protocol", default="raw")
  parser.add_argument("--lexicon")
  parser.add_argument("--lm")
  parser.add_argument("--tune")
  parser.add_argument("--limit", type=int, help="of lines of each set")
  parser.add_argument(
    "--inside",
    action="store_true",
    help="only lines whose labels the model can write",
  )
  parser.add_argument("--json")
  args = parser.parse_args()
  cpu.prefer_wide_vectors()  # As the command does.
  reader = reader_lib.Reader.load(args.model)
  sets = {path: _logits(reader, path, args) for path in args.data}
  rows = []

  def measure(name, option):
    row = {"decoding": name, "options": option}
    for path, lines in sets.items():
      row[path] = _measure(reader, lines, option, args.protocol)
    rows.append(row)
    told = ", ".join(
      f"{path} {row[path]['accuracy']:.4f} of {row[path]['n']:,} "
      f"({row[path]['ms']:.2f} ms a line)"
      for path in sets
    )
    print(f"{name}: {told} {option}", flush=True)

  measure("greedy", {})
  for width in _BEAMS:
    measure(f"beam {width}", {"beam": width})
  tuned = _logits(reader, args.tune, args) if args.tune else None
  files = {"lexicon": args.lexicon, "lm": args.lm}
  files = {name: path for name, path in files.items() if path}
  for names in [(n,) for n in files] + [tuple(files)] * (len(files) > 1):
    chosen = {name: files[name] for name in names}
    if tuned:
      chosen |= _tune(reader, tuned, chosen, args.protocol)
    measure(" and ".join(names), chosen)
  if args.json:
    with open(args.json, "w", encoding="utf-8") as file:
      json.dump(rows, file, indent=2)


def _logits(reader, path, args):
  """(logits [T, K], label) of each line."""
  found = real.read_labels(path, reader.alphabet)
  print(found.summary(), flush=True)
  items = found.items if args.inside else found.all_items
  items = items[: args.limit]
  lines = [item.pixels.astype(np.float32) / 255 for item in items]
  labels = [item.label for item in items]
  return list(zip(reader.logits(lines), labels, strict=True))


def _measure(reader, lines, option, protocol) -> dict:
  decoding = decode.make_decoding(reader.alphabet, **option)
  start = time.perf_counter()
  readings = [
    decode.decode(logits[None], reader.alphabet, decoding)[0]
    for logits, _ in lines
  ]
  seconds = time.perf_counter() - start
  figures = protocols.score(
    [reading.text for reading in readings],
    [label for _, label in lines],
    [reading.confidence for reading in readings],
    protocol=protocol,
  )
  return {
    "accuracy": figures.accuracy,
    "exact": figures.exact,
    "n": figures.n,
    "cer": figures.cer,
    "ms": 1e3 * seconds / max(1, len(lines)),
  }


def _tune(reader, lines, files, protocol) -> dict:
  """The numbers that read most of `lines`."""
  penalties = _PENALTIES if "lexicon" in files else (decode.LEXICON_PENALTY,)
  weights = _WEIGHTS if "lm" in files else (decode.LM_WEIGHT,)
  best, chosen = -1.0, {}
  for penalty, weight in itertools.product(penalties, weights):
    numbers = {"lexicon_penalty": penalty, "lm_weight": weight}
    found = _measure(reader, lines, {**files, **numbers}, protocol)
    print(f"  tuning {numbers}: {found['accuracy']:.4f}", flush=True)
    if found["accuracy"] > best:
      best, chosen = found["accuracy"], numbers
  return chosen


if __name__ == "__main__":
  main()
