"""The recognisers that are shipped, and how they are found."""

import pathlib
import tomllib

import jax
import numpy as np
import pytest

import jaxocr
from jaxocr import reader
from jaxocr import zoo
from jaxocr.data import atlas
from jaxocr.data import corpus
from jaxocr.data import preprocess
from jaxocr.data import render
from jaxocr.data import source

_ROOT = pathlib.Path(jaxocr.__file__).parents[1]


def test_names_are_those_of_the_files(tmp_path, monkeypatch):
  monkeypatch.setattr(zoo, "_FOLDER", tmp_path)
  assert zoo.names() == []
  with pytest.raises(FileNotFoundError, match="'a'; there are none"):
    zoo.path("a")
  for name in "gbfadce":
    (tmp_path / f"{name}.safetensors").touch()
  (tmp_path / "h.txt").touch()
  assert zoo.names() == list("abcdefg")
  assert zoo.path("a") == tmp_path / "a.safetensors"
  with pytest.raises(FileNotFoundError, match="'h'; there are a, b, c"):
    zoo.path("h")
  # A name is no path.
  with pytest.raises(FileNotFoundError, match="no shipped model"):
    zoo.path(f"../{tmp_path.name}/a")


def test_files_are_installed_with_the_package():
  project = tomllib.loads((_ROOT / "pyproject.toml").read_text())
  data = project["tool"]["setuptools"]["package-data"]
  for file in (zoo.path(name) for name in zoo.names()):
    assert any(file.match(pattern) for pattern in data["jaxocr.zoo"])
  assert data["jaxocr.zoo"]


@pytest.mark.skipif(not zoo.names(), reason="no recogniser is shipped yet")
def test_all_read_rendered_lines():
  for name in zoo.names():
    found = reader.load_model(zoo.path(name))
    assets, sample = source.make_synthetic_source(
      atlas.build_atlas(atlas.default_fonts()[:1], found.alphabet),
      corpus.make_corpus(found.alphabet, max_length=6),
      height=preprocess.HEIGHT_PX,
      width=96,
      max_length=6,
      strengths=render.RenderStrengths(),
    )
    batch = jax.jit(sample)(assets, jax.random.split(jax.random.key(0), 8))
    lines = np.round(255 * np.asarray(batch.image[..., 0])).astype(np.uint8)
    readings = reader.Reader.load(name).read(list(lines))
    labels = [found.alphabet.decode(ids) for ids in batch.label]
    right = [r.text == y for r, y in zip(readings, labels, strict=True)]
    assert sum(right) >= 4, (name, readings, labels)
