"""The launcher as a person meets it, in processes of its own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from experiments import bnn_crnn
from jaxocr.train import workdirs

ROOT = pathlib.Path(__file__).parents[1]


def launch(*flags, cwd=ROOT):
  done = subprocess.run(
    [sys.executable, str(ROOT / "launch.py"), *flags],
    cwd=cwd,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert "Traceback" not in done.stderr
  return done.returncode, done.stdout, done.stderr


def test_it_is_short():
  assert len((ROOT / "launch.py").read_text().splitlines()) < 80


def test_list_names_and_describes():
  code, out, _ = launch("--list")
  assert code == 0
  header = bnn_crnn.__doc__.split("\n")[0]
  assert f"  {'bnn_crnn':20} {header}\n" in out


@pytest.mark.parametrize(
  "flags, text",
  [
    ([], "no experiment None"),
    (["--experiment=bnn_crn"], "no experiment 'bnn_crn'"),
  ],
)
def test_without_a_known_experiment_it_lists_them(flags, text):
  code, _, err = launch(*flags)
  assert code == 1
  assert text in err and "  bnn_crnn " in err


def test_help_has_every_field_with_default_and_comment():
  _, out, _ = launch("--experiment=bnn_crnn", "--help")
  out = " ".join(out.split())
  assert "--cfg.batch_size: Lines of an update" in out
  assert f"(default: '{bnn_crnn.Config.batch_size}') (an integer)" in out
  blur = bnn_crnn.Config().strengths.blur
  assert (
    f"--cfg.strengths.blur: Standard deviation, px. (default: '{blur}')" in out
  )


def test_a_typo_fails_with_the_nearest_name(tmp_path):
  code, _, err = launch("--experiment=bnn_crnn", "--cfg.lerning_rate=1")
  assert code == 1
  assert "cfg.lerning_rate" in err and "mean: cfg.learning_rate" in err


@pytest.mark.parametrize(
  "flag, text",
  [
    ("cfg.steps=5", "'cfg.steps=5' is no flag"),
    ("--cfg.width=30", "width=30; it must be a positive multiple of 4"),
    ("--cfg.strengths.fade=3", "strengths.fade=3.0"),
    ("--coordinator=127.0.0.1:1", "give all three, or none"),
  ],
)
def test_bad_values_are_one_line(tmp_path, flag, text):
  code, _, err = launch("--experiment=bnn_crnn", flag, f"--workdir={tmp_path}")
  assert code == 1
  assert text in err
  assert not list(tmp_path.iterdir())


def test_a_workdir_that_cannot_be_is_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  workdir = tmp_path / "file" / "run"
  code, _, err = launch("--experiment=bnn_crnn", f"--workdir={workdir}")
  assert code == 1
  assert f"workdir={workdir} cannot be made" in err


def test_a_finished_workdir_shows_its_report(tmp_path):
  config = bnn_crnn.Config(seed=7)
  workdirs.claim(tmp_path, "bnn_crnn", config, False)
  report = {"finished": True, "line_accuracy": 0.9875}
  (tmp_path / "report.json").write_text(json.dumps(report))
  flags = ["--experiment=bnn_crnn", f"--workdir={tmp_path}"]
  code, out, _ = launch(*flags, "--cfg.seed=7")
  assert code == 0
  assert "finished" in out and "0.9875" in out and "--restart" in out
  code, _, err = launch(*flags, "--cfg.seed=8")
  assert code == 1
  assert "seed: stored 7, given 8" in err
