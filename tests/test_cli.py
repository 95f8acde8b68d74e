import json
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import jaxocr
from jaxocr import cli
from jaxocr import zoo
from jaxocr.compress import rules as rules_lib
from jaxocr.data import page
from jaxocr.data import preprocess
from jaxocr.export import bundle
from jaxocr.models import crnn
import jaxocr.reader as reader_lib
from jaxocr.text import ctc

_ROOT = pathlib.Path(jaxocr.__file__).parents[1]
_READING = ctc.Reading(
  "1 %",
  0.5,
  (
    ctc.Character("1", 0.75, 0.0, 8.25),
    ctc.Character(" ", 1.0, 8.25, 12.0),
    ctc.Character("%", 2 / 3, 16.0, 20.0),
  ),
)


class _FakeReader:
  """Reads every name but those that say they are bad."""

  def read(self, paths):
    return [
      reader_lib.ReadError("no such file") if "bad" in path else _READING
      for path in paths
    ]


@pytest.fixture
def fake(monkeypatch):
  def load(model):
    assert model in ("run", None)
    return _FakeReader()

  monkeypatch.setattr(reader_lib.Reader, "load", load)


def test_read_prints_path_and_text(fake, capsys):
  assert cli.main(["read", "--model", "run", "a.png", "b.png"]) == 0
  out, err = capsys.readouterr()
  assert out == "a.png\t1 %\nb.png\t1 %\n"
  assert err == ""


def test_read_without_a_model_takes_the_shipped_one(fake, capsys):
  assert cli.main(["read", "a.png"]) == 0
  assert capsys.readouterr().out == "a.png\t1 %\n"


def test_read_goes_on_after_a_bad_image(fake, capsys):
  code = cli.main(["read", "--model", "run", "a", "bad1", "b", "bad2"])
  out, err = capsys.readouterr()
  assert code == 1
  assert out == "a\t1 %\nb\t1 %\n"
  assert err == "jaxocr: bad1: no such file\njaxocr: bad2: no such file\n"


def test_read_chars(fake, capsys):
  assert cli.main(["read", "--model", "run", "--chars", "a"]) == 0
  assert capsys.readouterr().out.splitlines() == [
    "a\t1 %",
    "\t1\t0.750\t0.0\t8.2",
    "\t \t1.000\t8.2\t12.0",
    "\t%\t0.667\t16.0\t20.0",
  ]


def test_read_lines_of_pages(fake, monkeypatch, capsys):
  def read_page(self, path):
    if "bad" in path:
      raise preprocess.PreprocessError("no such file")
    line = reader_lib.PageLine(page.Box(0, 0, 9, 9), _READING)
    return [line, line]

  monkeypatch.setattr(_FakeReader, "read_page", read_page, raising=False)
  code = cli.main(["read", "--model", "run", "--lines", "a", "bad", "b"])
  out, err = capsys.readouterr()
  assert code == 1 and err == "jaxocr: bad: no such file\n"
  assert out == "a:1\t1 %\na:2\t1 %\nb:1\t1 %\nb:2\t1 %\n"


def test_read_passes_on_how_to_decode(monkeypatch):
  given = []
  monkeypatch.setattr(
    reader_lib.Reader,
    "load",
    lambda model, **options: given.append(options) or _FakeReader(),
  )
  flags = ["--beam=8", "--allowed=01", "--reject-below=0.5"]
  assert cli.main(["read", *flags, "--lexicon-penalty=2", "a"]) == 0
  assert given == [
    {"beam": 8, "allowed": "01", "reject_below": 0.5, "lexicon_penalty": 2.0}
  ]


def test_read_json_is_an_object_a_line(fake, capsys):
  code = cli.main(["read", "--model", "run", "--json", "\u00e9", "bad", "b"])
  out, err = capsys.readouterr()
  assert code == 1 and err == "jaxocr: bad: no such file\n"
  assert [json.loads(line) for line in out.splitlines()] == [
    {"path": "\u00e9", "text": "1 %", "confidence": 0.5},
    {"path": "bad", "error": "no such file"},
    {"path": "b", "text": "1 %", "confidence": 0.5},
  ]


def test_read_json_chars(fake, capsys):
  assert cli.main(["read", "--model", "run", "--json", "--chars", "a"]) == 0
  one, *others = json.loads(capsys.readouterr().out)["characters"]
  assert one == {"char": "1", "confidence": 0.75, "x0": 0.0, "x1": 8.25}
  assert len(others) == 2


def test_read_keeps_order_over_chunks(fake, capsys, monkeypatch):
  monkeypatch.setattr(cli, "_READ_AT_ONCE", 2)
  names = ["a", "bad", "c", "d", "e"]
  assert cli.main(["read", "--model", "run", *names]) == 1
  lines = capsys.readouterr().out.splitlines()
  assert [line.split("\t")[0] for line in lines] == ["a", "c", "d", "e"]


def test_names_that_cannot_be_printed(fake, capsys):
  name = os.fsdecode(b"\xff.png")  # A byte that is not UTF-8.
  assert cli.main(["read", "--model", "run", name, "bad" + name]) == 1
  out, err = capsys.readouterr()
  assert out == "\\udcff.png\t1 %\n"
  assert err == "jaxocr: bad\\udcff.png: no such file\n"


def test_missing_model(tmp_path, capsys):
  assert cli.main(["read", "--model", str(tmp_path / "none"), "a.png"]) == 2
  assert cli.main(["read", "--model", str(tmp_path), "a.png"]) == 2
  (tmp_path / "file").write_text("x")
  assert cli.main(["read", "--model", str(tmp_path / "file"), "a.png"]) == 2
  out, err = capsys.readouterr()
  assert out == "" and len(err.splitlines()) == 3
  assert all(line.startswith("jaxocr: ") for line in err.splitlines())


@pytest.mark.parametrize(
  "argv",
  [
    [],
    ["frob"],
    ["read"],
    ["read", "--model", "run"],
    ["info"],
    ["models", "more"],
    ["render"],
    ["render", "--out", "x.png", "--rows", "0"],
    ["render", "--out", "x.png", "--width", "wide"],
  ],
)
def test_wrong_usage(argv, capsys):
  with pytest.raises(SystemExit) as info:
    cli.main(argv)
  assert info.value.code == 2
  assert "usage: jaxocr" in capsys.readouterr().err


def test_version(capsys):
  with pytest.raises(SystemExit) as info:
    cli.main(["--version"])
  assert info.value.code == 0
  assert capsys.readouterr().out == f"jaxocr {jaxocr.__version__}\n"


def test_interrupt_is_quiet(fake, capsys, monkeypatch):
  def interrupted(self, paths):
    raise KeyboardInterrupt

  monkeypatch.setattr(_FakeReader, "read", interrupted)
  assert cli.main(["read", "--model", "run", "a"]) == 130
  assert capsys.readouterr() == ("", "")


def test_broken_pipe_is_quiet(fake, capsys, monkeypatch):
  reading_end, writing_end = os.pipe()
  os.close(reading_end)
  with os.fdopen(writing_end, "w") as closed_pipe:
    monkeypatch.setattr(sys, "stdout", closed_pipe)
    assert cli.main(["read", "--model", "run", "a"]) == 141
  assert capsys.readouterr().err == ""


def test_help_imports_nothing_slow():
  code = (
    "import sys; from jaxocr import cli\n"
    "try: cli.main(['--help'])\n"
    "except SystemExit: pass\n"
    "slow = {'jax', 'numpy', 'PIL'} & set(sys.modules)\n"
    "sys.exit(str(slow) if slow else 0)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


def _save(path, *, folded=True, rules=rules_lib.ALL_FLOAT, training=None):
  """A CRNN, all zeros, that finds `b` half as likely and the rest a quarter."""
  architecture = {
    "num_classes": 3,
    "backbone": "binary",
    "binary_activations": True,
    "stem_channels": 4,
    "projection": 4,
    "hidden": 4,
    "folded": folded,
  }
  model = crnn.CRNN(**architecture)
  image = jnp.zeros((1, 32, 64, 1))
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  variables = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
  params = variables.pop("params")
  params["head"]["bias"] = np.log(np.float32([1, 1, 2]))
  meta = {
    "architecture": architecture,
    "alphabet": {"characters": "ab", "name": "two"},
    "preprocess": {"height": 32, "frame_px": 4},
    "training": training or {},
  }
  # Compiled whole: a program for each small operation takes far longer.
  pack = jax.jit(rules_lib.pack, static_argnames="rules")
  packed = jax.device_get(pack(params, rules))
  return bundle.save_bundle(path, packed, variables, meta)


@pytest.fixture
def run(tmp_path):
  """A run's folder."""
  folder = tmp_path / "run"
  folder.mkdir()
  _save(folder / reader_lib.BUNDLE_NAME, folded=False)
  return folder


@pytest.mark.slow
def test_module_reads_files_of_every_kind(run, tmp_path):
  """python -m jaxocr, as a person runs it, on good and bad files."""
  PIL.Image.new("CMYK", (50, 20)).save(tmp_path / "cmyk.jpg")
  PIL.Image.new("RGBA", (1, 1)).save(tmp_path / "dot.png")
  PIL.Image.new("I;16", (30, 60)).save(tmp_path / "deep.png")
  (tmp_path / "empty.png").touch()
  (tmp_path / "text.png").write_text("no image")
  good, bad = ["cmyk.jpg", "dot.png", "deep.png"], ["none.png", "empty.png"]
  names = [good[0], bad[0], good[1], bad[1], "text.png", good[2]]
  done = subprocess.run(
    [sys.executable, "-m", "jaxocr", "read", "--json", "--model", run, *names],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(_ROOT), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1, done.stderr
  results = [json.loads(line) for line in done.stdout.splitlines()]
  assert [result["path"] for result in results] == names
  for i in (0, 2, 5):
    assert results[i]["text"] == "b"
    assert results[i]["confidence"] == pytest.approx(0.5)
  for i in (1, 3, 4):
    assert f"jaxocr: {names[i]}: {results[i]['error']}\n" in done.stderr
  assert "Traceback" not in done.stderr


_TRAINING = {
  "line_accuracy": 0.98765,
  "seed": 0,
  "real": {"line_accuracy": 0.875, "n": 1680},
}


@pytest.fixture
def shipped(tmp_path, monkeypatch):
  """A zoo of two; name -> content hash."""
  folder = tmp_path / "zoo"
  folder.mkdir()
  monkeypatch.setattr(zoo, "_FOLDER", folder)
  return {
    zoo.DEFAULT: _save(
      folder / f"{zoo.DEFAULT}.safetensors",
      rules=rules_lib.BINARY_SHIPPED,
      training=_TRAINING,
    ),
    "plain": _save(folder / "plain.safetensors"),
  }


def test_models_lists_what_is_shipped(shipped, capsys):
  assert cli.main(["models"]) == 0
  out, err = capsys.readouterr()
  head, first, second = out.splitlines()
  assert err == "" and head.split()[:4] == ["name", "bytes", "rendered", "real"]
  size = zoo.path().stat().st_size
  assert first.split() == [
    *(zoo.DEFAULT, "(default)", f"{size:,}", "0.988", "0.875", "of", "1,680"),
    *("two,", "2", "characters", shipped[zoo.DEFAULT][:12]),
  ]
  assert second.split()[0] == "plain" and second.split()[2:4] == ["-", "-"]


def test_models_goes_on_after_a_damaged_one(shipped, capsys):
  path = zoo.path()
  path.write_bytes(path.read_bytes()[:100])
  assert cli.main(["models"]) == 1
  out, err = capsys.readouterr()
  assert [line.split()[0] for line in out.splitlines()] == ["name", "plain"]
  (line,) = err.splitlines()
  assert line.startswith(f"jaxocr: {path}: not a whole safetensors file")


def test_models_of_an_empty_zoo(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(zoo, "_FOLDER", tmp_path)
  assert cli.main(["models"]) == 2
  assert "no recogniser" in capsys.readouterr().err


def test_info_json_adds_up(shipped, capsys):
  assert cli.main(["info", zoo.DEFAULT, "--json"]) == 0
  info = json.loads(capsys.readouterr().out)
  assert info["content_hash"] == shipped[zoo.DEFAULT]
  assert info["file_bytes"] == zoo.path().stat().st_size
  assert info["training"] == _TRAINING and info["format"] == bundle.FORMAT
  assert info["alphabet"]["characters"] == "ab"
  rows = {row["path"]: row for row in info["parameters"]}
  # 3x3 over 4 channels: 36 bits in 5 bytes and a scale of 2, each of 4 times;
  # a line of 32x128 is 8x32 there.
  kernel = rows["backbone/block0/spatial/conv/binary_kernel"]
  assert kernel["form"] == "bit" and kernel["bytes"] == 4 * (5 + 2)
  assert kernel["macs"] == 8 * 32 * 9 * 4 * 4
  assert kernel["macs_by_precision"] == {"bit x bit": kernel["macs"]}
  assert rows["head/kernel"]["macs_by_precision"] == {
    "int8 x float": 32 * 8 * 3
  }
  assert rows["head/bias"]["bytes"] == 3 * 2
  assert rows["head/bias"]["macs"] == 0
  for part, prefix in (("all", ""), ("backbone", "backbone/")):
    chosen = [row for name, row in rows.items() if name.startswith(prefix)]
    count = sum(math.prod(row["shape"]) for row in chosen)
    sums = info[part]
    assert sums["bytes"] == sum(row["bytes"] for row in chosen)
    assert sums["macs"] == sum(row["macs"] for row in chosen)
    assert sums["macs"] == sum(sums["macs_by_precision"].values())
    one_bit = sum(r["macs"] for r in chosen if r["form"] == "bit")
    assert sums["macs_by_precision"]["bit x bit"] == one_bit
    assert sums["count"] == count and sums["float32_bytes"] == 4 * count
    assert sums["ratio"] == pytest.approx(4 * count / sums["bytes"])


def test_info_for_a_person(shipped, run, capsys):
  assert cli.main(["info", zoo.DEFAULT]) == 0
  out, err = capsys.readouterr()
  assert err == ""
  for text in (
    f"{zoo.path()}: {zoo.path().stat().st_size:,} bytes, format 2",
    f"content hash: {shipped[zoo.DEFAULT]}",
    "backbone=binary, binary_activations=True",
    "alphabet: two, 2 characters\n  ab\n",
    "preprocessing: height=32, frame_px=4",
    "line_accuracy=0.9877, seed=0, real.line_accuracy=0.875, real.n=1680",
    "MACs are those of one line of 32x128, of weights x features",
  ):
    assert text in out, text
  assert re.search(r"^all MACs +[\d,]+  bit x bit, \d\d\.\d%$", out, re.M)
  assert re.search(r"^all MACs +[\d,]+  int8 x float, \d+\.\d%$", out, re.M)
  whole, backbone = out.splitlines()[-2:]
  assert re.fullmatch(r"[\d,]+ bytes in float32, .*: 1\d\.\d times.*", whole)
  assert re.fullmatch(r"backbone: .* packed: 1\d\.\d times.*", backbone)
  # A run, of float parameters with moments.
  assert cli.main(["info", str(run)]) == 0
  out = capsys.readouterr().out
  assert "training: nothing is said" in out
  assert out.splitlines()[-1].endswith("packed: 1.0 times smaller")


def test_info_of_what_is_no_model(shipped, tmp_path, capsys):
  (tmp_path / "file").write_text("x")
  for model in ("none", str(tmp_path), str(tmp_path / "file")):
    assert cli.main(["info", model]) == 2
  out, err = capsys.readouterr()
  assert out == ""
  no_such, no_run, no_bundle = err.splitlines()
  assert f"shipped model's name ({zoo.DEFAULT}, plain)" in no_such
  assert "holds no model.safetensors" in no_run
  assert "not a whole safetensors file" in no_bundle
