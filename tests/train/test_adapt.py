import jax
import numpy as np
import pytest

from jaxocr.compress import rules as rules_lib
from jaxocr.export import bundle
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.train import adapt
from jaxocr.train import ship

OLD = alphabet_lib.Alphabet("abc", name="old")


@pytest.fixture(name="path")
def fixture_path(tmp_path):
  """A file whose head says of each class which it is."""
  params = {
    "head": {
      "kernel": np.arange(4.0, dtype=np.float32) + np.zeros((5, 1), np.float32),
      "bias": np.array([9.0, 1.0, 2.0, 3.0], np.float32),
    },
    "stem": {"kernel": np.ones((2, 4), np.float32)},
  }
  weights = ship.Weights(params, {"batch_stats": {}})
  ship.save(
    tmp_path / bundle.BUNDLE_NAME,
    weights,
    {"num_classes": 4},
    None,
    OLD,
    {},
  )
  return tmp_path


def test_shared_rows_are_kept(path):
  new = alphabet_lib.Alphabet("xcay", name="new")
  weights, matched = adapt.adapt(adapt.load_start(path), new, seed=0)
  assert (matched.matched, matched.new, matched.dropped) == ("ca", "xy", "b")
  assert matched.describe() == (
    "characters of the head: 2 matched, 2 new ('xy'), 1 dropped ('b')"
  )
  kernel, bias = (weights.params["head"][n] for n in ("kernel", "bias"))
  assert kernel.shape == (5, 5) and kernel.dtype == np.float32
  # Blank, x, c, a, y.
  np.testing.assert_array_equal(kernel[:, [0, 2, 3]], [[0.0, 3.0, 1.0]] * 5)
  np.testing.assert_array_equal(bias[[0, 2, 3]], [9.0, 3.0, 1.0])
  np.testing.assert_allclose(bias[[1, 4]], 2.0)  # The mean of characters'.
  assert len(np.unique(kernel[:, [1, 4]])) == 10
  np.testing.assert_array_equal(weights.params["stem"]["kernel"], 1.0)


def test_the_same_alphabet_changes_nothing(path):
  found = adapt.load_start(path)
  weights, matched = adapt.adapt(found, OLD, seed=0)
  assert matched.describe().endswith("3 matched, 0 new, 0 dropped")
  jax.tree.map(
    np.testing.assert_array_equal,
    weights.params,
    ship.load_weights(found).params,
  )


def test_what_cannot_be_trained_on_is_refused(tmp_path, path):
  with pytest.raises(ValueError, match=r"start=.*none: there is no such file"):
    adapt.load_start(tmp_path / "none")
  bundle.save_bundle(
    tmp_path / "packed.safetensors",
    jax.device_get(
      rules_lib.pack({"w": np.ones(3, np.float32)}, rules_lib.ALL_FLOAT)
    ),
    {},
    {
      "architecture": {"folded": True},
      "alphabet": {},
      "preprocess": {},
      "training": {},
    },
  )
  with pytest.raises(ValueError, match="packed for reading"):
    adapt.load_start(tmp_path / "packed.safetensors")
