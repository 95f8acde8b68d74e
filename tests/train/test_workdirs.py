import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from jaxocr.train import workdirs


@dataclasses.dataclass(frozen=True)
class Config:
  seed: int = 0
  rate: float = 0.1


def claim(workdir, config=None, *, name="exp", restart=False):
  return workdirs.claim(workdir, name, config or Config(), restart)


def test_a_new_workdir_states_its_config(tmp_path):
  workdir = tmp_path / "a" / "b"
  assert claim(workdir) is None
  stored = json.loads((workdir / "config.json").read_text())
  assert stored == {"experiment": "exp", "seed": 0, "rate": 0.1}


def test_the_same_config_may_go_on(tmp_path):
  claim(tmp_path)
  assert claim(tmp_path) is None


def test_another_config_is_refused_by_field(tmp_path):
  claim(tmp_path)
  with pytest.raises(workdirs.WorkdirError) as error:
    claim(tmp_path, Config(rate=0.2))
  assert "rate: stored 0.1, given 0.2" in str(error.value)
  assert "seed" not in str(error.value)
  assert "--restart" in str(error.value)


def test_another_experiment_is_refused(tmp_path):
  claim(tmp_path)
  with pytest.raises(
    workdirs.WorkdirError, match="stored 'exp', given 'other'"
  ):
    claim(tmp_path, name="other")


def test_a_finished_run_gives_its_report(tmp_path):
  claim(tmp_path)
  report = {"finished": True, "line_accuracy": 0.93125, "config": {"seed": 0}}
  report["real"] = {"n": 7}
  (tmp_path / "report.json").write_text(json.dumps(report))
  assert claim(tmp_path) == report
  text = workdirs.finished_message(tmp_path, report)
  assert "0.9313" in text and "real.n" in text and "--restart" in text
  assert "config" not in text.split("\n", 1)[1]


def test_an_unfinished_report_is_none(tmp_path):
  claim(tmp_path)
  (tmp_path / "report.json").write_text('{"finished": false}')
  assert claim(tmp_path) is None


def test_restart_deletes_the_run_and_nothing_else(tmp_path):
  claim(tmp_path)
  (tmp_path / "checkpoints" / "3").mkdir(parents=True)
  (tmp_path / "metrics.jsonl").write_text("")
  (tmp_path / "notes.txt").write_text("mine")
  (tmp_path / "photos").mkdir()
  assert claim(tmp_path, Config(seed=5), restart=True) is None
  left = sorted(path.name for path in tmp_path.iterdir())
  assert left == ["config.json", "notes.txt", "photos"]


def test_a_restart_that_was_killed_leaves_no_weights_to_another_config(
  tmp_path, monkeypatch
):
  claim(tmp_path)
  (tmp_path / "report.json").write_text("{}")
  (tmp_path / "checkpoints").mkdir()

  def kill(path):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(shutil, "rmtree", kill)
    claim(tmp_path, Config(seed=5), restart=True)
  left = sorted(path.name for path in tmp_path.iterdir())
  assert left == ["checkpoints", "config.json"]
  with pytest.raises(workdirs.WorkdirError, match="another config"):
    claim(tmp_path, Config(seed=5))
  assert claim(tmp_path, Config(seed=5), restart=True) is None
  assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("name", ["checkpoints", "events.out.tfevents.1"])
def test_parts_of_a_run_without_its_config_are_refused(tmp_path, name):
  (tmp_path / name).mkdir()
  with pytest.raises(workdirs.WorkdirError, match=f"holds {name} but no conf"):
    claim(tmp_path)


def test_what_no_run_reads_is_in_nobodys_way(tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  (tmp_path / "config.json.part").write_text("{")
  assert claim(tmp_path, restart=True) is None


def test_one_launch_at_a_time(tmp_path):
  workdir = tmp_path / "new"
  script = (
    "import sys; from jaxocr.train import workdirs; "
    "workdirs.hold(sys.argv[1]); print(1, flush=True); sys.stdin.read()"
  )
  with subprocess.Popen(
    [sys.executable, "-c", script, workdir],
    cwd=pathlib.Path(__file__).parents[2],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  ) as other:
    assert other.stdout.readline() == b"1\n"
    with pytest.raises(workdirs.WorkdirError, match="/new is in use by"):
      workdirs.hold(workdir)
    other.communicate()
  workdirs.hold(workdir)  # Free again.
  assert not list(workdir.iterdir())


def test_restart_spares_what_is_no_run(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(workdirs.WorkdirError, match="deletes nothing"):
    claim(tmp_path, restart=True)
  (tmp_path / "config.json").write_text('{"other": "tool"}')
  with pytest.raises(workdirs.WorkdirError, match="deletes nothing"):
    claim(tmp_path, restart=True)
  assert (tmp_path / "checkpoints").is_dir()


def test_restart_of_nothing_is_a_start(tmp_path):
  assert claim(tmp_path / "new", restart=True) is None
  assert claim(tmp_path / "new", restart=True) is None


def test_a_file_is_no_workdir(tmp_path):
  path = tmp_path / "file"
  path.write_text("")
  with pytest.raises(workdirs.WorkdirError, match="is a file"):
    claim(path)


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_a_config_that_cannot_be_read(tmp_path, text):
  data = text.encode("utf-8", "surrogateescape")
  (tmp_path / "config.json").write_bytes(data)
  with pytest.raises(workdirs.WorkdirError, match=r"config\.json is not"):
    claim(tmp_path)
