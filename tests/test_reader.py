"""The reader, with a network that reads pixels instead of letters.

`_Levels` turns the level at the middle of each frame into a class, so that
images drawn by hand have known readings and places.
"""

from concurrent import futures
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy

import jaxocr
from jaxocr import zoo
from jaxocr.compress import rules as rules_lib
from jaxocr.data import preprocess
from jaxocr.data import real
from jaxocr.export import bundle
from jaxocr.export import engines
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
  return reader_lib.Reader(engines.make_logits(_Levels(), {}), ALPHABET)


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


def test_a_width_is_compiled_once():
  logits = engines.make_logits(_Levels(), {})
  reader = reader_lib.Reader(logits, ALPHABET, batch_columns=256)
  image = _image("ab")[0]
  for count in (1, 2, 3, 4, 5, 9):
    assert len(reader.read([image] * count)) == count
  assert set(logits.programs) == {(4, 32, 64, 1)}
  # However wide, one line is a batch.
  wide = _image("ab" * 60)[0]
  assert reader.read([wide])[0].text == "ab" * 60
  assert set(logits.programs) == {(4, 32, 64, 1), (1, 32, 1536, 1)}


def test_threads_share_a_reader():
  logits = engines.make_logits(_Levels(), {})
  reader = reader_lib.Reader(logits, ALPHABET)
  compiled, lower = [], jax.stages.Lowered.compile
  texts = [text * n for n in (1, 3, 9) for text in ("ab", "cd", "da")] * 4

  def read(text):
    return reader.read([_image(text)[0]])[0].text

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      jax.stages.Lowered,
      "compile",
      lambda self: compiled.append(1) or lower(self),
    )
    with futures.ThreadPoolExecutor(8) as pool:
      assert list(pool.map(read, texts)) == texts
  assert len(compiled) == len(logits.programs) == 3


def test_evaluation_sees_the_same_pixels(tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, (45, 130), np.uint8)
  PIL.Image.fromarray(noise).save(tmp_path / "a.png")
  (tmp_path / "l.tsv").write_text("a.png\tab")
  lines = real.read_labels(tmp_path / "l.tsv", ALPHABET)
  ((batch, _),) = real.batches(lines, batch_size=1)
  seen = []

  def logits(image):
    seen.append(image)
    return np.zeros((len(image), image.shape[2] // 4, 5), np.float32)

  reader_lib.Reader(logits, ALPHABET, batch_columns=1).read(
    [tmp_path / "a.png"]
  )
  np.testing.assert_array_equal(seen[0], batch.image)


@pytest.mark.parametrize("length", [25, 30, 36, 64, 100, 200])
def test_long_lines_lose_nothing(reader, length):
  """25 to 36 are the lengths of long scene text (LTB), 100 a line of a book."""
  rng = np.random.default_rng(length)
  text = "".join(rng.choice(list("abcd"), length))
  (reading,) = reader.read([_image(text, cell=8, gap=4)[0]])
  assert reading.text == text
  assert len(reading.chars) == length
  text = "a" * length  # Each needs a blank between it and the next.
  assert reader.read([_image(text, cell=4, gap=4)[0]])[0].text == text


def test_pages_are_refused_with_advice(reader):
  page = np.full((900, 700), 255, np.uint8)
  line, _ = _image("abc", height=320)
  (result, reading) = reader.read([page, line])
  assert isinstance(result, reader_lib.ReadError)
  assert "700x900 pixels look like a page" in result.message
  assert "--lines" in result.message
  assert isinstance(reading, ctc.Reading)


def test_lines_of_a_page_come_from_top_to_bottom(reader):
  page = np.full((900, 700), 255, np.uint8)
  texts = ["abba", "bba", "a"]  # Dark ones: ink is told by its level.
  for i, text in enumerate(texts):
    image, places = _image(text, cell=20, gap=16, height=36)
    page[100 + 200 * i :, 50:][: image.shape[0], : image.shape[1]] = image
  lines = reader.read_page(page)
  assert [line.box.top for line in lines] == [97, 297, 497]
  assert [line.reading.text for line in lines] == texts
  # `places` are those of the last line; a frame is four pixels of it.
  (char,) = lines[2].reading.characters
  assert abs(char.x0 - 50 - places[0][0]) <= 6


def test_one_image_may_come_alone(reader, tmp_path):
  image, _ = _image("ab")
  PIL.Image.fromarray(image).save(tmp_path / "a.png")
  data = (tmp_path / "a.png").read_bytes()
  with PIL.Image.open(tmp_path / "a.png") as opened:
    for one in (
      image,
      str(tmp_path / "a.png"),
      tmp_path / "a.png",
      data,
      opened,
    ):
      (reading,) = reader(one)
      assert reading.text == "ab" and reading.score == reading.confidence
  assert [r.text for r in reader([image, data])] == ["ab", "ab"]
  assert reading.chars[1] == ("b", pytest.approx(1.0), 16, 24)


def test_another_engine_reads_as_well(reader):
  engine = types.SimpleNamespace(
    logits=reader._logits, alphabet=ALPHABET, height=32, frame_px=4
  )
  other = reader_lib.Reader.of_engine(engine, allowed="ab")
  image, places = _image("abca")
  (reading,) = other.read([image])
  assert reading.text == "aba"
  assert [(c.x0, c.x1) for c in reading.characters] == places[:2] + places[3:]


def test_package_level_load(run):
  assert jaxocr.load(run, beam=4).decoding.beam == 4


# Compiled whole: a program for each small operation takes far longer.
_pack = jax.jit(rules_lib.pack, static_argnames="rules")
_fake = jax.jit(rules_lib.fake, static_argnames="rules")


def _make(backbone, *, folded):
  """An untrained CRNN of five classes, and variables."""
  architecture = {
    "num_classes": 5,
    "backbone": backbone,
    "binary_activations": backbone == "binary",
    "stem_channels": 4,
    "projection": 4,
    "hidden": 4,
    "folded": folded,
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
  return architecture, model, variables


def _save(path, architecture, variables, rules, change=None):
  """A bundle; `change` of its metadata."""
  meta = {
    "architecture": architecture,
    "alphabet": {"characters": "abcd", "name": "four"},
    "preprocess": {"height": 32, "frame_px": 4},
    "training": {},
  }
  bundle.save_bundle(
    path,
    jax.device_get(_pack(variables["params"], rules)),
    {k: v for k, v in variables.items() if k != "params"},
    {**meta, **(change or {})},
  )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run's folder with a packed binary CRNN."""
  architecture, _, variables = _make("binary", folded=True)
  folder = tmp_path_factory.mktemp("run")
  path = folder / reader_lib.BUNDLE_NAME
  _save(path, architecture, variables, rules_lib.BINARY_SHIPPED)
  return folder


@pytest.mark.parametrize(
  ("backbone", "folded", "rules"),
  [
    ("mobilenet", False, rules_lib.ALL_FLOAT),
    ("binary", True, rules_lib.BINARY_SHIPPED),
  ],
)
def test_reads_as_the_network(tmp_path, backbone, folded, rules):
  architecture, model, variables = _make(backbone, folded=folded)
  _save(tmp_path / "model.safetensors", architecture, variables, rules)
  shipped = {**variables, "params": _fake(variables["params"], rules)}
  noise = np.random.default_rng(1).integers(0, 256, (32, 64), np.uint8)
  image = noise[None, :, :, None].astype(np.float32) / 255
  logits = jax.jit(model.apply)(shipped, image)
  (expected,) = ctc.greedy_decode(logits, ALPHABET)
  (reading,) = reader_lib.Reader.load(tmp_path).read([noise])
  assert reading.text == expected.text
  assert reading.confidence == pytest.approx(expected.confidence, rel=1e-4)


def test_load_takes_a_folder_a_file_or_a_name(run, monkeypatch):
  file = run / reader_lib.BUNDLE_NAME
  monkeypatch.setattr(zoo, "_FOLDER", run)
  for model in (run, str(run), file, str(file), file.stem):
    assert reader_lib.Reader.load(model).alphabet == ALPHABET


def test_a_path_wins_over_a_name(run, tmp_path, monkeypatch):
  monkeypatch.setattr(zoo, "_FOLDER", run)
  monkeypatch.chdir(tmp_path)
  assert reader_lib.find_model("model") == run / reader_lib.BUNDLE_NAME
  (tmp_path / "model").touch()
  assert reader_lib.find_model("model").resolve() == tmp_path / "model"


def test_load_without_a_model_takes_the_shipped_one(run, tmp_path, monkeypatch):
  monkeypatch.setattr(zoo, "_FOLDER", tmp_path)
  with pytest.raises(FileNotFoundError, match=f"no shipped .*{zoo.DEFAULT}"):
    reader_lib.Reader.load()
  shipped = tmp_path / f"{zoo.DEFAULT}.safetensors"
  shipped.write_bytes((run / reader_lib.BUNDLE_NAME).read_bytes())
  assert reader_lib.Reader.load().alphabet == ALPHABET


def test_load_says_what_is_missing(tmp_path, monkeypatch):
  with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors"):
    reader_lib.Reader.load(tmp_path)
  monkeypatch.setattr(zoo, "_FOLDER", tmp_path)
  with pytest.raises(FileNotFoundError, match=r"no run or .*there is none"):
    reader_lib.Reader.load(tmp_path / "none")
  (tmp_path / "one.safetensors").write_text("not a bundle")
  with pytest.raises(FileNotFoundError, match=r"shipped .* \(one\)"):
    reader_lib.Reader.load("none")
  with pytest.raises(ValueError, match="not a whole safetensors file"):
    reader_lib.Reader.load("one")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"architecture": {"layers": 3}}, "does not describe a CRNN"),
    ({"architecture": "CRNN"}, "does not describe a CRNN"),
    ({"preprocess": {}}, "does not describe a CRNN"),
    ({"alphabet": {"characters": "abc", "name": "three"}}, "5 classes .* of 3"),
    ({"alphabet": {"characters": "aba", "name": "odd"}}, "repeats 'a'"),
  ],
)
def test_load_refuses_inconsistent_metadata(tmp_path, change, message):
  architecture, _, variables = _make("mobilenet", folded=True)
  path = tmp_path / "other.safetensors"
  _save(path, architecture, variables, rules_lib.ALL_FLOAT, change)
  with pytest.raises(ValueError, match=message):
    reader_lib.Reader.load(path)


def test_a_file_damaged_anywhere_is_refused_in_one_line(run, tmp_path):
  data = (run / reader_lib.BUNDLE_NAME).read_bytes()
  path = tmp_path / "damaged.safetensors"
  # Every part of the header, and the tensors behind it.
  for place in [*range(12), *range(12, len(data), len(data) // 150)]:
    turned = bytearray(data)
    turned[place] ^= 1
    for damaged in (turned, data[:place]):
      path.write_bytes(damaged)
      with pytest.raises(ValueError, match=r"\A.*damaged\.safetensors.*\Z"):
        reader_lib.Reader.load(path)


@pytest.mark.parametrize("name", ["tensors", "kind", "affine", "bits"])
def test_a_damaged_statement_of_a_tensor_is_refused(run, tmp_path, name):
  data = (run / reader_lib.BUNDLE_NAME).read_bytes()
  place = data.index(f'\\"{name}\\"'.encode()) + 4
  path = tmp_path / "damaged.safetensors"
  path.write_bytes(data[:place] + b"?" + data[place + 1 :])
  with pytest.raises(ValueError, match=r"\A.*damaged\.safetensors.*\Z"):
    reader_lib.Reader.load(path)


def test_tensors_of_others_are_refused(tmp_path):
  path = tmp_path / "others.safetensors"
  safetensors.numpy.save_file({"w": np.zeros(2, np.float32)}, path)
  with pytest.raises(ValueError, match="no jaxocr metadata"):
    reader_lib.Reader.load(path)


def test_height_is_the_networks():
  assert preprocess.HEIGHT_PX == 32
  logits = engines.make_logits(_Levels(), {})
  reader = reader_lib.Reader(logits, ALPHABET, height=64, frame_px=4)
  image, places = _image("ab", cell=16, gap=8, height=64)
  (reading,) = reader.read([image])
  assert reading.text == "ab"
  assert [(c.x0, c.x1) for c in reading.characters] == places
