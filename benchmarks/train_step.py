"""Our CRNN training step beside the same network in PyTorch.

  pip install -r benchmarks/requirements-torch.txt
  python benchmarks/train_step.py --out=runs/train_step.json

Lines per second of forward, backward and update at the same batch size, width
and threads, each in a process of its own, in turns. PyTorch runs with both of
its memory layouts and the better one counts. The binary network is shown for
information: here its 1-bit weights are simulated in float.

PyTorch may live in another environment: --torch-python=PATH. On two idle cores,
2 min; expect a ratio of at least 1.0.
"""

import argparse
import statistics
import sys

import turns

LAYOUTS = ("contiguous", "channels_last")


def main() -> None:
  options = _options()
  turns.share_cores(options.threads)
  batch, width = options.batch_size, options.width
  players = {
    f"torch {layout}": turns.Contestant(
      "step_torch.py",
      batch,
      width,
      options.threads,
      layout,
      python=options.torch_python,
    )
    for layout in LAYOUTS
  }
  for backbone in ("mobilenet", "binary"):
    players[f"jaxocr {backbone}"] = turns.Contestant(
      "step_jax.py", backbone, batch, width, "step"
    )
  parameters = _same_parameters(players)
  speeds = turns.play(players, rounds=options.rounds)
  for player in players.values():
    player.close()

  medians = {name: statistics.median(speeds[name]) for name in players}
  rival = max((f"torch {layout}" for layout in LAYOUTS), key=medians.get)
  ratio = turns.ratio(speeds["jaxocr mobilenet"], speeds[rival])
  kernels = players["jaxocr mobilenet"].facts["kernels"]
  print(
    f"training step, batch {batch}, 32x{width} px, {options.threads} threads,"
    f" {parameters:,} parameters, median of {options.rounds} turns, ours with"
    f" kernels: {kernels}"
  )
  for name, median in medians.items():
    spread = f"{min(speeds[name]):.0f} to {max(speeds[name]):.0f}"
    print(f"  {name:22s} {median:7.0f} lines/s  ({spread})")
  print(f"jaxocr mobilenet / {rival}: {ratio:.2f}x (at least 1.0 expected)")
  if options.out:
    turns.write(
      options.out,
      {
        "ratio": ratio,
        "rival": rival,
        "lines_per_s": medians,
        "turns": speeds,
        "parameters": parameters,
        "kernels": kernels,
        "batch_size": batch,
        "width": width,
        "threads": options.threads,
      },
    )


def _same_parameters(players) -> int:
  """Parameters of the float network, which both sides must agree on."""
  ours = players["jaxocr mobilenet"].facts["parameters"]
  theirs = players["torch contiguous"].facts["parameters"]
  if ours != theirs:
    sys.exit(
      f"jaxocr has {ours:,} parameters, the PyTorch network {theirs:,}: they"
      " are not the same network; bring step_torch.py up to date"
    )
  return ours


def _options() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--torch-python", default=sys.executable)
  parser.add_argument("--batch-size", type=int, default=64)
  parser.add_argument("--width", type=int, default=128, help="px")
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--rounds", type=int, default=31)
  parser.add_argument("--out", help="JSON file to write")
  return parser.parse_args()


if __name__ == "__main__":
  main()
