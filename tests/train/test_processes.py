"""Whole processes: killed, told to stop, and training together."""

import os
import pathlib
import random
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name("tiny.py")
ROOT = SCRIPT.parents[2]


def start(workdir, *flags, devices=1):
  env = os.environ | {
    "PYTHONPATH": str(ROOT),
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": str(devices),
  }
  return subprocess.Popen(
    [sys.executable, SCRIPT, workdir, *flags],
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


def final(workdir):
  with np.load(workdir / "final.npz") as arrays:
    return dict(arrays)


@pytest.fixture(scope="module", name="straight")
def fixture_straight(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("straight")
  code, _, err = finish(start(workdir))
  assert code == 0, err
  return final(workdir)


def stop_at(workdir, step, signum):
  """Starts a run, signals it when it says that `step` begins."""
  process = start(workdir, "--step-s=0.05")
  for line in process.stdout:
    if line.strip() == f"step {step}":
      process.send_signal(signum)
      break
  return finish(process)


def assert_same(workdir, straight):
  found = final(workdir)
  assert found.keys() == straight.keys()
  for name, array in straight.items():
    assert array.tobytes() == found[name].tobytes(), name


@pytest.mark.slow
def test_kill_9_at_a_random_step_changes_nothing(straight, tmp_path):
  # Any step; steps 5 and 9 are right behind the start of a save.
  step = random.choice(range(2, 21))
  code, _, _ = stop_at(tmp_path, step, signal.SIGKILL)
  assert code == -signal.SIGKILL
  code, _, err = finish(start(tmp_path))
  assert code == 0, f"killed at step {step}: {err}"
  assert "damaged" not in err
  assert_same(tmp_path, straight)


@pytest.mark.slow
@pytest.mark.parametrize(
  "signum, name, code",
  [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl-C", 130)],
)
def test_asked_to_stop_it_saves_and_says_so(
  straight, tmp_path, signum, name, code
):
  found, _, err = stop_at(tmp_path, 7, signum)
  assert found == code
  assert f"{name}: stopped after step " in err
  assert "Traceback" not in err
  found, out, err = finish(start(tmp_path))
  assert found == 0, err
  # It went on from the step that it had saved, not an earlier one.
  first = int(out.split()[1])
  assert first >= 8
  assert f"going on from step {first - 1}" in err
  assert_same(tmp_path, straight)


@pytest.mark.slow
def test_two_processes_equal_one(straight, tmp_path):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  pair = [
    start(tmp_path, f"--processes={port},2,{index}") for index in range(2)
  ]
  results = [finish(process) for process in pair]
  assert [code for code, _, _ in results] == [0, 0], results
  assert "step 20/20" in results[0][2]
  assert "step 20/20" not in results[1][2]  # Process 0 speaks for both.
  found = final(tmp_path)
  for name, array in straight.items():
    np.testing.assert_allclose(found[name], array, rtol=0, atol=2e-4)
  # One process can go on with what two have saved.
  code, out, err = finish(start(tmp_path))
  assert code == 0, err
  assert "step" not in out
