import builtins
import json
import logging

import numpy as np
import pytest

from jaxocr.train import writers


def _write(workdir, steps, **kwargs):
  writer = writers.MetricWriter(workdir, **kwargs)
  for step in steps:
    writer.scalars(step, {"loss": 1.0 / (step + 1)})
  writer.close()


def _steps(workdir):
  return [entry["step"] for entry in writers.read_history(workdir)]


def test_a_line_is_on_disk_when_scalars_returns(tmp_path):
  writer = writers.MetricWriter(tmp_path / "new" / "run")
  writer.scalars(3, {"loss": np.float32(0.5), "lr": 1e-3})
  writer.scalars(3, {"eval/line_accuracy": 0.25})

  lines = (tmp_path / "new/run/metrics.jsonl").read_text().split("\n")
  assert lines[0] == '{"step": 3, "loss": 0.5, "lr": 0.001}'
  assert json.loads(lines[1]) == {"step": 3, "eval/line_accuracy": 0.25}
  assert lines[2:] == [""]
  writer.close()
  writer.close()


def test_not_finite_becomes_null(tmp_path):
  writer = writers.MetricWriter(tmp_path)
  writer.scalars(1, {"loss": float("nan"), "norm": float("inf"), "lr": 0.0})
  writer.close()
  text = (tmp_path / "metrics.jsonl").read_text()
  assert text == '{"step": 1, "loss": null, "norm": null, "lr": 0.0}\n'


def test_resume_drops_what_will_be_repeated(tmp_path):
  _write(tmp_path, range(0, 6))
  _write(tmp_path, [4, 5, 6], start_step=3)
  assert _steps(tmp_path) == [0, 1, 2, 3, 4, 5, 6]
  assert not list(tmp_path.glob("*.part"))


def test_a_new_run_clears_an_older_one(tmp_path):
  _write(tmp_path, range(0, 6))
  _write(tmp_path, [0, 1])
  assert _steps(tmp_path) == [0, 1]


def test_resume_after_a_kill_in_mid_line(tmp_path):
  _write(tmp_path, [1, 2])
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 3, "lo')
  assert _steps(tmp_path) == [1, 2]
  _write(tmp_path, [3], start_step=2)
  assert _steps(tmp_path) == [1, 2, 3]


def test_history_of_a_run_without_metrics_is_empty(tmp_path):
  assert writers.read_history(tmp_path) == []


def test_tensorboard_holds_scalars_and_images(tmp_path):
  pytest.importorskip("tensorboardX")
  writer = writers.MetricWriter(tmp_path)
  writer.scalars(7, {"loss": 0.5})
  writer.images(7, "samples", np.full((2, 4, 6, 1), 0.5, np.float32))
  writer.close()
  events = _read_events(tmp_path)
  values = {v.tag: v for event in events for v in event.summary.value}
  assert values["loss"].simple_value == 0.5
  assert (values["samples"].image.height, values["samples"].image.width) == (
    8,
    6,
  )
  assert {event.step for event in events if event.summary.value} == {7}


def test_images_of_another_shape_are_refused(tmp_path):
  writer = writers.MetricWriter(tmp_path)
  for shape in ((4, 6, 1), (2, 4, 6, 3)):
    with pytest.raises(ValueError, match=r"\[N, H, W, 1\]"):
      writer.images(0, "samples", np.zeros(shape))
  writer.close()


def test_without_tensorboardx_the_run_goes_on(tmp_path, monkeypatch, caplog):
  real_import = builtins.__import__

  def no_tensorboardx(name, *args, **kwargs):
    if name == "tensorboardX":
      raise ImportError(name)
    return real_import(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", no_tensorboardx)
  with caplog.at_level(logging.WARNING):
    writer = writers.MetricWriter(tmp_path)
    writer.scalars(1, {"loss": 0.5})
    writer.images(1, "samples", np.zeros((1, 4, 6, 1)))
    writer.close()
  assert caplog.text.count("tensorboardX is not installed") == 1
  assert _steps(tmp_path) == [1]
  assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def _read_events(workdir):
  """Events of a TFRecord file: length u64, crc u32, payload, crc u32."""
  from tensorboardX.proto import event_pb2

  events = []
  for path in workdir.glob("events.*"):
    data, at = path.read_bytes(), 0
    while at < len(data):
      size = int.from_bytes(data[at : at + 8], "little")
      events.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + size]))
      at += 16 + size
  return events
