import io
import json

import numpy as np
import PIL.Image
import pytest

from jaxocr import cli
from jaxocr.data import convert
from jaxocr.data import readers
from jaxocr.data import stats
from jaxocr.data.readers import lines as lines_lib
from jaxocr.text import alphabet as alphabet_lib


@pytest.fixture(scope="module", name="labels")
def fixture_labels(tmp_path_factory):
  """Forty images of noise with labels, a copy of one, and a broken one."""
  folder = tmp_path_factory.mktemp("set")
  rng = np.random.default_rng(0)
  rows = []
  for i in range(40):
    noise = rng.integers(0, 256, (16, 20 + i), np.uint8)
    PIL.Image.fromarray(noise).save(folder / f"{i}.png")
    rows.append(f"{i}.png\tno {i:02d}")
  (folder / "copy.png").write_bytes((folder / "7.png").read_bytes())
  (folder / "broken.png").write_bytes(b"no image")
  rows += ["copy.png\tno 07", "broken.png\tx", "gone.png\tx"]
  (folder / "l.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
  return folder / "l.tsv"


def contents(lines):
  return [(lines[i][0].tobytes(), lines[i][1]) for i in range(len(lines))]


@pytest.mark.parametrize("to", convert.WRITERS)
def test_converted_sets_hold_the_same(labels, tmp_path, to):
  if to == "lmdb":
    pytest.importorskip("lmdb")
  if to == "array_record":
    pytest.importorskip("array_record")
  lines = readers.open_lines(labels)
  told = convert.convert(lines, tmp_path / "out", to=to)
  assert "43 read, 41 kept, 2 dropped" in told
  assert "1 unreadable image (first: broken.png: not an image" in told
  assert told.endswith("out: 41 lines")
  found = readers.open_lines(tmp_path / "out")
  assert found.dropped == {}
  readable = [i for i, e in enumerate(lines.entries) if e.name != "broken.png"]
  expected = [(lines[i][0].tobytes(), lines[i][1]) for i in readable]
  assert contents(found) == expected
  with pytest.raises(lines_lib.DataError, match="out exists; give a new"):
    convert.convert(lines, tmp_path / "out", to=to)


def test_nothing_is_left_of_a_failed_conversion(labels, tmp_path):
  (tmp_path / "a.png").write_bytes(labels.with_name("1.png").read_bytes())
  (tmp_path / "l.json").write_text(json.dumps({"a.png": "two\nlines"}))
  lines = readers.open_lines(tmp_path / "l.json")
  with pytest.raises(lines_lib.DataError, match="line break"):
    convert.convert(lines, tmp_path / "out", to="paddle")
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "l.json"]


def test_arrays_become_png():
  pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
  image = PIL.Image.open(io.BytesIO(convert.encoded(pixels)))
  assert image.format == "PNG"
  np.testing.assert_array_equal(np.asarray(image), pixels)


def test_parts_are_whole_and_apart(labels, tmp_path):
  lines = readers.open_lines(labels)

  def parts(seed, place):
    shares = {place / "train": 3.0, place / "val": 1.0}
    convert.split(lines, shares, to="paddle", seed=seed)
    return [contents(readers.open_lines(path)) for path in shares]

  train, val = parts(0, tmp_path / "0")
  assert len(train) + len(val) == 41 and 4 <= len(val) <= 17
  assert not {image for image, _ in train} & {image for image, _ in val}
  assert sum(label == "no 07" for _, label in train) in (0, 2)
  assert parts(0, tmp_path / "again") == [train, val]
  assert parts(1, tmp_path / "1") != [train, val]


def test_stats_by_hand(tmp_path):
  for name, size in (("a", (64, 32)), ("b", (40, 16)), ("c", (8, 32))):
    PIL.Image.new("L", size).save(tmp_path / f"{name}.png")
  (tmp_path / "d.png").touch()
  (tmp_path / "l.tsv").write_text(
    "a.png\tab\nb.png\tab\nc.png\t11111111111\nd.png\tx\ne.png\tx\n\n"
  )
  found = stats.measure(readers.open_lines(tmp_path / "l.tsv"))
  assert (found.read, found.kept, found.labels) == (6, 3, 2)
  assert found.dropped == {
    "missing image": 1,
    "blank line": 1,
    "unreadable image": 1,
  }
  assert found.examples["unreadable image"] == "d.png: empty: 0 bytes"
  assert found.lengths == (2, 2, 2, 11, 11)
  assert found.characters == {"1": 11, "a": 2, "b": 2}
  assert list(found.characters) == ["1", "a", "b"]
  assert found.sizes["height"] == (16, 16, 32, 32, 32)
  assert found.sizes["at 32 px"][-1] == 80  # Of 40x16.
  assert found.buckets == {64: 2, 96: 1}
  assert found.crowded == 1  # 11 alike need 21 frames, 64 px have 16.
  fast = stats.measure(readers.open_lines(tmp_path / "l.tsv"), images=False)
  assert (fast.kept, fast.sizes, fast.crowded) == (4, {}, 0)
  told = stats.describe(found, alphabet_lib.load_alphabet("numeric"))
  assert "numeric lacks 2 of 3 characters, 26.67% of the text: 'a' " in told
  assert "(U+0061 LATIN SMALL LETTER A) 2" in told
  assert "1 need more frames than they have" in told


def test_frames_that_ctc_needs():
  assert [stats.frames_needed(t) for t in ("", "a", "aa", "aba", "aab")] == [
    *(0, 1, 3, 3, 4)
  ]


def test_commands(labels, tmp_path, capsys):
  def run(*args):
    code = cli.main(["data", *map(str, args)])
    out, err = capsys.readouterr()
    return code, out, err

  code, out, _ = run("stats", labels, "--json", "--alphabet", "numeric")
  found = json.loads(out)
  assert code == 0 and found["kept"] == 41 and found["outside"]["n"] == 41
  code, out, _ = run("stats", labels)
  assert code == 0 and "41 kept" in out and "\nformat      tsv\n" in out
  code, out, _ = run("show", labels, "--out", tmp_path / "s.png", "--seed", 1)
  assert code == 0 and out.endswith("41 of 42 lines, 1 unreadable\n")
  with PIL.Image.open(tmp_path / "s.png") as sheet:
    assert sheet.width > 3 * 384
  code, out, _ = run("convert", labels, tmp_path / "c", "--to", "paddle")
  assert code == 0 and "c: 41 lines" in out
  code, out, _ = run(
    "split", labels, tmp_path / "p", "--to=paddle", "--shares=a=1,b=1"
  )
  assert code == 0 and "p/a: " in out and "p/b: " in out
  code, _, err = run("split", labels, tmp_path / "q", "--shares=a=1,b")
  assert code == 2 and "'b' is not NAME=SHARE" in err
  code, _, err = run("stats", tmp_path / "none")
  assert code == 2 and "No such file" in err
