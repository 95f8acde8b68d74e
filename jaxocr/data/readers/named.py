"""Sets whose labels lie beside each image, or in its name, or in one JSON file.

| kind | what | used by |
|---|---|---|
| gt-txt | `line.png` and `line.gt.txt` | kraken, calamari, tesstrain |
| mjsynth | `12_label_34.jpg`, in any folders below | MJSynth |
| doctr | labels.json of `{name: label}`, with `images/` | docTR |
| mmocr | JSON with `data_list` of img_path and instances | MMOCR 1, Union14M |
"""

import json
import re

from jaxocr.data.readers import folders
from jaxocr.data.readers import lines as lines_lib
from jaxocr.data.readers import tables

GT_SUFFIX = ".gt.txt"
# Before the image's suffix: what kraken and OCRopus call binarised images.
_FORMS = ("", ".bin", ".nrm")
MJSYNTH_NAME = re.compile(r"(?:.*/)?\d+_([^/]*)_\d+\.jpe?g", re.IGNORECASE)


def read_pairs(folder: folders.Folder, names: list[str]) -> lines_lib.Lines:
  """Reads `.gt.txt` files and the images beside them.

  Args:
    folder: Of the set.
    names: All its files.
  """
  tally, there = lines_lib.Tally(), set(names)
  for name in names:
    if not name.endswith(GT_SUFFIX):
      continue
    stem = name.removesuffix(GT_SUFFIX)
    image = _image_beside(stem, there)
    if image is None:
      tally.drop(lines_lib.NO_IMAGE, name)
      continue
    text = folder.read(name).removeprefix(b"\xef\xbb\xbf")
    if len(text) > lines_lib.MAX_LINE_BYTES:
      tally.drop(lines_lib.TOO_LARGE, f"{name}, {len(text):,} bytes")
      continue
    try:
      label = text.decode().rstrip("\r\n")
    except UnicodeDecodeError:
      tally.drop(lines_lib.NOT_UTF8, name)
      continue
    if "\n" in label:
      tally.drop("label of several lines", name)
    else:
      tally.add(image, image, label, name)
  return lines_lib.make_lines(folder.title, "gt-txt", folder.fetch, tally)


def read_mjsynth(folder: folders.Folder, names: list[str]) -> lines_lib.Lines:
  """Reads images called `number_label_number.jpg`.

  Args:
    folder: Of the set.
    names: All its files; other images count as without label.
  """
  tally = lines_lib.Tally()
  for name in names:
    if name.lower().endswith(tables.IMAGE_SUFFIXES):
      found = MJSYNTH_NAME.fullmatch(name)
      tally.add(name, name, found[1] if found else "", name)
  return lines_lib.make_lines(folder.title, "mjsynth", folder.fetch, tally)


def read_json(folder: folders.Folder, name: str) -> lines_lib.Lines:
  """Reads a JSON file of docTR's or MMOCR's form.

  Raises:
    DataError: It is of neither form.
  """
  file = folder.path / name
  try:
    found = json.loads(folder.read(name).decode("utf-8-sig"))
  except (OSError, ValueError) as error:
    raise lines_lib.DataError(
      f"label file {file}: not JSON ({error}); one object a line belongs in a "
      ".jsonl file"
    ) from error
  kind, pairs = _pairs_of(found)
  if kind is None:
    raise lines_lib.DataError(
      f"label file {file}: neither {{name: label}} as docTR writes it nor "
      "data_list as MMOCR does"
    )
  base = folders.base_of(folder, name, [path for path, _ in pairs[:200]])
  tally = lines_lib.Tally()
  for path, label in pairs:
    if not isinstance(path, str) or not isinstance(label, str):
      tally.drop(lines_lib.NO_LABEL, str(path))
    elif "\0" not in path and not folder.exists(base + path):
      tally.drop(lines_lib.NO_IMAGE, path)
    else:
      tally.add(base + path, path, label, path)
  return lines_lib.make_lines(
    f"{folder.title}/{name}", kind, folder.fetch, tally
  )


def _pairs_of(found) -> tuple[str | None, list[tuple]]:
  """(kind, (path, label) pairs); what is no text is None."""
  if not isinstance(found, dict):
    return None, []
  if isinstance(found.get("data_list"), list):
    return "mmocr", [_of_mmocr(item) for item in found["data_list"]]
  if all(isinstance(label, str) for label in found.values()):
    return "doctr", list(found.items())
  return None, []


def _of_mmocr(item) -> tuple:
  try:
    return item["img_path"], item["instances"][0]["text"]
  except (KeyError, IndexError, TypeError):
    return str(item)[:40], None


def _image_beside(stem: str, there: set[str]) -> str | None:
  for form in _FORMS:
    for suffix in tables.IMAGE_SUFFIXES:
      if stem + form + suffix in there:
        return stem + form + suffix
  return None
