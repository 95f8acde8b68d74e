"""`jaxocr data`: what a set of labelled lines holds, and other forms of it.

  jaxocr data stats PATH [--alphabet A] [--labels-only] [--json]
  jaxocr data show PATH --out sheet.png
  jaxocr data convert PATH OUT --to lmdb|array_record|paddle
  jaxocr data split PATH OUT --shares train=0.9,val=0.1

PATH is whatever `jaxocr.data.readers.open_lines` opens.
"""

import argparse
import dataclasses
import json
import pathlib

_FORMATS = ("lmdb", "array_record", "paddle")  # Of data.convert.WRITERS.
_PATH_HELP = (
  "label file, folder, LMDB, array_record or zip file, or tfds:NAME[:SPLIT]"
)
_SHEET_PX = 384  # Width of a line in the sheet; longer ones are cut.


def add_parser(commands) -> argparse.ArgumentParser:
  """Adds `data` to the parser of the `jaxocr` command, and returns it.

  Each sub-command sets `run`: args -> text to print. It raises OSError,
  ValueError or ModuleNotFoundError.
  """
  data = commands.add_parser(
    "data",
    help="look at sets of labelled lines, convert and split them",
    description=__doc__.partition("\n")[0],
  )
  verbs = data.add_subparsers(required=True, metavar="VERB")
  stats = _add(verbs, "stats", _stats, "count lines, lengths and characters")
  stats.add_argument(
    "--alphabet", help="numeric, latin or a file: says what it lacks"
  )
  stats.add_argument(
    "--labels-only", action="store_true", help="leave the images unread"
  )
  stats.add_argument("--json", action="store_true", help="as one JSON object")
  show = _add(verbs, "show", _show, "draw a contact sheet of lines and labels")
  show.add_argument("--out", required=True, metavar="PNG")
  show.add_argument("--count", type=int, default=48, help="default: 48")
  show.add_argument("--columns", type=int, default=3, help="default: 3")
  show.add_argument(
    "--seed", type=int, help="lines at random rather than at even distances"
  )
  convert = _add(verbs, "convert", _convert, "write the set in another format")
  split = _add(verbs, "split", _split, "write the set in parts")
  split.add_argument(
    "--shares",
    default="train=0.9,val=0.1",
    help="NAME=SHARE,... (default: train=0.9,val=0.1)",
  )
  split.add_argument("--seed", type=int, default=0, help="default: 0")
  for verb in (convert, split):
    verb.add_argument("out", metavar="OUT", help="folder that is new")
    verb.add_argument(
      "--to", choices=_FORMATS, default="lmdb", help="default: lmdb"
    )
  return data


def _add(verbs, name, run, help) -> argparse.ArgumentParser:
  verb = verbs.add_parser(name, help=help)
  verb.add_argument("path", metavar="PATH", help=_PATH_HELP)
  verb.set_defaults(run=run)
  return verb


def _stats(args: argparse.Namespace) -> str:
  from jaxocr.data import readers
  from jaxocr.data import stats
  from jaxocr.text import alphabet as alphabet_lib

  alphabet = args.alphabet and alphabet_lib.load_alphabet(args.alphabet)
  found = stats.measure(
    readers.open_lines(args.path), images=not args.labels_only
  )
  if not args.json:
    return stats.describe(found, alphabet)
  fields = dataclasses.asdict(found)
  if alphabet:
    fields["outside"] = stats.outside(found.characters, alphabet)
  return json.dumps(fields)


def _show(args: argparse.Namespace) -> str:
  import numpy as np

  from jaxocr import files
  from jaxocr.data import preprocess
  from jaxocr.data import readers
  from jaxocr.data import sheet

  lines = readers.open_lines(args.path)
  places = np.linspace(0, len(lines) - 1, min(args.count, len(lines)))
  if args.seed is not None:
    rng = np.random.default_rng(args.seed)
    places = rng.permutation(len(lines))[: args.count]
  images, labels, broken = [], [], 0
  for place in places:
    try:
      grey, label = lines[int(place)]
      line, _ = preprocess.line_array(grey)
    except preprocess.PreprocessError:
      broken += 1
      continue
    images.append(preprocess.pad_to_bucket(line[:, :_SHEET_PX], _SHEET_PX))
    labels.append(label)
  if not images:
    raise ValueError(f"{args.path}: no line to show; {lines.summary()}")
  picture = sheet.contact_sheet(np.stack(images), labels, columns=args.columns)
  with files.aside(args.out) as part:
    picture.save(part, "PNG")
  lost = f", {broken} unreadable" if broken else ""
  return f"{args.out}: {len(images)} of {len(lines):,} lines{lost}"


def _convert(args: argparse.Namespace) -> str:
  from jaxocr.data import convert
  from jaxocr.data import readers

  return convert.convert(readers.open_lines(args.path), args.out, to=args.to)


def _split(args: argparse.Namespace) -> str:
  from jaxocr.data import convert
  from jaxocr.data import readers

  shares = _shares(args.shares, pathlib.Path(args.out))
  return convert.split(
    readers.open_lines(args.path), shares, to=args.to, seed=args.seed
  )


def _shares(text: str, out: pathlib.Path) -> dict[pathlib.Path, float]:
  """`train=0.9,val=0.1` as folders in `out`."""
  shares = {}
  for part in text.split(","):
    name, _, share = part.partition("=")
    try:
      shares[out / name] = float(share)
    except ValueError:
      shares[out / name] = 0.0
    if not name or "/" in name or not 0 < shares[out / name] < float("inf"):
      raise ValueError(
        f"--shares={text}: {part!r} is not NAME=SHARE with a share above 0; "
        "write train=0.9,val=0.1"
      )
  return shares
