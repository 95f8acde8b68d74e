import hashlib
import pathlib
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxocr.train import checkpoints
from jaxocr.train import sharding


def make_state(value=0.0):
  params = {"w": jnp.full((64, 32), value), "n": jnp.array(3)}
  return {"params": params, "opt": optax.adam(1e-3).init(params)}


@pytest.fixture(name="saved")
def fixture_saved(tmp_path):
  """A workdir with checkpoints of steps 1 and 2."""
  store = checkpoints.Checkpoints(tmp_path, keep=2)
  store.save(make_state(1.0), 1, {"seconds": 10.0})
  store.save(make_state(2.0), 2, {"seconds": 20.0})
  store.close()
  return tmp_path


def reopen(workdir, template=None):
  store = checkpoints.Checkpoints(workdir, keep=2)
  try:
    return store.restore(make_state() if template is None else template)
  finally:
    store.close()


def test_a_new_workdir_has_nothing_to_restore(tmp_path):
  assert reopen(tmp_path) is None


def test_the_newest_comes_back_bit_for_bit(tmp_path):
  state = make_state()
  state["params"]["w"] = jax.random.normal(jax.random.key(0), (64, 32))
  store = checkpoints.Checkpoints(tmp_path, keep=2)
  store.save(make_state(), 1, {})
  store.save(state, 7, {"seconds": 1.5})
  store.close()
  restored = reopen(tmp_path)
  assert (restored.step, restored.meta) == (7, {"seconds": 1.5})
  chex.assert_trees_all_equal(restored.state, state)
  chex.assert_trees_all_equal_dtypes(restored.state, state)


def test_what_is_saved_is_of_the_moment_of_the_call(tmp_path):
  # The loop gives the buffers away right after.
  step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  store = checkpoints.Checkpoints(tmp_path, keep=2)
  state = step(make_state(1.0))
  expected = jax.tree.map(np.array, state)
  store.save(state, 1, {})
  for _ in range(5):
    state = step(state)
  store.close()
  chex.assert_trees_all_equal(reopen(tmp_path).state, expected)


def test_sums_are_those_of_sha256sum(saved):
  folder = saved / "checkpoints" / "2"
  lines = (folder / "SHA256SUMS").read_text().splitlines()
  assert len(lines) > 3
  for line in lines:
    digest, name = line.split("  ")
    data = (folder / name).read_bytes()
    assert hashlib.sha256(data).hexdigest() == digest


def test_the_last_and_the_best_are_kept(tmp_path):
  store = checkpoints.Checkpoints(tmp_path, keep=2)
  scores = {1: 0.1, 2: 0.9, 3: None, 4: 0.5, 5: None, 6: None}
  for step, score in scores.items():
    store.save(make_state(step), step, {}, score=score)
  store.close()
  kept = sorted(int(p.name) for p in store.directory.iterdir())
  assert kept == [2, 5, 6]
  # A later session still knows the best.
  store = checkpoints.Checkpoints(tmp_path, keep=2)
  store.restore(make_state())
  assert store.best_step() == 2
  store.save(make_state(7), 7, {}, score=0.8)
  store.save(make_state(8), 8, {}, score=0.9)
  assert store.best_step() == 8  # The later of equals.
  store.close()
  kept = sorted(int(p.name) for p in store.directory.iterdir())
  assert kept == [7, 8]


def test_saving_a_step_again_does_nothing(saved):
  store = checkpoints.Checkpoints(saved, keep=2)
  store.save(make_state(9.0), 2, {})
  store.close()
  assert float(reopen(saved).state["params"]["w"][0, 0]) == 2.0


def test_restored_into_another_sharding(tmp_path):
  eight = sharding.make_mesh()
  one = sharding.make_mesh(jax.devices()[:1])
  state = {"w": jax.device_put(jnp.arange(16.0), sharding.replicated(eight))}
  store = checkpoints.Checkpoints(tmp_path, keep=1)
  store.save(state, 1, {})
  store.close()
  for wanted in (sharding.split_lines(eight), sharding.replicated(one)):
    template = {"w": jax.device_put(jnp.zeros(16), wanted)}
    restored = reopen(tmp_path, template).state["w"]
    assert restored.sharding.is_equivalent_to(wanted, 1)
    np.testing.assert_array_equal(restored, np.arange(16.0))


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def truncate(path):
  path.write_bytes(path.read_bytes()[:-7])


def largest(folder: pathlib.Path) -> pathlib.Path:
  files = [p for p in folder.rglob("*") if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("damage", [flip, truncate, pathlib.Path.unlink])
@pytest.mark.parametrize("which", ["largest", "meta/metadata", "SHA256SUMS"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
  saved, damage, which
):
  folder = saved / "checkpoints" / "2"
  damage(largest(folder) if which == "largest" else folder / which)
  with pytest.warns(
    checkpoints.DamagedCheckpointWarning, match=f"{folder} is damaged"
  ):
    restored = reopen(saved)
  assert restored.step == 1
  assert restored.meta == {"seconds": 10.0}
  chex.assert_trees_all_equal(restored.state, make_state(1.0))
  assert (saved / "rejected_checkpoints" / "2").is_dir()


def test_training_goes_on_past_a_damaged_checkpoint(saved):
  flip(largest(saved / "checkpoints" / "2"))
  store = checkpoints.Checkpoints(saved, keep=2)
  with pytest.warns(checkpoints.DamagedCheckpointWarning):
    store.restore(make_state())
  store.save(make_state(2.5), 2, {})
  store.close()
  restored = reopen(saved)
  assert restored.step == 2
  assert float(restored.state["params"]["w"][0, 0]) == 2.5


def test_all_damaged_is_an_error_not_a_new_start(saved):
  for step in "12":
    flip(largest(saved / "checkpoints" / step))
  with (
    pytest.warns(checkpoints.DamagedCheckpointWarning),
    pytest.raises(checkpoints.NoUsableCheckpoint, match="all 2 checkpoints"),
  ):
    reopen(saved)


def test_an_unfinished_write_is_swept_away(saved):
  # What kill -9 in the middle of a save leaves behind.
  folder = saved / "checkpoints"
  shutil.copytree(folder / "2", folder / "3.orbax-checkpoint-tmp")
  (folder / "3.orbax-checkpoint-tmp" / "SHA256SUMS").unlink()
  store = checkpoints.Checkpoints(saved, keep=2)
  assert store.restore(make_state()).step == 2  # Without a warning.
  store.save(make_state(), 3, {})
  store.close()
  assert sorted(p.name for p in folder.iterdir()) == ["2", "3"]


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_state_that_is_not_finite_is_never_saved(tmp_path, value):
  state = make_state()
  state["params"]["w"] = state["params"]["w"].at[3, 3].set(value)
  store = checkpoints.Checkpoints(tmp_path, keep=2)
  with pytest.raises(checkpoints.NotFinite, match="params/w"):
    store.save(state, 1, {})
  store.close()
  assert store.latest_step() is None


def test_stages_have_folders_of_their_own(tmp_path):
  for stage, value in (("first", 1.0), ("second", 2.0)):
    store = checkpoints.Checkpoints(tmp_path, keep=2, stage=stage)
    assert store.restore(make_state()) is None
    assert store.directory == tmp_path / "checkpoints" / stage
    store.save(make_state(value), 3, {}, score=value)
    store.close()
  for stage, value in (("first", 1.0), ("second", 2.0)):
    store = checkpoints.Checkpoints(tmp_path, keep=2, stage=stage)
    restored = store.restore(make_state())
    store.close()
    assert float(restored.state["params"]["w"][0, 0]) == value
    assert (restored.step, store.best_step()) == (3, 3)


def test_a_damaged_checkpoint_of_a_stage_is_set_aside_by_stage(tmp_path):
  store = checkpoints.Checkpoints(tmp_path, keep=2, stage="signs")
  store.save(make_state(1.0), 1, {})
  store.save(make_state(2.0), 2, {})
  store.close()
  flip(largest(tmp_path / "checkpoints" / "signs" / "2"))
  store = checkpoints.Checkpoints(tmp_path, keep=2, stage="signs")
  with pytest.warns(checkpoints.DamagedCheckpointWarning, match="signs/2"):
    assert store.restore(make_state()).step == 1
  store.close()
  assert (tmp_path / "rejected_checkpoints" / "signs" / "2").is_dir()
