"""The reader, with a network that reads pixels instead of letters.

`_Levels` turns the level at the middle of each frame into a class, so that
images drawn by hand have known readings and places.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from jaxocr.data import preprocess
from jaxocr.data import real
from jaxocr.export import bundle
from jaxocr.models import crnn
import jaxocr.reader as reader_lib
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import ctc

ALPHABET = alphabet_lib.Alphabet("abcd", name="four")
_LEVEL = {"a": 51, "b": 102, "c": 153, "d": 204}


class _Levels(nn.Module):
  """Grey 51 k gives class k with certainty; white and black are blank."""

  @nn.compact
  def __call__(self, image, *, train):
    assert not train
    level = jnp.round(image[:, 16, 1::4, 0] * 5).astype(jnp.int32) % 5
    return 30.0 * jax.nn.one_hot(level, 5)


def _image(text, *, cell=8, gap=4, height=32, paper=255):
  """Bars of one level a character, `gap` apart, and their places."""
  columns, places = [paper] * gap, []
  for char in text:
    places.append((len(columns), len(columns) + cell))
    columns += [_LEVEL[char]] * cell + [paper] * gap
  image = np.full((height, len(columns)), paper, np.uint8)
  image[2:-2] = columns
  return image, places


@pytest.fixture(scope="module")
def reader():
  return reader_lib.Reader(_Levels(), {}, ALPHABET)


def test_reads_text_and_places(reader):
  image, places = _image("abba")
  (reading,) = reader.read([image])
  assert reading.text == "abba"
  assert [(c.x0, c.x1) for c in reading.characters] == places
  assert reading.confidence == pytest.approx(1.0)


def test_places_are_in_pixels_of_the_given_image(reader):
  # Twice as high, so that a frame is eight of its pixels; 148 px wide.
  image, places = _image("cdc", cell=32, gap=16, height=64)
  (reading,) = reader.read([image])
  assert reading.text == "cdc"
  assert [(c.x0, c.x1) for c in reading.characters] == places
  # A bar that runs over the right edge into the padding ends with the image.
  image, _ = _image("d", cell=30, gap=8)
  (reading,) = reader.read([np.ascontiguousarray(image[:, :31])])
  assert reading.characters[0].x1 == 31


@pytest.mark.parametrize("paper", [255, 0])
def test_padding_takes_the_lines_paper(reader, paper):
  # 44 px in a bucket of 64: padding of another level would add characters.
  (reading,) = reader.read([_image("abc", paper=paper)[0]])
  assert reading.text == "abc"


def test_order_is_kept_over_buckets_and_batches(reader):
  rng = np.random.default_rng(0)
  texts = [
    "".join(rng.choice(list("abcd"), rng.integers(1, 40))) for _ in range(30)
  ]
  readings = reader.read([_image(text)[0] for text in texts])
  assert [reading.text for reading in readings] == texts


def test_a_bad_image_gives_an_error_in_its_place(reader, tmp_path):
  good = _image("ab")[0]
  PIL.Image.fromarray(good).save(tmp_path / "good.png")
  (tmp_path / "empty.png").touch()
  wide = np.zeros((1, 9000), np.uint8)
  images = [
    tmp_path / "none.png",
    tmp_path / "good.png",
    tmp_path / "empty.png",
    b"?",
    good,
    wide,
    np.zeros((0, 3), np.uint8),
  ]
  results = reader.read(images)
  for i in (1, 4):
    assert results[i].text == "ab"
  for i in (0, 2, 3, 5, 6):
    assert isinstance(results[i], reader_lib.ReadError)
    assert "\n" not in results[i].message
  assert results[0].message == "no such file"
  assert "too wide" in results[5].message


@pytest.mark.parametrize("shape", [(1, 1), (1, 100), (300, 1), (1, 256)])
def test_one_pixel_images_get_an_answer(reader, shape):
  (reading,) = reader.read([np.full(shape, 255, np.uint8)])
  assert isinstance(reading, ctc.Reading) and reading.text == ""


def test_no_images(reader):
  assert reader.read([]) == []
  with pytest.raises(TypeError, match="wrap it in a list"):
    reader.read("line.png")


def test_shapes_are_few(monkeypatch):
  shapes = []
  reader = reader_lib.Reader(_Levels(), {}, ALPHABET)
  best_path = reader._best_path

  def spy(variables, image):
    shapes.append(image.shape)
    return best_path(variables, image)

  monkeypatch.setattr(reader, "_best_path", spy)
  image = _image("ab")[0]
  for count in (1, 2, 3, 4, 5, 65):
    assert len(reader.read([image] * count)) == count
  rows = [shape[0] for shape in shapes]
  assert rows == [1, 2, 4, 4, 8, 64, 1]
  assert best_path._cache_size() == 5  # One compiled program for each size.


def test_wide_lines_come_in_small_batches():
  assert reader_lib._batch_limit(64) == 64
  assert reader_lib._batch_limit(640) == 32
  assert reader_lib._batch_limit(8192) == 4


def test_evaluation_sees_the_same_pixels(reader, tmp_path, monkeypatch):
  noise = np.random.default_rng(0).integers(0, 256, (45, 130), np.uint8)
  PIL.Image.fromarray(noise).save(tmp_path / "a.png")
  (tmp_path / "l.tsv").write_text("a.png\tab")
  lines = real.read_labels(tmp_path / "l.tsv", ALPHABET)
  ((batch, _),) = real.batches(lines, batch_size=1)
  seen = []
  monkeypatch.setattr(
    reader,
    "_best_path",
    lambda _, image: (
      seen.append(image)
      or (np.zeros((1, 24), np.int32), np.zeros((1, 24), np.float32))
    ),
  )
  reader.read([tmp_path / "a.png"])
  np.testing.assert_array_equal(seen[0], batch.image)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run's folder with an untrained CRNN; also its network and variables."""
  architecture = {
    "num_classes": 5,
    "backbone": "mobilenet",
    "stem_channels": 4,
    "projection": 4,
    "hidden": 4,
  }
  model = crnn.CRNN(**architecture)
  image = jnp.zeros((1, 32, 64, 1))
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    # Positive, as moments of BatchNorm are; compiling an init takes longer.
    lambda s: rng.uniform(0.1, 1.0, s.shape).astype(s.dtype),
    shapes,
  )
  meta = {
    "architecture": architecture,
    "alphabet": {"characters": "abcd", "name": "four"},
    "preprocess": {"height": 32, "frame_px": 4},
    "training": {},
  }
  folder = tmp_path_factory.mktemp("run")
  _save(folder / reader_lib.BUNDLE_NAME, variables, meta)
  return folder, model, variables, meta


def _save(path, variables, meta):
  collections = {k: v for k, v in variables.items() if k != "params"}
  bundle.save_bundle(path, variables["params"], collections, meta)


def test_load_run_or_file_reads_as_the_network(run):
  folder, model, variables, _ = run
  noise = np.random.default_rng(1).integers(0, 256, (32, 64), np.uint8)
  image = noise[None, :, :, None].astype(np.float32) / 255
  logits = jax.jit(model.apply)(variables, image)
  (expected,) = ctc.greedy_decode(logits, ALPHABET)
  (reading,) = reader_lib.Reader.load(folder).read([noise])
  assert reading.text == expected.text
  assert reading.confidence == pytest.approx(expected.confidence, rel=1e-4)
  for path in (str(folder), folder / reader_lib.BUNDLE_NAME):
    assert reader_lib.Reader.load(path).alphabet == ALPHABET


def test_load_says_what_is_missing(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors"):
    reader_lib.Reader.load(tmp_path)
  with pytest.raises(FileNotFoundError, match="no run or model at"):
    reader_lib.Reader.load(tmp_path / "none")
  (tmp_path / "text").write_text("not a bundle")
  with pytest.raises(ValueError, match="not a safetensors file"):
    reader_lib.Reader.load(tmp_path / "text")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"architecture": {"layers": 3}}, "does not describe a CRNN"),
    ({"preprocess": {}}, "does not describe a CRNN"),
    ({"alphabet": {"characters": "abc", "name": "three"}}, "5 classes .* of 3"),
    ({"alphabet": {"characters": "aba", "name": "odd"}}, "repeats 'a'"),
  ],
)
def test_load_refuses_inconsistent_metadata(run, tmp_path, change, message):
  _, _, variables, meta = run
  path = tmp_path / "other.safetensors"
  _save(path, variables, {**meta, **change})
  with pytest.raises(ValueError, match=message):
    reader_lib.Reader.load(path)


def test_height_is_the_networks():
  assert preprocess.HEIGHT_PX == 32
  reader = reader_lib.Reader(_Levels(), {}, ALPHABET, height=64, frame_px=4)
  image, places = _image("ab", cell=16, gap=8, height=64)
  (reading,) = reader.read([image])
  assert reading.text == "ab"
  assert [(c.x0, c.x1) for c in reading.characters] == places
