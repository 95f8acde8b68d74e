"""Bundles: what comes back, and what is said of files that are none."""

import dataclasses
import functools
import json
import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from jaxocr.compress import affine
from jaxocr.compress import packed
from jaxocr.compress import rules
from jaxocr.compress import specs
from jaxocr.export import bundle

COLLECTIONS = {"batch_stats": {"norm": {"mean": np.zeros(2, np.float32)}}}
META = {
  "architecture": {"num_classes": 4},
  "alphabet": {"name": "custom", "characters": "aé "},
  "preprocess": {"height": 32, "frame_px": 4},
  "training": {"line_accuracy": 0.5, "sizes": (1, 2)},
}
# Every form that a parameter may take.
RULES = (
  ("float/.*", specs.Float()),
  ("half/.*", specs.Float("float16")),
  ("brain/.*", specs.Float("bfloat16")),
  ("binary/.*", specs.Binary()),
  ("bare/.*", specs.Binary(scaled=False)),
  ("ternary/.*", specs.Ternary()),
  ("dorefa/.*", specs.DoReFa(3)),
  ("int8/.*", specs.Affine()),
  ("int4/.*", specs.Affine(affine.Grid(bits=4, symmetric=False), False)),
  ("pq/.*", specs.Codebook(2, 4)),
)


def make_params():
  names = [pattern.removesuffix("/.*") for pattern, _ in RULES]
  rng = np.random.default_rng(0)
  return {
    name: {"kernel": jnp.asarray(rng.normal(size=(3, 3, 2, 3)), jnp.float32)}
    for name in names
  }


@functools.cache
def pack():
  """The parameters in these forms, on the host."""
  return jax.device_get(
    jax.jit(lambda params: rules.pack(params, RULES))(make_params())
  )


@pytest.fixture(name="path")
def fixture_path(tmp_path):
  path = tmp_path / "model.safetensors"
  bundle.save_bundle(path, pack(), COLLECTIONS, META)
  return path


def arrays_and_meta(path):
  with safetensors.safe_open(path, framework="numpy") as file:
    arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return arrays, json.loads(file.metadata()["jaxocr"])


def rewrite(path, *, arrays=None, meta=None):
  """Puts other tensors or metadata into a bundle."""
  old_arrays, old_meta = arrays_and_meta(path)
  text = json.dumps(old_meta if meta is None else meta)
  arrays = old_arrays if arrays is None else arrays
  path.write_bytes(safetensors.numpy.save(arrays, metadata={"jaxocr": text}))


def complaint(path) -> str:
  """What is said of a file: one sentence that begins with its path."""
  with pytest.raises(bundle.BundleError) as error:
    bundle.load_bundle(path)
  text = str(error.value)
  assert text.startswith(f"{path}: ") and "\n" not in text
  return text.removeprefix(f"{path}: ")


def test_every_form_comes_back_bit_for_bit(path):
  found = bundle.load_bundle(path)
  assert found.params.keys() == pack().keys()
  for name, leaves in pack().items():
    given, read = leaves["kernel"], found.params[name]["kernel"]
    assert type(read) is type(given), name
    for field in dataclasses.fields(given):
      a, b = getattr(given, field.name), getattr(read, field.name)
      assert type(a) is type(b), (name, field.name)
      if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), (name, field.name)
        assert a.tobytes() == b.tobytes(), (name, field.name)
      else:
        assert a == b, (name, field.name)


def test_variables_are_what_training_computed_with(path):
  variables = bundle.load_bundle(path).variables()
  assert variables.keys() == {"params", "batch_stats"}
  expected = jax.jit(lambda params: rules.fake(params, RULES))(make_params())
  for name, leaves in variables["params"].items():
    kernel = leaves["kernel"]
    assert kernel.dtype == jnp.float32
    np.testing.assert_array_equal(kernel, expected[name]["kernel"], name)
  np.testing.assert_array_equal(
    variables["batch_stats"]["norm"]["mean"], [0, 0]
  )


def test_metadata_comes_back(path):
  meta = bundle.load_bundle(path).meta
  assert {name: meta[name] for name in META} == META | {
    "training": {"line_accuracy": 0.5, "sizes": [1, 2]}
  }
  assert meta.keys() == {*META, "format", "content_hash"}
  assert meta["format"] == 2 and len(meta["content_hash"]) == 64


def test_the_hash_is_the_one_that_saving_told(tmp_path):
  path = tmp_path / "m.safetensors"
  digest = bundle.save_bundle(path, pack(), COLLECTIONS, META)
  assert bundle.load_bundle(path).meta["content_hash"] == digest


def test_any_safetensors_reader_sees_the_names(path):
  arrays, meta = arrays_and_meta(path)
  assert {n for n in arrays if not n.startswith("params/int")} == {
    "batch_stats/norm/mean",
    "params/float/kernel",
    "params/half/kernel",
    "params/pq/kernel.codebooks",
    "params/pq/kernel.codes",
    "params/brain/kernel",
    "params/binary/kernel.bits",
    "params/binary/kernel.scale",
    "params/bare/kernel.bits",
    "params/ternary/kernel.codes",
    "params/ternary/kernel.scale",
    "params/dorefa/kernel.codes",
    "params/dorefa/kernel.scale",
    "params/dorefa/kernel.zero_point",
  }
  assert meta["alphabet"]["characters"] == "aé "
  assert meta["tensors"]["params/ternary/kernel"] == {
    "kind": "affine",
    "bits": 2,
    "lowest": -1,
    "zero_point": None,
    "shape": [3, 3, 2, 3],
    "dtype": "float32",
  }
  # Nine bits a channel; nothing is widened in the file.
  assert arrays["params/binary/kernel.bits"].nbytes == 3 * 3
  assert arrays["params/half/kernel"].dtype == np.float16
  assert arrays["params/brain/kernel"].dtype == ml_dtypes.bfloat16


def test_transposed_arrays_keep_their_values(tmp_path):
  turned = np.arange(6.0, dtype=np.float32).reshape(2, 3).T
  path = tmp_path / "m.safetensors"
  tree = {"w": packed.FloatTensor(turned, "float32")}
  bundle.save_bundle(path, tree, {"extra": {"v": turned}}, META)
  found = bundle.load_bundle(path).variables()
  np.testing.assert_array_equal(found["params"]["w"], turned)
  np.testing.assert_array_equal(found["extra"]["v"], turned)


def test_hash_depends_on_names_shapes_types_and_values():
  one = {"a": np.zeros((2, 3), np.float32)}
  others = [
    {"b": np.zeros((2, 3), np.float32)},
    {"a": np.zeros((3, 2), np.float32)},
    {"a": np.zeros((2, 3), np.int32)},
    {"a": np.full((2, 3), -0.0, np.float32)},
  ]
  hashes = {bundle.content_hash(tree) for tree in [one, *others]}
  assert len(hashes) == 5
  assert bundle.content_hash(one) == bundle.content_hash(dict(one))


def test_nothing_half_written_is_left(path):
  assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]
  umask = os.umask(0)
  os.umask(umask)
  assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_altered_tensors_are_noticed(path):
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  assert "was altered after saving" in complaint(path)


@pytest.mark.parametrize(
  "alter",
  [
    lambda meta: meta["alphabet"].update(characters="ab "),
    lambda meta: meta["training"].update(line_accuracy=0.9),
    lambda meta: meta["tensors"]["params/ternary/kernel"].update(lowest=0),
    lambda meta: meta.update(new=1),
  ],
)
def test_altered_metadata_is_noticed(path, alter):
  _, meta = arrays_and_meta(path)
  alter(meta)
  rewrite(path, meta=meta)
  assert "was altered after saving" in complaint(path)


def test_metadata_written_in_another_order_is_the_same(path):
  arrays, meta = arrays_and_meta(path)
  rewrite(path, arrays=arrays, meta=dict(reversed(meta.items())))
  bundle.load_bundle(path)


def test_a_file_cut_short_is_named(path):
  path.write_bytes(path.read_bytes()[:-3])
  assert "not a whole safetensors file" in complaint(path)


@pytest.mark.parametrize(
  "name", ["params/binary/kernel.bits", "params/dorefa/kernel.zero_point"]
)
def test_a_missing_part_of_a_packed_tensor_is_named(path, name):
  arrays, _ = arrays_and_meta(path)
  del arrays[name]
  rewrite(path, arrays=arrays)
  assert complaint(path) == f"lacks the tensors {name}"


@pytest.mark.parametrize("change", ["lost", "added"])
def test_lost_and_added_floats_are_noticed(path, change):
  arrays, _ = arrays_and_meta(path)
  if change == "lost":
    del arrays["params/float/kernel"]
  else:
    arrays["params/more"] = np.zeros(1, np.float32)
  rewrite(path, arrays=arrays)
  assert "was altered after saving" in complaint(path)


def test_another_file_is_named(tmp_path):
  path = tmp_path / "notes.txt"
  path.write_text("hello, this is no model")
  assert complaint(path).startswith("not a whole safetensors file")


def test_a_file_that_is_not_there_is_another_matter(tmp_path):
  with pytest.raises(OSError, match="nowhere"):
    bundle.load_bundle(tmp_path / "nowhere.safetensors")


def test_foreign_tensors_are_named(tmp_path):
  path = tmp_path / "other.safetensors"
  path.write_bytes(safetensors.numpy.save({"w": np.zeros(2, np.float32)}))
  assert complaint(path) == "holds tensors but no jaxocr metadata"


@pytest.mark.parametrize(
  "stated, advice",
  [(3, "update jaxocr"), (1, "train it again"), ("x", "train it again")],
)
def test_another_format_is_refused(path, stated, advice):
  _, meta = arrays_and_meta(path)
  rewrite(path, meta=meta | {"format": stated})
  expected = f"format {stated}, this version reads 2; {advice}"
  assert complaint(path) == expected


def test_the_format_before_this_one_is_refused(tmp_path):
  """It had floats only, and no `tensors` in its metadata."""
  path = tmp_path / "old.safetensors"
  text = json.dumps({**META, "format": 1, "content_hash": "0" * 64})
  tensors = {"params/w": np.zeros(2, np.float32)}
  path.write_bytes(safetensors.numpy.save(tensors, metadata={"jaxocr": text}))
  assert complaint(path).endswith("this version reads 2; train it again")


@pytest.mark.parametrize(
  "text",
  [
    "{",
    "[]",
    '{"format": 1}',
    '{"content_hash": ""}',
    '{"format": 2, "content_hash": ""}',
    '{"format": 2, "content_hash": "", "tensors": {"w": {"kind": "pq"}}}',
    '{"format": 2, "content_hash": "", "tensors": {"w": {}}}',
  ],
)
def test_damaged_metadata_is_named(tmp_path, text):
  path = tmp_path / "m.safetensors"
  tensors = {"w": np.zeros(2, np.float32)}
  path.write_bytes(safetensors.numpy.save(tensors, metadata={"jaxocr": text}))
  assert complaint(path).startswith("its jaxocr metadata is damaged")


def test_meta_must_be_whole(tmp_path):
  with pytest.raises(ValueError, match="meta lacks alphabet"):
    bundle.save_bundle(
      tmp_path / "m",
      {},
      {},
      {k: v for k, v in META.items() if k != "alphabet"},
    )
