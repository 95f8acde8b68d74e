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


def saved_steps(workdir, stage=""):
  folder = workdir / "checkpoints" / stage
  return sorted(int(p.name) for p in folder.iterdir())


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
  for done in range(4):
    state, metrics = train_step(state, done)
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


FIRST, SECOND = 6, 7  # Steps of two stages; no evaluation falls within one.


def train_stages(workdir, mesh, on_step=lambda stage, step: None):
  earlier, states = 0, []
  for stage, steps in (("first", FIRST), ("second", SECOND)):
    states.append(
      tiny.fit(
        workdir,
        mesh,
        steps=steps,
        stage=stage,
        earlier_steps=earlier,
        on_step=lambda step, stage=stage: on_step(stage, step),
      )
    )
    earlier += steps
  return jax.device_get(states)


@pytest.fixture(scope="module", name="staged")
def fixture_staged(mesh, tmp_path_factory):
  """Workdir and last states of two stages that nothing disturbed."""
  workdir = tmp_path_factory.mktemp("staged")
  return workdir, train_stages(workdir, mesh)


def test_stages_count_on_and_keep_apart(staged):
  workdir, states = staged
  # Each counts its own updates.
  assert [int(state.step) for state in states] == [FIRST, SECOND]
  steps = [s for s, name, _ in history(workdir) if name == "train/loss"]
  # Of the first: 3, 4, 6; of the second the same, six later, and its last.
  assert steps == [3, 4, 6, 6 + 3, 6 + 4, 6 + 6, 6 + 7]
  evaluated = [s for s, n, _ in history(workdir) if n == "eval/line_accuracy"]
  assert evaluated == [6, 13]
  rates = {
    s: v for s, name, v in history(workdir) if name == "train/learning_rate"
  }
  # The schedule begins anew.
  assert rates[3] == pytest.approx(float(tiny.schedule(FIRST)(2)))
  assert rates[9] == pytest.approx(float(tiny.schedule(SECOND)(2)))
  for stage, last in (("first", FIRST), ("second", SECOND)):
    assert saved_steps(workdir, stage)[-1] == last


def test_finished_stages_are_neither_repeated_nor_forgotten(mesh, staged):
  workdir, expected = staged
  before = history(workdir)

  def fail(stage, step):
    raise AssertionError(f"step {step} of {stage} was repeated")

  chex.assert_trees_all_equal(train_stages(workdir, mesh, fail), expected)
  # Also not by the first stage, whose last step lies far behind.
  assert history(workdir) == before


def test_a_stop_in_a_later_stage_goes_on_bit_for_bit(mesh, staged, tmp_path):
  def kill(stage, step):
    if (stage, step) == ("second", 5):
      os.kill(os.getpid(), signal.SIGTERM)

  with pytest.raises(interrupt.Interrupted, match="step 5, saved") as stop:
    train_stages(tmp_path, mesh, kill)
  assert str(tmp_path / "checkpoints" / "second") in str(stop.value)
  seen = []
  states = train_stages(tmp_path, mesh, lambda *at: seen.append(at))
  assert seen == [("second", 6), ("second", 7)]
  workdir, expected = staged
  chex.assert_trees_all_equal(states, expected)
  # The log point of the stop, 6 + 5, is there besides.
  found = [entry for entry in history(tmp_path) if entry[0] != 11]
  losses = [e for e in found if e[0] <= 10 or e[1].startswith("eval/")]
  assert losses == [
    e for e in history(workdir) if e[0] <= 10 or e[1].startswith("eval/")
  ]
  steps = [h[:2] for h in history(tmp_path)]
  assert len(steps) == len(set(steps))
