r"""Label files with one line of text an image: TSV and its relatives.

| kind | a line | used by |
|---|---|---|
| tsv | `path<TAB>label`, all after the first tab | PaddleOCR, DTRB |
| icdar | `word_1.png, "label"`, with \" and \\ inside | ICDAR 2013, 2015 |
| easyocr | below `filename,words`: `name,label` | EasyOCR |
| mjsynth | `./1/2/3_label_4.jpg 5`; the label is in the name | MJSynth |
| trdg | `0.jpg label`, all after the first space | TRDG |
| jsonl | `{"filename": "path", "text": "label"}` | Union14M, MMOCR |

Files are UTF-8 with or without a byte order mark, with LF or CRLF.
"""

from collections.abc import Callable, Iterator
import json
import re

from jaxocr.data.readers import folders
from jaxocr.data.readers import lines as lines_lib

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_LOOKED_AT = 200  # Lines that tell what a file is, and where its images are.
_EASYOCR_HEADER = "filename,words"
IMAGE_SUFFIXES = (
  *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
)
_IMAGE = r"[^\t,]*\.(?:png|jpe?g|bmp|tiff?|webp|gif)"
_ICDAR = re.compile(rf'({_IMAGE}),\s*"(.*)"\s*', re.IGNORECASE)
_MJSYNTH = re.compile(r"(\S*?\d+_([^/\\]*)_\d+\.jpg) \d+", re.IGNORECASE)
_TRDG = re.compile(r"(\S+\.(?:png|jpe?g)) (.*)", re.IGNORECASE)

# A line that says nothing of an image and its label raises this.
_Unfit = lines_lib.DataError
Parse = Callable[[str], tuple[str, str]]


def _tsv(row: str) -> tuple[str, str]:
  path, tab, label = row.partition("\t")
  if not tab:
    raise _Unfit(lines_lib.NO_TAB)
  return path, label


def _icdar(row: str) -> tuple[str, str]:
  path, label = _groups(_ICDAR, row)
  return path, re.sub(r'\\(["\\])', r"\1", label)


def _easyocr(row: str) -> tuple[str, str]:
  """EasyOCR takes all after the comma; csv.writer quotes what holds commas."""
  path, comma, label = row.partition(",")
  if not comma:
    raise _Unfit(lines_lib.NO_TAB)
  inner = label[1:-1]
  quoted = len(label) > 1 and label[0] == label[-1] == '"'
  needed = "," in inner or '"' in inner
  if quoted and needed and '"' not in inner.replace('""', ""):
    label = inner.replace('""', '"')
  return path, label


def _mjsynth(row: str) -> tuple[str, str]:
  return _groups(_MJSYNTH, row)


def _trdg(row: str) -> tuple[str, str]:
  return _groups(_TRDG, row)


def _jsonl(row: str) -> tuple[str, str]:
  try:
    fields = json.loads(row)
    path, label = fields["filename"], fields["text"]
  except (ValueError, KeyError, TypeError) as error:
    raise _Unfit("no filename and text in JSON") from error
  if not isinstance(path, str) or not isinstance(label, str):
    raise _Unfit("no filename and text in JSON")
  return path, label


def _groups(pattern: re.Pattern, row: str) -> tuple[str, str]:
  found = pattern.fullmatch(row)
  if not found:
    raise _Unfit(lines_lib.NO_TAB)
  return found.groups()


# In the order in which a file is taken for one of them.
PARSERS: dict[str, Parse] = {
  "jsonl": _jsonl,
  "icdar": _icdar,
  "tsv": _tsv,
  "mjsynth": _mjsynth,
  "trdg": _trdg,
  "easyocr": _easyocr,
}


def read_table(folder: folders.Folder, name: str) -> lines_lib.Lines:
  """Reads a label file, of whichever kind its lines are.

  Raises:
    DataError: It cannot be read, or is no such file.
  """
  try:
    data = folder.read(name)
  except OSError as error:
    raise lines_lib.DataError(
      f"label file {folder.path / name}: {error.strerror}; give a file of "
      "path<TAB>label lines"
    ) from error
  if data.startswith(_UTF16):
    raise lines_lib.DataError(
      f"label file {folder.path / name} is UTF-16; save it as UTF-8"
    )
  data = data.removeprefix(_BOM)
  kind, skipped = _kind_of(data, str(folder.path / name))
  parse, tally = PARSERS[kind], lines_lib.Tally()
  base = folders.base_of(folder, name, _some_paths(data, parse))
  for number, row in _rows(data, after=skipped):
    where = f"line {number}"
    try:
      path, label = _fields(row, parse)
    except _Unfit as fault:
      reason, *more = fault.args
      tally.drop(reason, ", ".join([where, *more]))
      continue
    where = f"{where}, {path}"
    if "\0" not in path and not folder.exists(base + path):
      tally.drop(lines_lib.NO_IMAGE, where)
    else:
      tally.add(base + path, path, label, where)
  return lines_lib.make_lines(
    f"{folder.title}/{name}", kind, folder.fetch, tally
  )


def _rows(data: bytes, *, after: int = 0) -> Iterator[tuple[int, bytes]]:
  """Numbers from 1 and lines; not splitlines(), which cuts at U+2028 too."""
  start, number = 0, 0
  while start < len(data):
    end = data.find(b"\n", start)
    end = len(data) if end < 0 else end
    number += 1
    if number > after:
      yield number, data[start:end].removesuffix(b"\r")
    start = end + 1


def _fields(row: bytes, parse: Parse) -> tuple[str, str]:
  """Path and label; raises _Unfit with the reason and what is to be shown."""
  if len(row) > lines_lib.MAX_LINE_BYTES:
    raise _Unfit(lines_lib.TOO_LARGE, f"{len(row):,} bytes")
  try:
    text = row.decode()
  except UnicodeDecodeError as error:
    raise _Unfit(lines_lib.NOT_UTF8, repr(row[:40])) from error
  if not text.strip():
    raise _Unfit(lines_lib.BLANK)
  try:
    path, label = parse(text)
  except _Unfit as fault:
    raise _Unfit(*fault.args, repr(text[:40])) from fault
  if not label:
    raise _Unfit(lines_lib.NO_LABEL, path)
  return path, label


def _looked_at(data: bytes) -> list[str]:
  """The first usable lines."""
  found = []
  for number, row in _rows(data):
    if len(row) <= lines_lib.MAX_LINE_BYTES and row.strip():
      found.append(row.decode(errors="replace"))
    if number >= _LOOKED_AT:
      break
  return found


def _kind_of(data: bytes, file: str) -> tuple[str, int]:
  """The kind that most lines are of, and how many lines are its header."""
  rows = _looked_at(data)
  if rows and rows[0].strip() == _EASYOCR_HEADER:
    return "easyocr", 1
  if not rows:
    return "tsv", 0
  fitting = dict.fromkeys(PARSERS, 0)
  fitting.pop("easyocr")  # Only by its header: any comma would do.
  for row in rows:
    for kind in fitting:
      try:
        PARSERS[kind](row)
      except _Unfit:
        continue
      fitting[kind] += 1
  kind = max(fitting, key=fitting.get)
  if not fitting[kind]:
    raise lines_lib.DataError(
      f"label file {file}: none of its first {len(rows)} lines is of a known "
      f"kind; the first is {rows[0][:60]!r}. Give path<TAB>label, "
      'path, "label", or JSON with filename and text'
    )
  return kind, 0


def _some_paths(data: bytes, parse: Parse) -> list[str]:
  """Paths of the first lines, to find the folder that they are in."""
  found = []
  for row in _looked_at(data):
    try:
      path, _ = parse(row)
    except _Unfit:
      continue
    if "\0" not in path:
      found.append(path)
  return found
