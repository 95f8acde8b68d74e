"""`jaxocr eval`: how well a recogniser reads sets of labelled lines."""

import argparse
import json
import pathlib

from jaxocr import decode_cli


def add_parser(commands) -> argparse.ArgumentParser:
  """Adds `eval` to the parser of the `jaxocr` command, and returns it."""
  parser = commands.add_parser(
    "eval",
    help="measure a recogniser on sets of labelled lines",
    description="Prints accuracy, 1-NED, CER and mean confidence of each set, "
    "then accuracy by length and aspect ratio and the most frequent mistakes.",
  )
  parser.add_argument(
    "--model",
    metavar="MODEL",
    help="a run's folder, a bundle file or a name (default: the shipped one)",
  )
  parser.add_argument(
    "--data",
    metavar="D",
    nargs="+",
    required=True,
    help="sets, in any format that `jaxocr data stats` reads",
  )
  parser.add_argument(
    "--protocol",
    default="raw",
    help="raw, str36, str62 or str94 (default: raw)",
  )
  parser.add_argument(
    "--csv",
    metavar="OUT.csv",
    help="a row a set here; beside it OUT_lines.csv and OUT_worst.html",
  )
  parser.add_argument(
    "--json", action="store_true", help="the table as one JSON object"
  )
  decode_cli.add_arguments(parser)
  parser.set_defaults(run=_run)
  return parser


def _run(args: argparse.Namespace) -> str:
  from jaxocr import evaluation
  from jaxocr import reader as reader_lib
  from jaxocr.text import protocols

  # What is wrong is told before anything is read.
  protocols.fold_of(args.protocol)
  if args.csv and not pathlib.Path(args.csv).resolve().parent.is_dir():
    raise FileNotFoundError(f"--csv={args.csv}: there is no such folder")
  reader = reader_lib.Reader.load(args.model, **decode_cli.options(args))
  sets = [evaluation.judge(reader, path) for path in args.data]
  written = []
  if args.csv:
    written = evaluation.write_csv(args.csv, sets, args.protocol)
  if args.json:
    return json.dumps(evaluation.fields(sets, args.protocol))
  told = evaluation.report(sets, args.protocol)
  return told + "".join(f"\n{path}" for path in written)
