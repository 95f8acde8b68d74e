import json
import os
import signal

import chex
import jax
import pytest

from jaxocr.train import checkpoints
from jaxocr.train import interrupt
from jaxocr.train import sharding
from jaxocr.train import writers
from tests.train import tiny


@pytest.fixture(scope="module", name="mesh")
def fixture_mesh():
  return sharding.make_mesh(jax.devices()[:2])


@pytest.fixture(scope="module", name="straight")
def fixture_straight(mesh, tmp_path_factory):
  """Workdir and last state of a run that nothing disturbed."""
  workdir = tmp_path_factory.mktemp("straight")
  return workdir, jax.device_get(tiny.fit(workdir, mesh))


def history(workdir):
  return [
    (entry["step"], name, value)
    for entry in writers.read_history(workdir)
    for name, value in entry.items()
    if name not in ("step", "train/lines_per_s")
  ]


def saved_steps(workdir):
  return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())


def test_what_is_written_when(straight):
  workdir, state = straight
  assert int(state.step) == 20
  steps = {}
  for step, name, _ in history(workdir):
    steps.setdefault(name, []).append(step)
  # Every 3 steps, and before whatever saves: every 4, every 10, the last.
  logged = [3, 4, 6, 8, 9, 10, 12, 15, 16, 18, 20]
  assert steps["train/loss"] == logged
  assert steps["train/learning_rate"] == logged
  assert steps["eval/line_accuracy"] == [10, 20]
  # The last two, and the best of the two evaluations.
  assert saved_steps(workdir)[-2:] == [16, 20]
  assert len(saved_steps(workdir)) <= 3


def test_the_loss_falls(straight):
  workdir, _ = straight
  losses = [v for _, name, v in history(workdir) if name == "train/loss"]
  assert losses[-1] < 0.7 * losses[0]


def test_metrics_are_means_over_the_steps_since_the_last_entry(mesh, straight):
  state, train_step, _ = tiny.make_run(mesh)
  losses = []
  for _ in range(4):
    state, metrics = train_step(state)
    total, count = jax.device_get(metrics["loss"])
    losses.append(total / count)
  logged = [v for _, name, v in history(straight[0]) if name == "train/loss"]
  # Entries at steps 3 and 4.
  assert logged[:2] == pytest.approx([sum(losses[:3]) / 3, losses[3]])


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on_bit_for_bit(
  mesh, straight, tmp_path, signum
):
  def kill(step):
    if step == 7:
      os.kill(os.getpid(), signum)

  with pytest.raises(interrupt.Interrupted, match="step 7, saved") as stop:
    tiny.fit(tmp_path, mesh, on_step=kill)
  assert stop.value.exit_code == 128 + signum
  assert saved_steps(tmp_path) == [4, 7]
  state = tiny.fit(tmp_path, mesh)
  workdir, expected = straight
  chex.assert_trees_all_equal(jax.device_get(state), expected)
  # The log point of the stop is there besides; no step is there twice.
  assert {h[:2] for h in history(tmp_path)} >= {
    h[:2] for h in history(workdir) if h[0] % 3 == 0
  }
  seen = [h[:2] for h in history(tmp_path)]
  assert len(seen) == len(set(seen))


def test_a_signal_at_the_last_step_stops_before_the_report(
  mesh, straight, tmp_path
):
  def kill(step):
    if step == 20:
      os.kill(os.getpid(), signal.SIGTERM)

  with pytest.raises(interrupt.Interrupted, match="step 20, saved"):
    tiny.fit(tmp_path, mesh, on_step=kill)
  state = tiny.fit(tmp_path, mesh)
  chex.assert_trees_all_equal(jax.device_get(state), straight[1])


def test_a_signal_during_the_last_save_is_obeyed(mesh, tmp_path, monkeypatch):
  wait = checkpoints.Checkpoints.wait

  def kill(store):
    wait(store)
    if store.latest_step() == 4:
      os.kill(os.getpid(), signal.SIGINT)

  monkeypatch.setattr(checkpoints.Checkpoints, "wait", kill)
  with pytest.raises(interrupt.Interrupted, match="step 4, saved"):
    tiny.fit(tmp_path, mesh, steps=4)


def test_a_finished_run_only_gives_its_state(mesh, straight):
  workdir, expected = straight
  before = history(workdir)

  def fail(step):
    raise AssertionError(f"step {step} was repeated")

  state = tiny.fit(workdir, mesh, on_step=fail)
  chex.assert_trees_all_equal(jax.device_get(state), expected)
  assert history(workdir) == before


def test_a_step_that_is_not_finite_stops_the_run(mesh, tmp_path):
  with pytest.raises(
    interrupt.Diverged, match=r"step 11 is not finite; .* step 10 is kept"
  ):
    tiny.fit(tmp_path, mesh, spoil=11)
  assert saved_steps(tmp_path)[-1] == 10
  assert interrupt.Diverged.exit_code == 1


def test_handlers_are_put_back(mesh, straight):
  before = signal.getsignal(signal.SIGTERM)
  tiny.fit(straight[0], mesh)
  assert signal.getsignal(signal.SIGTERM) == before


def test_time_is_summed_over_sessions(mesh, tmp_path):
  def kill(step):
    if step == 5:
      os.kill(os.getpid(), signal.SIGTERM)

  with pytest.raises(interrupt.Interrupted):
    tiny.fit(tmp_path, mesh, steps=8, on_step=kill)
  meta = tmp_path / "checkpoints" / "5" / "meta" / "metadata"
  first = json.loads(meta.read_text())
  tiny.fit(tmp_path, mesh, steps=8)
  meta = tmp_path / "checkpoints" / "8" / "meta" / "metadata"
  last = json.loads(meta.read_text())
  assert last["seconds"] > first["seconds"] > first["train_seconds"] > 0
  # Neither session counts its first step, which compiles.
  assert first["lines"] == 4 * tiny.BATCH_SIZE
  assert last["lines"] == 6 * tiny.BATCH_SIZE


def test_no_checkpoint_of_a_state_that_overflowed(mesh, tmp_path, monkeypatch):
  def refuse(*args, **kwargs):
    raise checkpoints.NotFinite("params/w")

  monkeypatch.setattr(checkpoints.Checkpoints, "save", refuse)
  with pytest.raises(interrupt.Diverged, match=r"params/w at step 4 .* no"):
    tiny.fit(tmp_path, mesh)
