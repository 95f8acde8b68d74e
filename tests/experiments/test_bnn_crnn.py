import dataclasses
import json

import chex
import flax.traverse_util
import jax
import numpy as np
from PIL import Image
import pytest

from experiments import bnn_crnn
from jaxocr import reader
from jaxocr.data import render
from jaxocr.export import bundle
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.train import sharding

TINY = bnn_crnn.Config(
  steps=2,
  warmup_steps=1,
  batch_size=8,
  width=64,
  max_length=8,
  stem_channels=8,
  projection=8,
  hidden=8,
  eval_lines=12,
  progress_lines=8,
  log_every=1,
)


@pytest.mark.slow
def test_two_steps_leave_all_that_a_run_leaves(tmp_path, monkeypatch):
  Image.new("L", (60, 32), 200).save(tmp_path / "a.png")
  labels = tmp_path / "labels.tsv"
  labels.write_text("a.png\t1.50\nmissing.png\t2\na.png\tabc\n")
  workdir = tmp_path / "run"
  config = dataclasses.replace(TINY, eval_labels=str(labels))
  lines = []
  write = bnn_crnn.report.write_report

  def watched(*args, **kwargs):
    lines.extend(kwargs["lines"])
    return write(*args, **kwargs)

  monkeypatch.setattr(bnn_crnn.report, "write_report", watched)
  report = bnn_crnn.run(config, workdir)
  assert json.loads((workdir / "report.json").read_text())["finished"]
  assert report["lines"] == 12 and report["steps"] == 2
  assert report["real"]["n"] == 1
  assert sum(report["real"]["dropped"].values()) == 2
  assert report["bytes"] == (workdir / "model.safetensors").stat().st_size
  for name in ("report.html", "metrics.jsonl", "atlas.npz", "checkpoints/2"):
    assert (workdir / name).exists(), name
  variables, meta = bundle.load_bundle(workdir / "model.safetensors")
  assert meta["architecture"]["backbone"] == "binary"
  assert meta["preprocess"] == {"height": 32, "frame_px": 4}
  # The reader reads what the evaluation read.
  evaluated = next(line.reading for line in lines if line.source == "real")
  read = reader.Reader.load(workdir).read([tmp_path / "a.png"])[0]
  assert read.text == evaluated.text
  assert read.confidence == pytest.approx(evaluated.confidence, rel=1e-3)
  flat = flax.traverse_util.flatten_dict(variables["params"])
  assert sum(map(np.size, flat.values())) == report["parameters"]
  # The model is saved as it computes: two values per output channel.
  kernels = [leaf for path, leaf in flat.items() if path[-1] == "binary_kernel"]
  assert len(kernels) == 14
  for kernel in kernels:
    magnitudes = np.abs(kernel).reshape(-1, kernel.shape[-1])
    np.testing.assert_array_equal(
      magnitudes, magnitudes[:1].repeat(len(magnitudes), axis=0)
    )


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["binary", "mobilenet"])
def test_one_device_and_eight_learn_alike(tmp_path, backbone):
  config = dataclasses.replace(TINY, steps=100, backbone=backbone)
  alphabet = alphabet_lib.load_alphabet(config.alphabet)
  model = bnn_crnn.make_model(config, alphabet)
  assets, sample = bnn_crnn.make_source(config, alphabet, tmp_path)
  losses, moments = [], []
  for devices in (jax.devices()[:1], jax.devices()):
    mesh = sharding.make_mesh(devices)
    state, key, step = bnn_crnn.make_step(config, model, sample, mesh)
    placed = sharding.place(assets, sharding.replicated(mesh))
    state, metrics = step(state, placed, key)
    # Later Adam makes steps of one size out of rounding errors near zero.
    moments.append(jax.device_get(state.collections))
    for _ in range(2):
      state, metrics = step(state, placed, key)
    losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
  assert losses[0] == pytest.approx(losses[1], rel=1e-5)
  # BatchNorm's moments are those of the whole batch.
  chex.assert_trees_all_close(*moments, rtol=1e-5, atol=1e-5)


def test_the_defaults_are_valid_and_so_is_the_tiny_one():
  bnn_crnn.Config().validate()
  TINY.validate()


@pytest.mark.parametrize(
  "change, text",
  [
    ({"batch_size": 12}, "try 8 or 16"),
    ({"width": 66}, "width=66; it must be a positive multiple of 4"),
    ({"max_length": 9}, r"max_length=9; it must be in 1\.\.8"),
    ({"backbone": "vgg"}, "backbone='vgg'; it must be one of"),
    ({"dtype": "float16"}, "dtype='float16'"),
    ({"ema_decay": 1.0}, r"ema_decay=1\.0"),
    ({"eval_every": 0}, "eval_every=0; it must be above 0"),
    ({"warmup_steps": 2}, "warmup_steps=2"),
    ({"alphabet": "nowhere"}, "nowhere"),
    ({"fonts": "/nowhere"}, "not a directory"),
    ({"eval_labels": "/nowhere.tsv"}, "there is no such file"),
    ({"strengths": render.RenderStrengths(fade=2.0)}, r"strengths\.fade"),
  ],
)
def test_what_cannot_work_is_refused_up_front(change, text):
  with pytest.raises(ValueError, match=text):
    dataclasses.replace(TINY, **change).validate()
