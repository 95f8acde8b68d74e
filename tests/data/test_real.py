import numpy as np
import PIL.Image
import pytest

from jaxocr.data import preprocess
from jaxocr.data import real
from jaxocr.text import alphabet as alphabet_lib

NUMERIC = alphabet_lib.load_alphabet("numeric")


def _save(path, width, height=32, level=200):
  PIL.Image.new("L", (width, height), level).save(path)


@pytest.fixture
def labels(tmp_path):
  """A label file with every kind of line, beside its images."""
  (tmp_path / "in").mkdir()
  _save(tmp_path / "in" / "a.png", 100)
  _save(tmp_path / "in" / "b.png", 40, height=16)
  _save(tmp_path / "in" / "wide.png", 9000)
  _save(tmp_path / "in" / "narrow.png", 20)
  (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
  (tmp_path / "in" / "empty.png").touch()
  rows = [
    b"in/a.png\t12.50",
    b"",
    b"in/b.png\t1 2",
    b"in/a.png",
    b"in/a.png\t",
    b"in/a.png\tRM 5",
    b"in/a.png\t1\t2",
    b"in/\xff.png\t1",
    b"in/broken.png\t1",
    b"in/none.png\t2",
    b"in/empty.png\t3",
    b"in/wide.png\t4",
    b"in/narrow.png\t123456789",
    b"in/narrow.png\t111111111",
    b"   ",
  ]
  path = tmp_path / "labels.tsv"
  path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(rows) + b"\r\n")
  return path


def test_read_labels_counts_every_line(labels):
  lines = real.read_labels(labels, NUMERIC)
  assert lines.read == 15
  assert [(item.path, item.label) for item in lines.items] == [
    ("in/a.png", "12.50"),
    ("in/b.png", "1 2"),
    ("in/narrow.png", "123456789"),
  ]
  assert lines.dropped == {
    "blank line": 2,
    "no label": 1,
    "no label column": 1,
    "characters outside the alphabet": 2,  # RM, and the tab within a label.
    "not UTF-8": 1,
    "missing image": 1,
    "unreadable": 2,
    "image too wide": 1,
    "label too long for its frames": 1,
  }
  assert lines.read == lines.kept + sum(lines.dropped.values())
  # What it cannot write is kept apart, in its place.
  refused = [(i.path, i.label, i.refused) for i in lines.all_items if i.refused]
  assert refused == [
    ("in/a.png", "RM 5", real.OUTSIDE),
    ("in/a.png", "1\t2", real.OUTSIDE),
    ("in/narrow.png", "111111111", real.TOO_LONG),
  ]
  assert len(lines.all_items) == 6 and lines.all_items[1].label == "1 2"


def test_examples_are_the_first_of_their_kind(labels):
  examples = real.read_labels(labels, NUMERIC).examples
  assert examples["blank line"] == "line 2"
  assert examples["no label"] == "line 5, in/a.png"
  outside = examples["characters outside the alphabet"]
  assert outside == "in/a.png: 'RM' in 'RM 5'"
  assert examples["unreadable"].startswith("in/broken.png: ")
  assert examples["image too wide"].startswith("in/wide.png: too wide: 9000x32")


def test_summary_is_one_line(labels):
  summary = real.read_labels(labels, NUMERIC).summary()
  name, _, rest = summary.partition("/")
  assert name == labels.parent.name
  assert rest.startswith("labels.tsv: 15 read, 3 kept, 12 dropped: ")
  assert "; 1 no label (first: line 5, in/a.png); " in summary
  assert "\n" not in summary


def test_summary_without_drops(tmp_path):
  _save(tmp_path / "a.png", 50)
  path = tmp_path / "one.tsv"
  path.write_text("a.png\t1")  # No newline at the end.
  lines = real.read_labels(path, NUMERIC)
  assert lines.summary().endswith("/one.tsv: 1 read, 1 kept, 0 dropped")


def test_a_label_holds_all_after_the_first_tab(tmp_path):
  _save(tmp_path / "a.png", 50)
  path = tmp_path / "l.tsv"
  path.write_text("a.png\t1 2\t3")
  with_tab = real.read_labels(path, NUMERIC)
  assert "'\\t' in '1 2\\t3'" in with_tab.examples[real.OUTSIDE]


def test_labels_are_nfc_and_paths_may_be_absolute(tmp_path):
  _save(tmp_path / "a.png", 50)
  path = tmp_path / "l.tsv"
  path.write_text(f"{tmp_path / 'a.png'}\te\u0301", encoding="utf-8")
  (item,) = real.read_labels(path, alphabet_lib.Alphabet("\u00e9")).items
  assert item.label == "\u00e9"
  np.testing.assert_array_equal(item.ids, [1])


def test_too_long_at_the_edges(tmp_path):
  """64 px are 16 frames: nine characters of a kind need 9 + 8 of them."""
  _save(tmp_path / "a.png", 64)
  path = tmp_path / "l.tsv"
  path.write_text(
    "a.png\t11111111\na.png\t111111111\na.png\t1212121212121212\n"
  )
  lines = real.read_labels(path, NUMERIC, max_width=64)
  assert [len(item.label) for item in lines.items] == [8, 16]
  assert lines.examples[real.TOO_LONG] == "a.png: label needs 17 frames of 16"
  narrow = real.read_labels(path, NUMERIC, max_width=63)
  assert narrow.kept == 0 and narrow.dropped == {real.TOO_WIDE: 3}


def test_unreadable_label_file(tmp_path):
  with pytest.raises(ValueError, match="No such file or directory; give"):
    real.read_labels(tmp_path / "none.tsv", NUMERIC)
  with pytest.raises(ValueError, match="no known set"):
    real.read_labels(tmp_path, NUMERIC)


def test_pixels_are_what_the_reader_sees(tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, (45, 90), np.uint8)
  PIL.Image.fromarray(noise).save(tmp_path / "a.png")
  (tmp_path / "l.tsv").write_text("a.png\t1")
  (item,) = real.read_labels(tmp_path / "l.tsv", NUMERIC).items
  line, _ = preprocess.line_array(noise)
  assert item.pixels.dtype == np.uint8
  np.testing.assert_array_equal(item.pixels.astype(np.float32) / 255, line)


def test_batches_group_by_width_and_keep_every_line(tmp_path):
  widths = [50, 300, 60, 130, 64, 310, 65]
  rows = []
  for i, width in enumerate(widths):
    _save(tmp_path / f"{i}.png", width, level=10 * i)
    rows.append(f"{i}.png\t{'0123456'[: i + 1]}\n")
  (tmp_path / "l.tsv").write_text("".join(rows))
  lines = real.read_labels(tmp_path / "l.tsv", NUMERIC)

  seen = []
  for batch, indices in real.batches(lines, batch_size=2):
    seen.append((batch.image.shape[2], indices.tolist()))
    assert batch.image.shape[:2] == (2, 32) and batch.image.dtype == np.float32
    assert batch.label.shape == (2, 7) and batch.label.dtype == np.int32
    count = len(indices)
    np.testing.assert_array_equal(batch.mask, [1] * count + [0] * (2 - count))
    np.testing.assert_array_equal(batch.length[:count], indices + 1)
    np.testing.assert_array_equal(batch.length[count:], 0)
    for row, i in enumerate(indices):
      # All of one level, the padding included.
      np.testing.assert_array_equal(batch.image[row], np.float32(10 * i) / 255)
      assert NUMERIC.decode(batch.label[row]) == "0123456"[: i + 1]
  assert seen == [
    (64, [0, 2]),
    (64, [4]),
    (96, [6]),
    (160, [3]),
    (320, [1, 5]),
  ]


def test_batches_of_nothing(tmp_path):
  (tmp_path / "l.tsv").touch()
  lines = real.read_labels(tmp_path / "l.tsv", NUMERIC)
  assert lines.read == 0
  assert list(real.batches(lines, batch_size=4)) == []
