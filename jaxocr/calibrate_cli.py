"""`jaxocr calibrate`: the temperature that makes confidences come true."""

import argparse


def add_parser(commands) -> argparse.ArgumentParser:
  """Adds `calibrate` to the parser of the `jaxocr` command, and returns it."""
  parser = commands.add_parser(
    "calibrate",
    help="make confidences come true on labelled lines",
    description="Fits one temperature for the logits so that a line's "
    "confidence is the share of such lines read exactly. Prints it, for "
    "`jaxocr read --temperature`, with the reliability before and after.",
  )
  parser.add_argument(
    "--model",
    metavar="MODEL",
    help="a run's folder, a bundle file or a name (default: the shipped one)",
  )
  parser.add_argument(
    "--data", metavar="D", required=True, help="a set of labelled lines"
  )
  parser.add_argument("--out", metavar="PNG", help="draw the reliability")
  parser.set_defaults(run=_run)
  return parser


def _run(args: argparse.Namespace) -> str:
  from jaxocr import calibration

  found = calibration.calibrate(args.model, args.data)
  told = calibration.describe(found)
  if args.out:
    calibration.draw(found, args.out)
    told += f"\n{args.out}"
  return told
