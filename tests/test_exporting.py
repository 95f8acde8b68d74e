"""`jaxocr export` and what reads with its files, by the command line."""

import importlib.util
import json
import sys

import numpy as np
import PIL.Image
import pytest
import safetensors
import safetensors.numpy

from jaxocr import cli
from jaxocr import exporting
from jaxocr.export import card
from jaxocr.export import check
from jaxocr.export import engines
from jaxocr.export import onnx_crnn
from jaxocr.text import ctc
from tests.export import tiny

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
  """With a bundle, what it is exported to, and two images of lines."""
  folder = tmp_path_factory.mktemp("export")
  tiny.save(folder / "m.safetensors", "binary")
  for i, width in enumerate((61, 90)):
    pixels = tiny.images(96, 1, seed=i)[0, :, :width, 0] * 255
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
  list(
    exporting.export(
      folder / "m.safetensors", "onnx", out=folder / "m.onnx", decode=True
    )
  )
  return folder


def _read(capsys, folder, *arguments):
  images = [str(folder / f"{i}.png") for i in range(2)]
  code = cli.main(["read", *arguments, *images])
  out, err = capsys.readouterr()
  assert (code, err) == (0, "")
  return out


def test_reads_the_same_with_each_engine(folder, capsys):
  bundle = str(folder / "m.safetensors")
  wanted = _read(capsys, folder, "--chars", "--model", bundle)
  assert len(wanted.splitlines()) > 2
  for arguments in (
    ["--engine", "onnx", "--model", bundle],
    ["--engine", "onnx", "--model", str(folder / "m.onnx")],
    ["--model", str(folder / "m.onnx")],
  ):
    assert _read(capsys, folder, "--chars", *arguments) == wanted


def test_reads_with_mnn_and_prints_nothing_else(folder, capfd):
  # Not imported here: it prints when it is, once a process.
  if importlib.util.find_spec("MNN") is None:
    pytest.skip("MNN is not installed")
  bundle = str(folder / "m.safetensors")
  wanted = _read(capfd, folder, "--model", bundle)
  found = _read(capfd, folder, "--model", bundle, "--engine", "mnn")
  assert found == wanted


def test_an_engine_that_a_file_is_not_for(folder, capsys):
  file = str(folder / "m.onnx")
  assert cli.main(["read", "--engine", "mnn", "--model", file, "x.png"]) == 2
  assert "is for onnx, not for --engine mnn" in capsys.readouterr().err


def test_the_card_is_enough_to_test_oneself(folder):
  stated = json.loads((folder / "m.onnx.json").read_text())
  assert stated["alphabet"]["characters"] == tiny.ALPHABET.characters
  assert stated["preprocess"]["height"] == 32
  engine = engines.open_engine(folder / "m.onnx", threads=1)
  pixels = card.golden_image(stated["golden"])
  assert pixels.shape[0] == 32 and pixels.min() < 60 and pixels.max() > 200
  logits = engine.logits(pixels[None, :, :, None].astype(np.float32) / 255)
  assert logits[0].argmax(-1).tolist() == stated["golden"]["classes"]
  (reading,) = ctc.greedy_decode(logits, engine.alphabet)
  assert reading.text == stated["golden"]["text"]
  assert check.golden_text(engine, stated) == stated["golden"]["text"]


def test_check_prints_what_was_compared(folder, capsys, tmp_path, monkeypatch):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 255, (8, 32, 128)).astype(np.uint8)
  lines = check.Lines(
    "rendered",
    tuple(
      check.real.RealLine(f"{i}", "1", np.ones(1, np.int32), p)
      for i, p in enumerate(pixels)
    ),
  )
  monkeypatch.setattr(check, "rendered_lines", lambda *_: lines)
  monkeypatch.setattr(check, "WIDTHS", (125,))
  labels = folder / "labels.tsv"
  labels.write_text("0.png\t1\n1.png\tx\n")
  out = tmp_path / "c.onnx"
  code = cli.main(
    [
      *("export", str(folder / "m.safetensors"), "--to", "onnx"),
      *("--out", str(out), "--check", "--labels", str(labels)),
    ]
  )
  said, err = capsys.readouterr()
  assert (code, err) == (0, "")
  for part in (
    f"{out}: {out.stat().st_size:,} bytes, IR 8, ONNX opset 17",
    "golden line: ",
    "width 125, batch 1: largest logit error ",
    "width 125, batch 3: largest logit error ",
    "the bundle in JAX, batch 1 beside itself in batch 32: ",
    "rendered: 8 lines, 8 strings identical",
    "labels.tsv: 2 read, 1 kept",
    "labels.tsv: 1 lines, 1 strings identical",
    "  a line's largest logit error: median ",
    "ms in 1 thread(s); the bundle in JAX ",
  ):
    assert part in said
  assert "but the bundle reads" not in said


def _fails(capsys, folder, *arguments, model="m.safetensors"):
  before = sorted(folder.iterdir())
  code = cli.main(["export", str(folder / model), *arguments])
  out, err = capsys.readouterr()
  assert (code, out) == (2, "") and err.count("\n") == 1
  assert sorted(folder.iterdir()) == before
  return err


def test_without_onnx(folder, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "onnx", None)
  out = str(folder / "n.onnx")
  assert "pip install onnx" in _fails(
    capsys, folder, "--to", "onnx", "--out", out
  )


def test_without_mnn(folder, capsys, monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(
    "importlib.util.find_spec",
    lambda name, *more: None if name == "MNN" else find(name, *more),
  )
  out = str(folder / "n.mnn")
  assert "pip install MNN" in _fails(
    capsys, folder, "--to", "mnn", "--out", out
  )


def test_where_nothing_can_be_written(folder, capsys):
  nowhere = str(folder / "nowhere" / "n.onnx")
  err = _fails(capsys, folder, "--to", "onnx", "--out", nowhere)
  assert "there is no folder" in err
  (folder / "taken.onnx").mkdir(exist_ok=True)
  taken = str(folder / "taken.onnx")
  err = _fails(capsys, folder, "--to", "onnx", "--out", taken)
  assert "cannot be written" in err
  err = _fails(capsys, folder, "--to", "onnx", "--out", str(folder / "n.bin"))
  assert "call it NAME.onnx" in err


def test_images_of_digits_for_a_reader_of_lines(folder, capsys):
  err = _fails(capsys, folder, "--to", "onnx", "--mnist-dir", "somewhere")
  assert "is for digit networks" in err and "give --labels" in err


def test_a_bundle_of_a_newer_version(folder, capsys):
  with safetensors.safe_open(folder / "m.safetensors", "numpy") as file:
    meta = json.loads(file.metadata()["jaxocr"])
    arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  meta["format"] += 1
  (folder / "newer.safetensors").write_bytes(
    safetensors.numpy.save(arrays, metadata={"jaxocr": json.dumps(meta)})
  )
  out = str(folder / "n.onnx")
  err = _fails(
    capsys, folder, "--to", "onnx", "--out", out, model="newer.safetensors"
  )
  assert "update jaxocr" in err


def test_an_operator_that_the_engine_lacks(folder, tmp_path):
  model = onnx.load(folder / "m.onnx")
  next(n for n in model.graph.node if n.op_type == "Where").op_type = "Whither"
  onnx.save(model, tmp_path / "odd.onnx")
  with pytest.raises(ValueError, match="Whither"):
    engines.open_engine(tmp_path / "odd.onnx")


def _ends_in(monkeypatch, operator, domain=""):
  """All networks get a last operator."""
  write = onnx_crnn.Writer.write

  def longer(self):
    logits = write(self)
    (last,) = self.graph.nodes(operator, (logits,), ("odd",), domain=domain)
    return last

  monkeypatch.setattr(onnx_crnn.Writer, "write", longer)


def test_export_says_which_operator_mnn_lacks(folder, capfd, monkeypatch):
  if importlib.util.find_spec("MNN") is None:
    pytest.skip("MNN is not installed")
  _ends_in(monkeypatch, "Hardmax")
  out = str(folder / "n.mnn")
  err = _fails(capfd, folder, "--to", "mnn", "--out", out)
  assert "MNN's converter failed" in err and "Hardmax" in err


def test_check_says_which_operator_onnxruntime_lacks(
  folder, tmp_path, capsys, monkeypatch
):
  _ends_in(monkeypatch, "Whither", domain="com.microsoft")
  out = tmp_path / "n.onnx"
  code = cli.main(
    [
      *("export", str(folder / "m.safetensors"), "--to", "onnx"),
      *("--out", str(out), "--check"),
    ]
  )
  said, err = capsys.readouterr()
  assert code == 2 and said.startswith(f"{out}: ")
  assert err.count("\n") == 1 and "Whither" in err
  assert "update onnxruntime" in err


def test_files_that_are_none(tmp_path):
  for name, reason in (("a.onnx", "cannot open"), ("a.bin", "end in")):
    (tmp_path / name).write_bytes(b"no model")
    with pytest.raises(ValueError, match=reason):
      engines.open_engine(tmp_path / name)
  with pytest.raises(FileNotFoundError):
    engines.open_engine(tmp_path / "none.onnx")
  with pytest.raises(ValueError, match="is missing"):
    card.load(tmp_path / "a.mnn")
  card.path_of(tmp_path / "a.mnn").write_text('{"card": 99}')
  with pytest.raises(ValueError, match="version 99"):
    card.load(tmp_path / "a.mnn")
