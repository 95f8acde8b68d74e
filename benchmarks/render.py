"""Our renderer beside TextRecognitionDataGenerator and beside a Pillow loop.

  python3.11 -m venv /tmp/trdg
  /tmp/trdg/bin/pip install -r benchmarks/requirements-trdg.txt
  python benchmarks/render.py --trdg-python=/tmp/trdg/bin/python \
    --out=runs/render.json

Lines per second of 32 px lines, the same labels and fonts, the same cores, in
turns; trdg, and Pillow in one of its two rows, get a process for each core.
Ours draws with all of its effects, the others with those they have (skew,
distortion, blur, noise). Then, again in turns, what drawing a batch costs as a
share of the binary network's training step that draws and learns.

On two idle cores, 3 min; expect at least 50x trdg and at most 15 % of a step.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile

import turns

OURS = "jaxocr"


def main() -> None:
  options = _options()
  turns.share_cores(options.threads)
  speeds = _contest(options)
  medians = {name: statistics.median(s) for name, s in speeds.items()}
  ratios = {
    name: turns.ratio(speeds[OURS], speeds[name])
    for name in speeds
    if name != OURS
  }
  print(
    f"lines of 32x{options.width} px, {options.threads} cores, median of"
    f" {options.rounds} turns"
  )
  for name, median in medians.items():
    beside = f"  jaxocr is {ratios[name]:.1f}x" if name in ratios else ""
    print(f"  {name:20s} {median:8.0f} lines/s{beside}")
  share = _share_of_step(options)
  print(
    f"drawing takes {share:.1%} of a training step (at most 15 % expected;"
    " at least 50x trdg)"
  )
  if options.out:
    turns.write(
      options.out,
      {
        "ratios": ratios,
        "lines_per_s": medians,
        "share_of_step": share,
        "turns": speeds,
        "batch_size": options.batch_size,
        "width": options.width,
        "threads": options.threads,
      },
    )


def _contest(options) -> dict[str, list[float]]:
  ours = turns.Contestant("lines_jax.py", options.batch_size, options.width, 8)
  with tempfile.TemporaryDirectory() as folder:
    assets = pathlib.Path(folder, "assets.json")
    assets.write_text(json.dumps(ours.facts), encoding="utf-8")
    players = {OURS: ours}
    players["trdg"] = turns.Contestant(
      "lines_trdg.py",
      assets,
      options.threads,
      32,
      python=options.trdg_python,
    )
    for count in sorted({1, options.threads}):
      players[f"Pillow, {count} process"] = turns.Contestant(
        "lines_pillow.py", assets, count, 512, options.width
      )
    speeds = turns.play(players, rounds=options.rounds)
    for player in players.values():
      player.close()
  return speeds


def _share_of_step(options) -> float:
  """Seconds of drawing a batch over those of a step that draws and learns."""
  players = {
    what: turns.Contestant(
      "step_jax.py", "binary", options.batch_size, options.width, what
    )
    for what in ("draw", "whole")
  }
  speeds = turns.play(players, rounds=options.rounds)
  for player in players.values():
    player.close()
  return turns.ratio(speeds["whole"], speeds["draw"])


def _options() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument(
    "--trdg-python",
    default=sys.executable,
    help="interpreter of an environment with trdg, which needs pillow < 10",
  )
  parser.add_argument("--batch-size", type=int, default=64)
  parser.add_argument("--width", type=int, default=128, help="px")
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--rounds", type=int, default=21)
  parser.add_argument("--out", help="JSON file to write")
  return parser.parse_args()


if __name__ == "__main__":
  main()
