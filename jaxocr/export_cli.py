"""`jaxocr export`: a bundle as a file for another engine."""

import argparse
from collections.abc import Iterator


def add_parser(commands) -> argparse.ArgumentParser:
  """Adds `export` to the parser of the `jaxocr` command, and returns it."""
  parser = commands.add_parser(
    "export",
    help="write a recogniser of lines or digits as ONNX or MNN, and prove it",
    description="Writes FILE.onnx or FILE.mnn, and FILE.onnx.json or "
    "FILE.mnn.json with the alphabet, the preprocessing and a line to test "
    "oneself with.",
  )
  parser.add_argument(
    "model",
    metavar="MODEL",
    help="a run's folder, a bundle file, or a name that `jaxocr models` lists",
  )
  parser.add_argument("--to", required=True, choices=("onnx", "mnn"))
  parser.add_argument(
    "--out",
    metavar="FILE",
    help="default: named like the model, in this folder",
  )
  parser.add_argument(
    "--int8",
    action="store_true",
    help="compute with 8-bit integers where the model has them",
  )
  parser.add_argument(
    "--dense",
    action="store_true",
    help="ONNX: weights as float32, not packed as in the model; larger, loads "
    "sooner, computes as fast",
  )
  parser.add_argument(
    "--decode",
    action="store_true",
    help="ONNX: the best class of each frame is an output as well",
  )
  parser.add_argument(
    "--check",
    action="store_true",
    help="run the file beside the model: logits, strings, accuracy, time",
  )
  parser.add_argument(
    "--labels",
    metavar="TSV",
    help="real lines for --check, a file of path<TAB>label",
  )
  parser.add_argument(
    "--mnist-dir",
    default="",
    metavar="FOLDER",
    help="MNIST's four files, for --check of a digit network (default: "
    "scikit-learn's digits)",
  )
  parser.add_argument(
    "--threads", type=positive, default=1, help="of --check (default: 1)"
  )
  return parser


def positive(text: str) -> int:
  """A number of things, as an argument."""
  value = int(text)
  if value < 1:
    raise argparse.ArgumentTypeError(f"{text}: give 1 or more")
  return value


def run(args: argparse.Namespace) -> Iterator[str]:
  """Exports; what there is to say, line by line."""
  from jaxocr import exporting

  settings = {k: v for k, v in vars(args).items() if k != "command"}
  yield from exporting.export(**settings)
