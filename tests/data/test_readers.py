"""Each format as its own tools write it, by hand or with a peer's package."""

import io
import json
import pickle
import types
import zipfile

import numpy as np
import PIL.Image
import pytest

from jaxocr.data import preprocess
from jaxocr.data import readers
from jaxocr.data.readers import lines as lines_lib
from jaxocr.data.readers import stores

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 20), np.uint8)


def png(pixels=PIXELS):
  file = io.BytesIO()
  PIL.Image.fromarray(pixels).save(file, "PNG")
  return file.getvalue()


def put(folder, **files):
  """Files of bytes or text; a `__` in a name is a slash, `_png` an image."""
  for name, content in files.items():
    path = folder / name.replace("__", "/")
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
      content = content.encode()
    path.write_bytes(content)


def images(folder, *names):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png())


def pairs(lines):
  return [(entry.name, entry.label) for entry in lines.entries]


def check(lines, kind, expected):
  assert lines.kind == kind
  assert pairs(lines) == expected
  assert len(lines) == len(expected)
  for i, (_, label) in enumerate(expected):
    image, said = lines[i]
    np.testing.assert_array_equal(image, PIXELS)
    assert said == label
  assert lines.read == len(lines) + sum(lines.dropped.values())


def write_lmdb(folder, labels, *, count=None, change=None):
  """As DTRB's create_lmdb_dataset.py lays it out."""
  lmdb = pytest.importorskip("lmdb")
  cache = {b"num-samples": str(len(labels) if count is None else count)}
  for i, label in enumerate(labels, 1):
    cache[f"image-{i:09d}".encode()] = png()
    cache[f"label-{i:09d}".encode()] = label
  cache |= change or {}
  folder.mkdir(parents=True)
  environment = lmdb.open(str(folder), map_size=1 << 22)
  with environment.begin(write=True) as transaction:
    for key, value in cache.items():
      if value is not None:
        value = value.encode() if isinstance(value, str) else value
        transaction.put(key, value)
  environment.close()


def test_lmdb_of_another_package(tmp_path):
  write_lmdb(tmp_path / "a", ["One", "2 two", "dre\u0301i"])
  for path in (tmp_path / "a", tmp_path / "a" / "data.mdb"):
    lines = readers.open_lines(path)
    check(
      lines,
      "str-lmdb",
      [
        ("image-000000001", "One"),
        ("image-000000002", "2 two"),
        ("image-000000003", "dr\u00e9i"),
      ],
    )
    assert lines.noted == {"label was not NFC": 1}
  again = pickle.loads(pickle.dumps(lines))
  np.testing.assert_array_equal(again[2][0], PIXELS)


def test_lmdb_folders_are_walked(tmp_path):
  write_lmdb(tmp_path / "s" / "b" / "deep", ["x", "y"])
  write_lmdb(tmp_path / "s" / "a", ["z"])
  lines = readers.open_lines(tmp_path / "s")
  check(
    lines,
    "str-lmdb",
    [
      ("a/image-000000001", "z"),
      ("deep/image-000000001", "x"),
      ("deep/image-000000002", "y"),
    ],
  )


def test_lmdb_whose_count_lies_or_keys_are_lost(tmp_path):
  change = {
    b"image-000000002": None,
    b"label-000000003": None,
    b"label-000000004": b"\xff\xfe",
    b"label-000000005": b"",
  }
  write_lmdb(tmp_path / "a", list("abcdefg"), count=6, change=change)
  lines = readers.open_lines(tmp_path / "a")
  assert [label for _, label in pairs(lines)] == ["a", "f"]
  assert lines.dropped == {
    "missing image": 1,
    "no label": 2,
    "not UTF-8": 1,
    "beyond num-samples": 1,
  }
  assert lines.examples["beyond num-samples"] == "image-000000007"
  assert lines.read == 7
  write_lmdb(tmp_path / "b", ["x"], change={b"num-samples": None})
  with pytest.raises(lines_lib.DataError, match="num-samples is None; an LMDB"):
    readers.open_lines(tmp_path / "b")
  (tmp_path / "c").mkdir()
  (tmp_path / "c" / "data.mdb").write_bytes(b"nothing" * 2000)
  with pytest.raises(lines_lib.DataError, match="not a whole LMDB"):
    readers.open_lines(tmp_path / "c")


TABLES = {
  "tsv": ("l.tsv", "a.png\tone\nin/b.png\ttwo words\n", "one", "two words"),
  "icdar": (
    "gt.txt",
    'a.png, "one, \\"two\\""\nin/b.png, "C:\\\\"\n',
    'one, "two"',
    "C:\\",
  ),
  "easyocr": (
    "labels.csv",
    'filename,words\na.png,one, two\nin/b.png,"say ""three"", do"\n',
    "one, two",
    'say "three", do',
  ),
  "trdg": ("labels.txt", "a.png one two\nin/b.png three\n", "one two", "three"),
  "jsonl": (
    "l.jsonl",
    '{"filename": "a.png", "text": "\\u00e9"}\n'
    '{"text": "b c", "filename": "in/b.png", "id": 3}\n',
    "\u00e9",
    "b c",
  ),
  "doctr": (
    "labels.json",
    json.dumps({"a.png": "one", "in/b.png": "two"}),
    "one",
    "two",
  ),
  "mmocr": (
    "train.json",
    json.dumps(
      {
        "metainfo": {},
        "data_list": [
          {"img_path": "a.png", "instances": [{"text": "one"}]},
          {"img_path": "in/b.png", "instances": [{"text": "two"}]},
        ],
      }
    ),
    "one",
    "two",
  ),
}


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("kind", TABLES)
def test_label_files(tmp_path, kind, mark, ending):
  name, text, first, second = TABLES[kind]
  images(tmp_path, "a.png", "in/b.png")
  text = (mark + text.replace("\n", ending)).encode()
  (tmp_path / name).write_bytes(text)
  expected = [("a.png", first), ("in/b.png", second)]
  # By the file, and by its folder, where nothing else looks like one.
  for path in (tmp_path / name, tmp_path):
    check(readers.open_lines(path), kind, expected)


@pytest.mark.parametrize("kind", TABLES)
def test_zip_files(tmp_path, kind):
  name, text, first, second = TABLES[kind]
  with zipfile.ZipFile(tmp_path / "s.zip", "w") as packed:
    # As most are: all in one folder, and what a Mac adds.
    packed.writestr(f"set/{name}", text)
    packed.writestr("set/a.png", png())
    packed.writestr("set/in/b.png", png())
    packed.writestr(f"__MACOSX/set/._{name}", b"\0\0")
  lines = readers.open_lines(tmp_path / "s.zip")
  check(lines, kind, [("a.png", first), ("in/b.png", second)])
  again = pickle.loads(pickle.dumps(lines))
  np.testing.assert_array_equal(again[0][0], PIXELS)


def test_zip_of_an_lmdb(tmp_path):
  write_lmdb(tmp_path / "a", ["x"])
  with zipfile.ZipFile(tmp_path / "s.zip", "w") as packed:
    packed.write(tmp_path / "a" / "data.mdb", "test/a/data.mdb")
  check(
    readers.open_lines(tmp_path / "s.zip"),
    "str-lmdb",
    [("image-000000001", "x")],
  )
  (tmp_path / "t.zip").write_bytes(b"PK\x03\x04 and no more")
  with pytest.raises(lines_lib.DataError, match="not a whole zip file"):
    readers.open_lines(tmp_path / "t.zip")


@pytest.mark.parametrize(
  ("place", "file"), [("images/", "labels.tsv"), ("", "deep/rec_gt.txt")]
)
def test_images_beside_or_above_the_label_file(tmp_path, place, file):
  images(tmp_path, f"{place}a.png")
  path = tmp_path / file
  path.parent.mkdir(exist_ok=True)
  # The first image is missing, which must not decide where the others are.
  path.write_text("b.png\tx\na.png\ty\n")
  lines = readers.open_lines(path)
  check(lines, "tsv", [("a.png", "y")])
  assert lines.dropped == {"missing image": 1}


def test_label_in_the_name(tmp_path):
  images(tmp_path, "1/2/3_Coley_4.jpg", "1/10_a-b_7.jpg", "1/other.jpg")
  lines = readers.open_lines(tmp_path)
  check(
    lines,
    "mjsynth",
    [("1/10_a-b_7.jpg", "a-b"), ("1/2/3_Coley_4.jpg", "Coley")],
  )
  assert lines.dropped == {"no label": 1}
  (tmp_path / "annotation_val.txt").write_text(
    "./1/2/3_Coley_4.jpg 4\n./1/5_gone_6.jpg 6\n"
  )
  lines = readers.open_lines(tmp_path / "annotation_val.txt")
  check(lines, "mjsynth", [("./1/2/3_Coley_4.jpg", "Coley")])
  assert lines.dropped == {"missing image": 1}


def test_pairs_of_files(tmp_path):
  images(tmp_path, "p/1.png", "p/2.bin.png", "p/4.tif", "p/5.png", "p/6.png")
  put(
    tmp_path,
    **{
      "p/1.gt.txt": "one \u00e9\n",
      "p/2.gt.txt": b"\xef\xbb\xbftwo\r\n",
      "p/3.gt.txt": "lost",
      "p/4.gt.txt": "",
      "p/5.gt.txt": b"\xe9",
      "p/6.gt.txt": "a\nb\n",
    },
  )
  lines = readers.open_lines(tmp_path / "p")
  check(lines, "gt-txt", [("1.png", "one \u00e9"), ("2.bin.png", "two")])
  assert lines.dropped == {
    "missing image": 1,
    "no label": 1,
    "not UTF-8": 1,
    "label of several lines": 1,
  }


def test_every_oddity_is_counted_and_named(tmp_path):
  images(tmp_path, "a.png")
  rows = [
    b"a.png\tone",
    b"",
    b"   ",
    b"a.png\t",
    b"a.png",
    b"a.png\ttab\there",
    b"a.png\t spaces ",
    b"a.png\te\xcc\x81",
    b"gone.png\tx",
    b"a.png\tnul\0",
    b"a\0.png\tnul",
    b"a.png\t" + b"x" * 10_000_000,
    b"a.png\t\xff",
    "a.png\tline\u2028separator".encode(),
  ]
  path = tmp_path / "l.tsv"
  path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(rows) + b"\r\n")
  lines = readers.open_lines(path)
  assert lines.read == len(rows)
  assert [label for _, label in pairs(lines)] == [
    "one",
    "tab\there",
    " spaces ",
    "\u00e9",
    "line\u2028separator",
  ]
  assert lines.dropped == {
    "blank line": 2,
    "no label": 1,
    "no label column": 1,
    "missing image": 1,
    "NUL byte": 2,
    "over 64 kB": 1,
    "not UTF-8": 1,
  }
  assert lines.noted == {
    "tab in label": 1,
    "space before or after label": 1,
    "label was not NFC": 1,
  }
  assert lines.examples["over 64 kB"] == "line 12, 10,000,006 bytes"
  assert lines.examples["no label column"] == "line 5, 'a.png'"
  assert lines.examples["tab in label"] == "line 6, a.png"
  summary = lines.summary()
  assert summary.startswith(
    f"{tmp_path.name}/l.tsv: 14 read, 5 kept, 9 dropped: 2 blank line "
  )
  assert "; of the kept 1 tab in label (first: line 6, a.png); 1 " in summary
  assert "\n" not in summary and "\0" not in summary


def test_a_broken_image_shows_when_it_is_read(tmp_path):
  put(tmp_path, **{"a.png": b"no image", "l.tsv": "a.png\tx\n"})
  lines = readers.open_lines(tmp_path / "l.tsv")
  assert len(lines) == 1
  with pytest.raises(preprocess.PreprocessError, match="not an image"):
    lines[0]


def test_what_is_no_set_is_said(tmp_path):
  with pytest.raises(lines_lib.DataError, match=r"No such file .*; give a f"):
    readers.open_lines(tmp_path / "none.tsv")
  with pytest.raises(lines_lib.DataError, match=r"no known set \(0 files"):
    readers.open_lines(tmp_path)
  put(tmp_path, **{"train.tsv": "a\tb\n", "test.tsv": "a\tb\n"})
  with pytest.raises(lines_lib.DataError, match=r"train.tsv.; give one of"):
    readers.open_lines(tmp_path)
  put(tmp_path, **{"p.txt": "Prose, and more of it.\nNothing else.\n"})
  with pytest.raises(lines_lib.DataError, match="the first is 'Prose, and"):
    readers.open_lines(tmp_path / "p.txt")
  put(tmp_path, **{"u.tsv": "a.png\tb\n".encode("utf-16")})
  with pytest.raises(lines_lib.DataError, match="UTF-16; save it as UTF-8"):
    readers.open_lines(tmp_path / "u.tsv")
  put(tmp_path, **{"x.json": "[1, 2]", "y.json": "{"})
  with pytest.raises(lines_lib.DataError, match=r"neither .* docTR"):
    readers.open_lines(tmp_path / "x.json")
  with pytest.raises(lines_lib.DataError, match=r"not JSON .* \.jsonl"):
    readers.open_lines(tmp_path / "y.json")


def test_records_go_and_come():
  for label in ("", "a", "\u00e9 2"):
    image, text = stores.unpack_record(stores.pack_record(b"img", label))
    assert (image, text.decode()) == (b"img", label)


def test_tfds_says_what_is_missing():
  with pytest.raises(lines_lib.DataError, match="TFDS cannot give it"):
    readers.open_lines("tfds:jaxocr_no_such_set:train")


class _Builder:
  """A prepared set as TFDS gives it: encoded images beside texts or classes."""

  def __init__(self, features, examples):
    self.info = types.SimpleNamespace(features=features)
    self._examples = examples

  def as_data_source(self, *, split, decoders):
    assert split == "test" and "image" in decoders
    return self._examples


def test_sets_of_tfds(monkeypatch):
  import tensorflow_datasets as tfds

  texts = [b"one", "dre\u0301i".encode(), b"", b"\xff"]
  examples = [{"image": png(), "text": text} for text in texts]
  builder = _Builder({"image": None, "text": None}, examples)
  monkeypatch.setattr(tfds, "builder", lambda name, **_: builder)
  lines = readers.open_lines("tfds:words/cased:test")
  check(lines, "tfds", [("example 0", "one"), ("example 1", "dr\u00e9i")])
  assert lines.dropped == {"no label": 1, "not UTF-8": 1}
  classes = types.SimpleNamespace(names=["zero", "one"])
  builder = _Builder(
    {"image": None, "label": classes}, [{"image": PIXELS, "label": 1}]
  )
  check(readers.open_lines("tfds:d:test"), "tfds", [("example 0", "one")])
  builder = _Builder({"image": None, "boxes": None}, [])
  with pytest.raises(
    lines_lib.DataError, match="image, boxes; image, and text"
  ):
    readers.open_lines("tfds:d:test")
