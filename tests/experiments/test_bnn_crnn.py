"""The binary recogniser's run as a whole, with sizes that compile fast."""

import dataclasses
import functools
import json

import chex
import jax
import numpy as np
from PIL import Image
import pytest

from experiments import bnn_crnn
from jaxocr import reader
from jaxocr import zoo
from jaxocr.compress import packed
from jaxocr.compress import rules
from jaxocr.compress import summary
from jaxocr.compress import transfer
from jaxocr.data import render
from jaxocr.export import bundle
from jaxocr.models import binary
from jaxocr.models import crnn as crnn_lib
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.train import sharding
from jaxocr.train import ship
from jaxocr.train import stages
from jaxocr.train import text_lines
from jaxocr.train import text_run
from jaxocr.train import text_step
from jaxocr.train import workdirs
from jaxocr.train import writers

TINY = bnn_crnn.Config(
  steps=10,
  teacher_steps=2,
  warmup_steps=1,
  batch_size=8,
  width=64,
  max_length=8,
  stem_channels=4,
  projection=8,
  hidden=8,
  eval_lines=12,
  progress_lines=8,
  log_every=1,
  checkpoint_every=2,
  signs_share=0.2,
  binary_share=0.3,
  int8_share=0.1,
)
# Of each stage: 0.2, 0.3 and 0.1 of ten, and what is left to be taught.
STEPS = {"float": 2, "signs": 2, "binary": 3, "binary_fsp": 4, "int8": 1}
VARIANTS = ["float", "binary", "binary_fsp", "packed"]


# Three blocks for six: nearly all the time of these tests is compiling.
SHALLOW = ((2, 2, True), (4, 1, False), (1, 1, False))
CONVOLUTIONS = 7


@pytest.fixture(autouse=True)
def _shallow(monkeypatch):
  short = functools.partial(binary.BinaryBackbone, plan=SHALLOW)
  monkeypatch.setattr(binary, "BinaryBackbone", short)
  monkeypatch.setattr(bnn_crnn, "FSP_PAIRS", (("block1", "block2"),))
  monkeypatch.setattr(bnn_crnn, "FEATURE_TAPS", ("block0", "block2", "frames"))


class Killed(Exception):
  """Stands for what ends a process without warning."""


class Watch:
  """What a run did: stages with their starts, steps, lines of its report."""

  def __init__(self, monkeypatch, kill_at=None):
    self.starts, self.ends, self.steps, self.lines = {}, {}, {}, []
    self.ahead = []  # What was compiled ahead, and the stage that ran then.
    self._kill_at = kill_at
    self._wrap(monkeypatch, text_run.TextRun, "train", self._train)
    self._wrap(monkeypatch, text_step, "make_step", self._make_step)
    self._wrap(monkeypatch, text_run.report, "write_report", self._write)

  def _wrap(self, monkeypatch, owner, name, around):
    inner = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *a, **k: around(inner, *a, **k))

  def _train(self, inner, run, stage, architecture, **more):
    weights = inner(run, stage, architecture, **more)
    self.starts[stage.name] = more.get("start")
    self.ends[stage.name] = weights
    return weights

  def _make_step(self, inner, config, stage, *args, **more):
    state, step = inner(config, stage, *args, **more)

    def counted(*given):
      done = self.steps[stage.name] = self.steps.get(stage.name, 0) + 1
      if (stage.name, done) == self._kill_at:
        raise Killed
      return step(*given)

    def compiled(*given):
      self.ahead.append((stage.name, list(self.steps)[-1]))
      step.compile(*given)

    counted.compile = compiled
    return state, counted

  def _write(self, inner, *args, **more):
    self.lines = more["lines"]
    return inner(*args, **more)


@pytest.mark.slow
def test_a_run_and_one_that_was_killed(tmp_path):
  """One test, as the run takes longer than all that is asked of it."""
  Image.new("L", (60, 32), 200).save(tmp_path / "a.png")
  labels = tmp_path / "labels.tsv"
  labels.write_text("a.png\t1.50\nmissing.png\t2\na.png\tabc\n")
  config = dataclasses.replace(TINY, eval_labels=str(labels))
  workdir = tmp_path / "straight"
  with pytest.MonkeyPatch.context() as monkeypatch:
    watch = Watch(monkeypatch)
    report = bnn_crnn.run(config, workdir)
  check_what_is_left(workdir, report, watch)
  check_starts(watch)
  check_variants(report, watch)
  check_bits(workdir, report, watch)
  # The reader reads what the evaluation read.
  evaluated = next(x.reading for x in watch.lines if x.source == "real")
  read = reader.Reader.load(workdir).read([tmp_path / "a.png"])[0]
  assert read.text == evaluated.text
  assert read.confidence == pytest.approx(evaluated.confidence, rel=1e-3)
  check_resumption(config, workdir, tmp_path / "killed")


def check_what_is_left(workdir, report, watch):
  stored = json.loads((workdir / "report.json").read_text())
  assert stored["finished"] and stored["variants"] == report["variants"]
  assert report["lines"] == 12 and report["steps"] == 10
  assert report["bytes"] == (workdir / "model.safetensors").stat().st_size
  assert watch.steps == STEPS
  order = list(STEPS)
  assert watch.ahead == list(zip(order[2:], order[1:-1], strict=True))
  for stage, steps in STEPS.items():
    assert (workdir / "checkpoints" / stage / str(steps)).is_dir(), stage
  for name in ("report.html", "predictions.tsv", "atlas.npz"):
    assert (workdir / name).exists(), name


def check_starts(watch):
  """Each stage starts from the one it names."""
  starts, ends = watch.starts, watch.ends
  assert starts["float"] is None
  # Read back from its file.
  chex.assert_trees_all_equal(starts["signs"].params, ends["float"].params)
  assert starts["binary"] is ends["signs"]
  assert starts["binary_fsp"] is ends["binary"]
  assert starts["int8"] is ends["binary_fsp"]


def check_variants(report, watch):
  variants = {variant["name"]: variant for variant in report["variants"]}
  assert list(variants) == VARIANTS
  plain = variants["float"]
  assert plain["ratio"] == plain["backbone_ratio"] == 1
  for name, variant in variants.items():
    assert 0 <= variant["line_accuracy"] <= 1
    assert variant["real"]["n"] == 1
    assert sum(variant["real"]["dropped"].values()) == 2
    assert 0 < variant["backbone_bytes"] < variant["bytes"]
    assert variant["ratio"] == plain["bytes"] / variant["bytes"], name
  assert plain["bytes"] > variants["binary"]["bytes"]
  assert variants["binary"]["bytes"] == variants["binary_fsp"]["bytes"]
  assert variants["binary"]["bytes"] > 2 * variants["packed"]["bytes"]
  # What is shipped is what the report is of.
  assert report["line_accuracy"] == variants["packed"]["line_accuracy"]
  assert report["real"] == variants["packed"]["real"]
  # By hand: BatchNorm's gains are in the kernels, its offsets are left.
  params, norms = watch.ends["float"].params, 0
  for path, _ in jax.tree_util.tree_leaves_with_path(params):
    norms += rules.path_name(path).endswith("norm/scale")
  assert norms == CONVOLUTIONS + 2  # And of the stem and the collapse.
  sizes = jax.tree_util.tree_leaves_with_path(params)
  count = sum(
    x.size for p, x in sizes if not rules.path_name(p).endswith("norm/scale")
  )
  assert plain["bytes"] == 4 * count


def check_bits(workdir, report, watch):
  """The file holds one bit for each latent weight."""
  found = bundle.load_bundle(workdir / "model.safetensors")
  assert found.meta["architecture"]["backbone"] == "binary"
  assert found.meta["architecture"]["folded"]
  assert found.meta["preprocess"] == {"height": 32, "frame_px": 4}
  assert found.collections == {}
  forms = summary.summarise(found.params)
  assert forms.nbytes == report["variants"][-1]["bytes"]
  assert set(forms.by_form()) == {"bit", "int8", "float16"}
  weights = watch.ends["int8"]
  leaves = jax.tree_util.tree_leaves_with_path(
    found.params, is_leaf=packed.is_packed
  )
  kernels = [
    (path, tensor)
    for path, tensor in leaves
    if rules.path_name(path).endswith("binary_kernel")
  ]
  assert len(kernels) == CONVOLUTIONS
  for path, tensor in kernels:
    latent, scale = weights.params, weights.params
    for key in path:
      latent = latent[key.key]
    for key in (*path[:-2], jax.tree_util.DictKey("conv_norm")):
      scale = scale[key.key]
    # A bit is the sign of the weight, turned where the gain is negative.
    positive = (latent >= 0) == (scale["scale"] >= 0)[None, None, None]
    values = np.asarray(tensor.dequantise())
    np.testing.assert_array_equal(values >= 0, positive)
    magnitudes = np.abs(values).reshape(-1, values.shape[-1])
    np.testing.assert_array_equal(
      magnitudes, magnitudes[:1].repeat(len(magnitudes), axis=0)
    )


def contents(workdir):
  """Of the model: the hash of its tensors and all that is stated of them."""
  return bundle.load_bundle(workdir / bundle.BUNDLE_NAME).meta


def curve(workdir):
  """All that was measured, but how fast it went."""
  return [
    {k: v for k, v in entry.items() if k != "train/lines_per_s"}
    for entry in writers.read_history(workdir)
  ]


def check_resumption(config, straight, workdir):
  """A run that was killed in its third stage goes on bit for bit."""
  with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(Killed):
    killed = Watch(monkeypatch, kill_at=("binary_fsp", 4))
    bnn_crnn.run(config, workdir)
  assert killed.steps == {k: n for k, n in STEPS.items() if k != "int8"}
  with pytest.MonkeyPatch.context() as monkeypatch:
    resumed = Watch(monkeypatch)
    bnn_crnn.run(config, workdir)
  # From the checkpoint of step 2 on, and nothing of what was done before.
  assert resumed.steps == {"binary_fsp": 2, "int8": 1}
  teacher = bnn_crnn.TEACHER_NAME
  assert (workdir / teacher).read_bytes() == (straight / teacher).read_bytes()
  assert contents(workdir) == contents(straight)
  # Each step of each stage once, as if there had been no stop.
  assert curve(workdir) == curve(straight)
  assert [x["step"] for x in curve(workdir) if "train/loss" in x] == list(
    range(1, sum(STEPS.values()) + 1)
  )


def stirred(params):
  """Initial weights off the places where gradients are nothing but rounding.

  The gain of a new norm before ReLU, depthwise convolution and norm changes
  nothing while its bias is 0: its gradient is 0 but for rounding, of which
  Adam's first update makes a step of full size, up or down.
  """
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: np.asarray(x) + 0.1 * rng.standard_normal(x.shape, np.float32),
    params,
  )


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["binary", "mobilenet"])
def test_one_device_and_eight_learn_alike(tmp_path, backbone):
  alphabet = alphabet_lib.load_alphabet(TINY.alphabet)
  architecture = text_run.architecture(TINY, alphabet, backbone=backbone)
  stage = stages.Stage("s", 10_000, learning_rate=4e-3)
  twin = None
  if backbone == "binary":
    # Soft, as rounding may turn a sign; taught, as most stages are.
    twin = architecture | {"binary_activations": False}
    stage = dataclasses.replace(
      stage,
      rules=rules.BINARY_KERNELS,
      harden_signs=1.0,
      harden_weights=1.0,
      distillation=bnn_crnn.make_distillation(TINY, fsp=True),
    )
  assets, sample = text_lines.make_source(TINY, alphabet, tmp_path)
  losses, moments = [], []
  for devices in (jax.devices()[:1], jax.devices()):
    mesh = sharding.make_mesh(devices)
    begin, step = text_step.make_step(
      TINY, stage, architecture, sample, mesh, teacher=twin
    )
    state, moved = begin(None)
    assert moved == []
    whole = sharding.replicated(mesh)
    placed = sharding.place(assets, whole)
    state = state.replace(params=sharding.place(stirred(state.params), whole))
    teacher = None
    if twin:
      start = ship.Weights(state.params, state.collections)
      # Not the state's own buffers, which are donated.
      teacher = jax.tree.map(np.array, ship.variables(start))
      teacher = sharding.place(teacher, whole)
    key = jax.random.key(0)
    state, metrics = step(state, placed, key, 0, teacher)
    # Later Adam makes steps of one size out of rounding errors near zero.
    moments.append(jax.device_get(state.collections))
    for done in (1, 2):
      state, metrics = step(state, placed, key, done, teacher)
    losses.append(
      {
        name: float(total / count)
        for name, (total, count) in metrics.items()
        if name == "loss" or name.startswith("distil_")
      }
    )
  assert losses[0] == pytest.approx(losses[1], rel=1e-5)
  assert len(losses[0]) == (3 if twin else 1)
  # BatchNorm's moments are those of the whole batch.
  chex.assert_trees_all_close(*moments, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_int8_features_are_read_as_they_were_judged(tmp_path, capsys):
  """The last stage alone, from a network that has no ranges."""
  rng = np.random.default_rng(0)
  for i in range(4):
    pixels = np.uint8(rng.integers(0, 256, (32, 60)))
    Image.fromarray(pixels).save(tmp_path / f"{i}.png")
  labels = tmp_path / "labels.tsv"
  labels.write_text("".join(f"{i}.png\t{i}\n" for i in range(4)))
  config = dataclasses.replace(
    TINY, steps=40, int8_features=True, eval_labels=str(labels)
  )
  stage = dataclasses.replace(
    bnn_crnn.make_stages(config)[-1], distillation=None
  )
  run = text_run.TextRun(config, tmp_path / "run")
  _, student = bnn_crnn.architectures(config, run.alphabet)
  shipped = bnn_crnn.shipped_architecture(config, student)
  assert shipped == {**student, "activation_bits": 8, "freeze_after": 2}
  image = np.zeros((1, 32, 64, 1), np.float32)
  start = dict(jax.jit(crnn_lib.CRNN(**student).init)(jax.random.key(0), image))
  start = ship.Weights(start.pop("params"), start)
  with pytest.raises(
    transfer.TransferError, match="ranges/context_range/count"
  ):
    run.train(dataclasses.replace(stage, fresh=()), shipped, start=start)
  weights = run.train(stage, shipped, start=start)
  said = capsys.readouterr().out
  for name in ("frames", "context"):
    ranges = weights.collections["ranges"][f"{name}_range"]
    assert ranges["count"] == 2 and ranges["low"] < 0 < ranges["high"]
    assert (
      f"  ranges/{name}_range/low re-initialised: learnt anew, from the first "
      "batch on\n"
    ) in said
  lines, _ = run.judge(weights, shipped, rules.BINARY_SHIPPED)
  run.save("a.safetensors", weights, shipped, rules.BINARY_SHIPPED, {})
  check_the_reader_has_the_ranges(tmp_path / "run" / "a.safetensors", weights)
  judged = {x.path: x.reading for x in lines if x.source == "real"}
  assert len(judged) == 4
  images = [tmp_path / path for path in judged]
  reads = reader.Reader.load(tmp_path / "run" / "a.safetensors").read(images)
  for read, reading in zip(reads, judged.values(), strict=True):
    assert read.text == reading.text
    assert read.confidence == pytest.approx(reading.confidence, rel=1e-5)


def check_the_reader_has_the_ranges(path, weights):
  """The file holds those of training, and they make a difference."""
  found = reader.load_model(path)
  variables = found.stored.variables()
  chex.assert_trees_all_equal(
    variables["ranges"], weights.collections["ranges"]
  )
  image = np.random.default_rng(1).random((2, 32, 64, 1), np.float32)
  logits = found.network.apply(variables, image)
  for name in variables["ranges"]:
    wide = {**variables["ranges"], name: {"low": -9.0, "high": 9.0, "count": 1}}
    assert (
      found.network.apply({**variables, "ranges": wide}, image) != logits
    ).any()


def test_stages():
  plan = bnn_crnn.make_stages(TINY)
  assert {stage.name: stage.steps for stage in plan} == {
    name: steps for name, steps in STEPS.items() if name != "float"
  }
  names = [stage.name for stage in plan]
  assert names == ["signs", "binary", "binary_fsp", "int8"]
  teachers = [stage.distillation for stage in plan]
  assert [bool(teacher.fsp) for teacher in teachers] == [0, 0, 1, 0]
  assert all(teacher.logit for teacher in teachers)
  # What has become a sign stays one.
  signs, binary, *later = plan
  assert signs.harden_signs and not signs.harden_weights
  assert binary.harden_weights and not binary.harden_signs
  for stage in later:
    assert stage.harden_signs == stage.harden_weights == 0


def test_the_defaults_are_valid_and_so_is_the_tiny_one():
  bnn_crnn.Config().validate()
  TINY.validate()


def test_the_shipped_teacher_is_that_of_the_defaults():
  path = str(zoo.path("numeric-float"))
  dataclasses.replace(bnn_crnn.Config(), teacher=path).validate()
  with pytest.raises(ValueError, match="stem_channels is 24, wanted 4"):
    dataclasses.replace(TINY, teacher=path).validate()


@pytest.mark.parametrize(
  "change, text",
  [
    ({"batch_size": 12}, "try 8 or 16"),
    ({"width": 66}, "width=66; it must be a positive multiple of 4"),
    ({"max_length": 9}, r"max_length=9; it must be in 1\.\.8"),
    ({"dtype": "float16"}, "dtype='float16'"),
    ({"ema_decay": 1.0}, r"ema_decay=1\.0"),
    ({"eval_every": 0}, "eval_every=0; it must be above 0"),
    ({"hidden": 0}, "hidden=0; it must be above 0"),
    ({"alphabet": "nowhere"}, "nowhere"),
    ({"fonts": "/nowhere"}, "not a directory"),
    ({"eval_labels": "/nowhere.tsv"}, "there is no such file"),
    ({"strengths": render.RenderStrengths(fade=2.0)}, r"strengths\.fade"),
    ({"steps": 9}, "steps=9; it must be 10 or more"),
    ({"teacher_steps": 1}, "teacher_steps=1; it must be above 1"),
    ({"signs_share": 1.0}, r"signs_share=1\.0; it must be in \(0, 1\)"),
    ({"int8_share": 0.6}, "int8_share add up to 1 or more"),
    ({"int8_share": 0.04}, "leaves a stage without any"),
    ({"int8_learning_rate": 0.0}, r"int8_learning_rate=0\.0"),
    ({"fsp": -1.0}, r"fsp=-1\.0"),
    ({"temperature": 0.0}, r"temperature=0\.0"),
    ({"teacher": "/nowhere"}, "teacher=/nowhere: there is no such file"),
  ],
)
def test_what_cannot_work_is_refused_up_front(change, text):
  with pytest.raises(ValueError, match=text):
    dataclasses.replace(TINY, **change).validate()


def test_a_run_keeps_its_teacher(tmp_path):
  class Run:
    workdir = tmp_path

  def found(digest):
    return bundle.Bundle({}, {}, {"content_hash": digest * 64})

  origin = bnn_crnn.hold_teacher(Run, "here/a.safetensors", found("a"))
  assert origin == {"file": "a.safetensors", "hash": "a" * 64}
  assert bnn_crnn.hold_teacher(Run, "b/a.safetensors", found("a")) == origin
  with pytest.raises(workdirs.WorkdirError, match="began with the teacher a"):
    bnn_crnn.hold_teacher(Run, "here/a.safetensors", found("b"))
