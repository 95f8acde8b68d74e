"""How the C++ is built, and what is said where it cannot be."""

import os

import jax
import pytest

from jaxocr import compiled
from jaxocr.native import build


@pytest.fixture(autouse=True)
def fixture_anew(monkeypatch, tmp_path):
  """As in a process that never asked; what it finds is forgotten."""
  monkeypatch.setenv(compiled.FOLDER_VARIABLE, str(tmp_path / "cache"))
  monkeypatch.delenv(build.SWITCH, raising=False)
  build._missing.cache_clear()
  yield
  build._missing.cache_clear()


def test_it_can_be_switched_off(monkeypatch):
  monkeypatch.setenv(build.SWITCH, "0")
  monkeypatch.setattr(build, "_library", lambda _: pytest.fail("built"))
  assert build.missing() == "JAXOCR_NATIVE=0"


def test_a_machine_without_a_compiler(monkeypatch, tmp_path):
  monkeypatch.setenv("PATH", str(tmp_path))
  monkeypatch.delenv("CXX", raising=False)
  assert build.missing() == (
    "no C++ compiler: install g++ or clang++, or set CXX"
  )


def test_a_compiler_that_is_not_there(monkeypatch):
  monkeypatch.setenv("CXX", "gplusplus -m64")
  assert build.missing() == "CXX=gplusplus: there is no such program"


def test_on_windows_it_is_not_tried(monkeypatch):
  monkeypatch.setattr(build.os, "name", "nt")
  assert "Windows" in build.missing()


def test_a_compiler_that_fails(monkeypatch, tmp_path):
  broken = tmp_path / "broken"
  broken.write_text(
    '#!/bin/sh\n[ "$1" = --version ] && exit\n'
    'echo "x.cc:1: note: so" >&2; echo "x.cc:2: error: no" >&2; exit 1\n'
  )
  broken.chmod(0o755)
  monkeypatch.setenv("CXX", str(broken))
  assert build.missing() == f"{broken} failed: x.cc:2: error: no"
  build._missing.cache_clear()
  monkeypatch.setenv("CXX", f"{broken} -m64")
  assert build.missing() == f"{broken} failed: x.cc:2: error: no"
  assert os.listdir(tmp_path / "cache") == []


@pytest.fixture(name="counted")
def fixture_counted(monkeypatch):
  """Calls of a compiler that makes empty files, which are not loaded."""
  calls = []

  def run(command):
    calls.append(command)
    if "-o" in command:
      with open(command[-1], "wb"):
        pass
    return "a compiler 1.0"

  monkeypatch.setattr(build, "_run", run)
  monkeypatch.setattr(build, "_compiler", lambda: ["c++"])
  return calls


def _built(calls) -> int:
  return sum("-shared" in command for command in calls)


def test_it_is_built_once_for_a_machine(counted, monkeypatch):
  folder = compiled.folder()
  first = build._library(folder)
  assert first == build._library(folder)
  assert _built(counted) == 1
  assert os.listdir(folder) == [first.name]
  monkeypatch.setattr(build, "_processor", lambda: "another")
  assert build._library(folder) != first
  assert _built(counted) == 2


def test_without_a_folder_it_is_built_for_this_process(counted, monkeypatch):
  monkeypatch.setenv(compiled.FOLDER_VARIABLE, "")
  loaded = []
  monkeypatch.setattr(build, "load", loaded.append)
  assert build.missing() == ""
  assert len(loaded) == 1
  assert not loaded[0].parent.exists()


def test_a_damaged_library_is_built_once_more(counted):
  assert "too short" in build.missing()  # So it is after both.
  assert _built(counted) == 2


def test_the_package_has_the_sources():
  names = {path.name for path in build._sources()}
  assert {"conv.cc", "lstm.cc", "tiles.h"} <= names
  assert all(path.is_file() for path in build._sources())


def test_headers_are_jaxs():
  assert list(build.pathlib.Path(jax.ffi.include_dir()).rglob("ffi.h"))
