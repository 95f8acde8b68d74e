import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from jaxocr.export import bundle

PARAMS = {
  "head": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}
}
COLLECTIONS = {"batch_stats": {"norm": {"mean": jnp.zeros(2)}}}
META = {
  "architecture": {"num_classes": 4},
  "alphabet": {"name": "custom", "characters": "aé "},
  "preprocess": {"height": 32, "frame_px": 4},
  "training": {"line_accuracy": 0.5},
}


@pytest.fixture(name="path")
def fixture_path(tmp_path):
  path = tmp_path / "model.safetensors"
  bundle.save_bundle(path, PARAMS, COLLECTIONS, META)
  return path


def test_round_trip(path):
  variables, meta = bundle.load_bundle(path)
  assert set(variables) == {"params", "batch_stats"}
  kernel = variables["params"]["head"]["kernel"]
  assert kernel.dtype == np.float32
  np.testing.assert_array_equal(kernel, PARAMS["head"]["kernel"])
  assert {name: meta[name] for name in META} == META
  assert meta["format"] == 1 and len(meta["content_hash"]) == 64


def test_any_safetensors_reader_sees_the_names(path):
  with safetensors.safe_open(path, framework="numpy") as file:
    assert set(file.keys()) == {
      "batch_stats/norm/mean",
      "params/head/bias",
      "params/head/kernel",
    }
    assert (
      json.loads(file.metadata()["jaxocr"])["alphabet"]["characters"] == "aé "
    )


def test_transposed_arrays_keep_their_values(tmp_path):
  turned = np.arange(6.0).reshape(2, 3).T
  path = tmp_path / "m.safetensors"
  bundle.save_bundle(path, {"w": turned}, {}, META)
  np.testing.assert_array_equal(
    bundle.load_bundle(path)[0]["params"]["w"], turned
  )


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
  with pytest.raises(bundle.BundleError, match="altered after saving"):
    bundle.load_bundle(path)


def test_another_file_is_named(tmp_path):
  path = tmp_path / "notes.txt"
  path.write_text("hello, this is no model")
  with pytest.raises(bundle.BundleError, match=r"notes.txt: not a safetensors"):
    bundle.load_bundle(path)


def test_foreign_tensors_are_named(tmp_path):
  path = tmp_path / "other.safetensors"
  path.write_bytes(safetensors.numpy.save({"w": np.zeros(2, np.float32)}))
  with pytest.raises(bundle.BundleError, match="no jaxocr metadata"):
    bundle.load_bundle(path)


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(bundle, "FORMAT", 2)
  path = tmp_path / "new.safetensors"
  bundle.save_bundle(path, PARAMS, COLLECTIONS, META)
  monkeypatch.setattr(bundle, "FORMAT", 1)
  with pytest.raises(
    bundle.BundleError, match="format 2, this version reads 1"
  ):
    bundle.load_bundle(path)


@pytest.mark.parametrize(
  "text", ["{", "[]", '{"format": 1}', '{"content_hash": ""}']
)
def test_damaged_metadata_is_named(tmp_path, text):
  path = tmp_path / "m.safetensors"
  tensors = {"w": np.zeros(2, np.float32)}
  path.write_bytes(safetensors.numpy.save(tensors, metadata={"jaxocr": text}))
  with pytest.raises(bundle.BundleError, match="metadata is damaged"):
    bundle.load_bundle(path)


def test_meta_must_be_whole(tmp_path):
  with pytest.raises(ValueError, match="meta lacks alphabet"):
    bundle.save_bundle(
      tmp_path / "m",
      PARAMS,
      {},
      {k: v for k, v in META.items() if k != "alphabet"},
    )
