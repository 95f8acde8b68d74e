"""Writing aside, then renaming."""

import os

import pytest

from jaxocr import files


def test_the_file_appears_whole(tmp_path):
  path = tmp_path / "a.json"
  with files.aside(path) as part:
    part.write_text("new")
    assert not path.exists()
  assert path.read_text() == "new"
  assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_the_content_is_on_disk_before_the_name(tmp_path, monkeypatch):
  path = tmp_path / "a.json"
  synced = []

  def fsync(handle):
    assert not path.exists()
    synced.append(os.fstat(handle).st_size)

  monkeypatch.setattr(os, "fsync", fsync)
  with files.aside(path) as part:
    part.write_text("new")
  assert synced == [3]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / "a.json"
  path.write_text("old")
  with pytest.raises(KeyboardInterrupt), files.aside(path) as part:
    part.write_text("half")
    raise KeyboardInterrupt
  assert path.read_text() == "old"
  assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
