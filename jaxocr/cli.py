"""The `jaxocr` command.

  jaxocr read [--model MODEL] IMG [IMG...] [--json] [--chars]
  jaxocr models
  jaxocr info MODEL [--json]
  jaxocr export MODEL --to onnx|mnn [--int8] [--dense] [--check]
  jaxocr inspect RUN IMG --out FOLDER
  jaxocr render --out sheet.png
  jaxocr data stats|show|convert|split PATH
  jaxocr eval [--model MODEL] --data PATH [PATH...] [--protocol P] [--csv CSV]
  jaxocr calibrate [--model MODEL] --data PATH [--out PNG]

MODEL is a run's folder, a bundle file, or a name that `jaxocr models` lists.

Exit code 0: all went well; 1: some image failed, the others were printed;
2: wrong usage, or nothing could be done. Imports that take time wait for the
command that needs them, so that --help answers at once.
"""

import argparse
from collections.abc import Sequence
import json
import os
import sys

import jaxocr
from jaxocr import calibrate_cli
from jaxocr import cpu
from jaxocr import data_cli
from jaxocr import decode_cli
from jaxocr import describe
from jaxocr import eval_cli
from jaxocr import export_cli
from jaxocr import exporting
from jaxocr import zoo

OK, SOME_FAILED, WRONG_USAGE = 0, 1, 2
_INTERRUPTED, _BROKEN_PIPE = 130, 141  # As a shell reports these signals.

# Images read before their texts are printed: many, to fill batches.
_READ_AT_ONCE = 256
# Rendered lines are as bnn_crnn trains on: this wide, and as wide for each
# character that a label may have.
_LINE_PX = 96
_CHARACTER_PX = 12
_MODEL_HELP = (
  "a run's folder, a bundle file, or a name that `jaxocr models` lists"
)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command line (sys.argv when None) and returns its exit code."""
  args = _make_parser().parse_args(argv)
  cpu.prefer_wide_vectors()  # As in training, so that both compute the same.
  try:
    code = args.command(args)
    sys.stdout.flush()
  except KeyboardInterrupt:
    return _INTERRUPTED
  except BrokenPipeError:
    # Nobody reads on (`| head`); Python would complain at exit when it flushes.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _BROKEN_PIPE
  return code


def _make_parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="jaxocr",
    description=jaxocr.__doc__,
    epilog="Exit code: 0 all well, 1 some image failed, 2 wrong usage.",
  )
  parser.add_argument(
    "--version", action="version", version=f"jaxocr {jaxocr.__version__}"
  )
  commands = parser.add_subparsers(required=True, metavar="COMMAND")
  _add_read(commands)
  _add_models(commands)
  _add_info(commands)
  export_cli.add_parser(commands).set_defaults(command=_export)
  _add_inspect(commands)
  _add_render(commands)
  for part in (data_cli, eval_cli, calibrate_cli):
    part.add_parser(commands).set_defaults(command=_run)
  return parser


def _add_read(commands) -> None:
  read = commands.add_parser(
    "read",
    help="read images of text lines",
    description="Prints `path<TAB>text` for each image, in the order given.",
  )
  read.add_argument(
    "--model",
    metavar="MODEL",
    help=f"{_MODEL_HELP} (default: {zoo.DEFAULT})",
  )
  read.add_argument(
    "--engine",
    choices=("jax", "onnx", "mnn"),
    default="jax",
    help="what computes; for onnx and mnn MODEL may be a file that `jaxocr "
    "export` wrote (default: jax, or by the suffix of such a file)",
  )
  read.add_argument(
    "images", nargs="+", metavar="IMG", help="image of one line"
  )
  read.add_argument(
    "--json",
    action="store_true",
    help="one JSON object a line: path, text, confidence, or path, error",
  )
  read.add_argument(
    "--chars",
    action="store_true",
    help="also each character: <TAB>character<TAB>confidence<TAB>x0<TAB>x1, "
    "or in JSON a list `characters`; x in pixels of the upright image",
  )
  read.add_argument(
    "--lines",
    action="store_true",
    help="cut each image, a page of one column, into lines by its profile; "
    "prints `path:number<TAB>text`",
  )
  decode_cli.add_arguments(read)
  read.set_defaults(command=_read)


def _add_models(commands) -> None:
  models = commands.add_parser(
    "models",
    help="list the recognisers that come with the package",
    description="Lists the recognisers that come with the package: size, line "
    "accuracy on rendered and on real lines where it is known, alphabet, and "
    "the start of the content hash.",
  )
  models.set_defaults(command=_models)


def _add_info(commands) -> None:
  info = commands.add_parser(
    "info",
    help="say what a recogniser is and what each parameter occupies",
    description="Prints what a bundle says of itself, and of each parameter "
    "its form, bytes, and multiply-accumulates for a line of "
    f"{describe.LINE_PX} pixels.",
  )
  info.add_argument("model", metavar="MODEL", help=_MODEL_HELP)
  info.add_argument("--json", action="store_true", help="as one JSON object")
  info.set_defaults(command=_info)


def _add_inspect(commands) -> None:
  inspect = commands.add_parser(
    "inspect",
    help="draw what a digit network sees in a photo of a digit",
    description="Reads a photo of one digit and writes PNGs: the image as the "
    "network gets it, the maps of each layer, the first layer's filters, and "
    "which pixels matter (saliency).",
  )
  inspect.add_argument(
    "model", metavar="MODEL", help="a digit run's folder, or its bundle file"
  )
  inspect.add_argument("image", metavar="IMG", help="photo of one digit")
  inspect.add_argument(
    "--out", required=True, metavar="FOLDER", help="for the PNGs"
  )
  inspect.set_defaults(command=_inspect)


def _add_render(commands) -> None:
  render = commands.add_parser(
    "render",
    help="draw a contact sheet of rendered training lines",
    description="Writes a PNG of rendered lines, each above its label.",
  )
  render.add_argument(
    "--out", required=True, metavar="PNG", help="file to write"
  )
  render.add_argument(
    "--alphabet",
    default="numeric",
    help="numeric, latin, or a file of one character a line (default: numeric)",
  )
  render.add_argument(
    "--fonts",
    metavar="DIR[,DIR]",
    help="folders of .ttf and .otf files, besides the default fonts",
  )
  render.add_argument("--seed", type=int, default=0, help="default: 0")
  render.add_argument(
    "--rows", type=export_cli.positive, default=16, help="default: 16"
  )
  render.add_argument(
    "--columns", type=export_cli.positive, default=4, help="default: 4"
  )
  render.add_argument(
    "--width",
    type=export_cli.positive,
    default=_LINE_PX,
    help=f"of a line, pixels (default: {_LINE_PX})",
  )
  render.set_defaults(command=_render)


def _fail(error: Exception) -> int:
  _complain(" ".join(str(error).split()))
  return WRONG_USAGE


def _complain(message: str) -> None:
  print(_printable(f"jaxocr: {message}", sys.stderr), file=sys.stderr)


def _printable(text: str, stream) -> str:
  """`text`, escaped where the stream cannot encode it, as odd file names."""
  encoding = stream.encoding or "utf-8"
  return text.encode(encoding, "backslashreplace").decode(encoding)


def _read(args: argparse.Namespace) -> int:
  from jaxocr import reader as reader_lib

  try:
    reader = exporting.open_reader(
      args.model, args.engine, **decode_cli.options(args)
    )
  except (ImportError, OSError, ValueError) as error:
    return _fail(error)
  code = OK
  for start in range(0, len(args.images), _READ_AT_ONCE):
    paths = args.images[start : start + _READ_AT_ONCE]
    if args.lines:
      paths, results = _read_pages(reader, paths)
    else:
      results = reader.read(paths)
    for path, result in zip(paths, results, strict=True):
      if isinstance(result, reader_lib.ReadError):
        _complain(f"{path}: {result.message}")
        code = SOME_FAILED
        if args.json:
          print(json.dumps({"path": path, "error": result.message}))
      else:
        print(_format(path, result, args))
    sys.stdout.flush()
  return code


def _read_pages(reader, paths: Sequence[str]) -> tuple[list[str], list]:
  """Of each page's lines, `path:number` and what was read."""
  from jaxocr import reader as reader_lib
  from jaxocr.data import preprocess

  names, results = [], []
  for path in paths:
    try:
      found = reader.read_page(path)
    except preprocess.PreprocessError as error:
      names.append(path)
      results.append(reader_lib.ReadError(str(error)))
      continue
    names += [f"{path}:{number}" for number in range(1, len(found) + 1)]
    results += [line.reading for line in found]
  return names, results


def _format(path: str, reading, args: argparse.Namespace) -> str:
  if args.json:
    fields = {
      "path": path,
      "text": reading.text,
      "confidence": reading.confidence,
    }
    if reading.rejected:
      fields["rejected"] = True
    if args.chars:
      fields["characters"] = [vars(char) for char in reading.characters]
    return json.dumps(fields)
  lines = [f"{path}\t{reading.text}"]
  if args.chars:
    lines += [
      f"\t{c.char}\t{c.confidence:.3f}\t{c.x0:.1f}\t{c.x1:.1f}"
      for c in reading.characters
    ]
  return _printable("\n".join(lines), sys.stdout)


def _models(args: argparse.Namespace) -> int:
  from jaxocr import reader as reader_lib

  names = zoo.names()
  if not names:
    return _fail(FileNotFoundError("no recogniser comes with this copy"))
  code = OK
  rows = [("name", "bytes", "rendered", "real", "alphabet", "hash")]
  for name in names:
    path = zoo.path(name)
    try:
      meta = reader_lib.load_model(path).stored.meta
    except (OSError, ValueError) as error:
      _fail(error)
      code = SOME_FAILED
      continue
    real = meta["training"].get("real", {})
    rows.append(
      (
        f"{name} (default)" if name == zoo.DEFAULT else name,
        f"{path.stat().st_size:,}",
        _accuracy(meta["training"]),
        _accuracy(real) + (f" of {real['n']:,}" if "n" in real else ""),
        describe.alphabet(meta["alphabet"]),
        meta["content_hash"][:12],
      )
    )
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    cells = [cell.ljust(w) for cell, w in zip(row, widths, strict=True)]
    print(_printable("  ".join(cells).rstrip(), sys.stdout))
  return code


def _accuracy(figures: dict) -> str:
  known = figures.get("line_accuracy")
  return "-" if known is None else f"{known:.3f}"


def _info(args: argparse.Namespace) -> int:
  from jaxocr import reader as reader_lib

  try:
    path = reader_lib.find_model(args.model)
    model = reader_lib.load_model(path)
  except (OSError, ValueError) as error:
    return _fail(error)
  if args.json:
    print(json.dumps(describe.fields(path, model)))
  else:
    print(_printable(describe.text(path, model), sys.stdout))
  return OK


def _export(args: argparse.Namespace) -> int:
  try:
    for line in export_cli.run(args):
      print(_printable(line, sys.stdout), flush=True)
  except (ImportError, OSError, ValueError) as error:
    return _fail(error)
  return OK


def _inspect(args: argparse.Namespace) -> int:
  from jaxocr import inspection
  from jaxocr.data import preprocess

  try:
    told = inspection.report(args.model, args.image, args.out)
  except preprocess.PreprocessError as error:
    return _fail(ValueError(f"{args.image}: {error}"))
  except (OSError, ValueError) as error:
    return _fail(error)
  print(_printable(told, sys.stdout))
  return OK


def _render(args: argparse.Namespace) -> int:
  from jaxocr.data import sheet

  try:
    images, labels = _rendered_lines(args)
    picture = sheet.contact_sheet(images, labels, columns=args.columns)
    _save(picture, args.out)
  except (OSError, ValueError) as error:
    return _fail(error)
  print(f"{args.out}: {len(labels)} lines")
  return OK


def _run(args: argparse.Namespace) -> int:
  """A command whose `run` gives the text to print."""
  try:
    told = args.run(args)
  except (OSError, ValueError, ModuleNotFoundError) as error:
    return _fail(error)
  print(_printable(told, sys.stdout))
  return OK


def _rendered_lines(args: argparse.Namespace):
  """Images [N, H, W] in [0, 1] and N labels, as training would see them."""
  import jax

  from jaxocr import exact
  from jaxocr.data import atlas as atlas_lib
  from jaxocr.data import corpus as corpus_lib
  from jaxocr.data import preprocess
  from jaxocr.data import render
  from jaxocr.data import source
  from jaxocr.text import alphabet as alphabet_lib

  alphabet = alphabet_lib.load_alphabet(args.alphabet)
  fonts = atlas_lib.default_fonts()
  if args.fonts:
    fonts += atlas_lib.find_fonts(args.fonts.split(","))
  max_length = max(1, args.width // _CHARACTER_PX)
  assets, sample = source.make_synthetic_source(
    atlas_lib.build_atlas(fonts, alphabet),
    corpus_lib.make_corpus(alphabet, max_length=max_length),
    height=preprocess.HEIGHT_PX,
    width=args.width,
    max_length=max_length,
    strengths=render.RenderStrengths(),
  )
  keys = jax.random.split(jax.random.key(args.seed), args.rows * args.columns)
  batch = jax.device_get(jax.jit(exact.products(sample))(assets, keys))
  return batch.image[:, :, :, 0], [alphabet.decode(ids) for ids in batch.label]


def _save(picture, out: str) -> None:
  """Writes a PNG aside, then renames it into place."""
  from jaxocr import files

  with files.aside(out) as part:
    picture.save(part, "PNG")
