import collections
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import PIL.Image
import pytest

from jaxocr.data import augment
from jaxocr.data import mixture
from jaxocr.data import render
from jaxocr.text import alphabet as alphabet_lib

ALPHABET = alphabet_lib.Alphabet("abcd", name="four")
OFF = render.RenderStrengths(
  **{name: 0.0 for name in render.RenderStrengths.__dataclass_fields__}
)

# Waits in the middle of its batches.
TRAINING = """
import contextlib
import signal
import sys
import time

from jaxocr.data import mixture
from jaxocr.text import alphabet

if __name__ == "__main__":
  # A shell that starts the tests in the background has it ignored.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  found = mixture.Mixture(
    [mixture.Source(sys.argv[1])],
    alphabet.Alphabet("abcd", name="four"),
    widths=(64,),
    batch_size=8,
    rendered_share=0,
  )
  with contextlib.closing(found.batches(0, 1000, seed=0, workers=2)) as batches:
    next(batches)
    next(batches)
    print("reading", flush=True)
    time.sleep(600)
"""


def make_set(folder, widths, labels, level=100):
  """Flat images at height 32, one for each width and label."""
  folder.mkdir()
  rows = []
  for i, (width, label) in enumerate(zip(widths, labels, strict=True)):
    image = PIL.Image.new("L", (width, 32), level + i)
    image.save(folder / f"{i}.png")
    rows.append(f"{i}.png\t{label}\n")
  (folder / "labels.tsv").write_text("".join(rows), encoding="utf-8")
  return str(folder)


def mix(*sources, **more):
  options = dict(widths=(64, 128), batch_size=8, rendered_share=0.25) | more
  return mixture.Mixture(sources, ALPHABET, **options)


def test_batches_have_one_width_and_the_rows_asked_for(tmp_path):
  path = make_set(tmp_path / "s", [40, 64, 65, 128], ["a", "bb", "abcd", "d"])
  found = mix(mixture.Source(path))
  assert found.widths == (64, 128)
  seen = collections.Counter()
  for step in range(40):
    batch = found.batch(step, seed=0)
    width = batch.image.shape[2]
    assert batch.image.shape == (8, 32, width) and batch.image.dtype == np.uint8
    assert batch.label.shape == (8, 4)  # One shape for every width.
    np.testing.assert_array_equal(batch.real, [True] * 6 + [False] * 2)
    for row in range(6):
      text = ALPHABET.decode(batch.label[row, : batch.length[row]])
      level = int(batch.image[row, 0, 0])
      assert (batch.image[row] == level).all()  # Padded with its own paper.
      expected = ["a", "bb", "abcd", "d"][level - 100]
      assert text == expected
      assert batch.width[row] == [40, 64, 65, 128][level - 100]
      seen[text, width] += 1
    np.testing.assert_array_equal(batch.length[6:], 0)
  assert {key for key in seen} == {
    *(("a", 64), ("bb", 64), ("abcd", 128), ("d", 128))
  }
  assert min(seen.values()) > 30  # Of 60 each.


def test_a_step_is_the_same_whenever_it_is_asked_for(tmp_path):
  path = make_set(tmp_path / "s", [40] * 9, list("abcdabcda"))
  found = mix(mixture.Source(path))
  straight = list(found.batches(0, 6, seed=3))
  resumed = list(found.batches(4, 6, seed=3))
  assert len(straight) == 6 and len(resumed) == 2
  jax.tree.map(np.testing.assert_array_equal, straight[4:], resumed)
  other = found.batch(4, seed=4)
  assert (other.label != resumed[0].label).any()


@pytest.mark.slow
def test_workers_read_the_same_lines_and_tell_what_is_broken(tmp_path):
  path = make_set(tmp_path / "s", [40, 100] * 3, "abcdab")
  threads, processes = (mix(mixture.Source(path)) for _ in range(2))
  for name in ("0.png", "1.png"):  # After they have looked at it.
    (tmp_path / "s" / name).write_bytes(b"")
  expected = list(threads.batches(3, 8, seed=3))
  reading = processes.batches(3, 8, seed=3, workers=2)
  found = [next(reading)]
  assert len(multiprocessing.active_children()) == 2
  found += reading
  assert not multiprocessing.active_children()
  assert len(found) == 5
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert len(processes.broken) == 2
  assert list(processes.broken.items()) == list(threads.broken.items())


@pytest.mark.slow
def test_what_ends_a_worker_is_told(tmp_path):
  path = make_set(tmp_path / "s", [40], "a")
  found = mix(mixture.Source(path))
  reading = found.batches(0, 1000, seed=0, workers=1)
  next(reading)
  (worker,) = multiprocessing.active_children()
  os.kill(worker.pid, signal.SIGTERM)  # Left to the training.
  for _ in range(20):
    next(reading)
  os.kill(worker.pid, signal.SIGKILL)
  with pytest.raises(ChildProcessError, match="one of 1 workers"):
    list(reading)
  (tmp_path / "s" / "0.png").write_bytes(b"")
  with pytest.raises(ValueError, match="20 broken images in a row"):
    next(found.batches(0, 8, seed=0, workers=1))
  assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_training(tmp_path, signum):
  path = make_set(tmp_path / "s", [40] * 3, "abc")
  script = tmp_path / "train.py"
  script.write_text(TRAINING, encoding="utf-8")
  with subprocess.Popen(
    [sys.executable, script, path],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    start_new_session=True,
  ) as training:
    try:
      assert training.stdout.readline() == "reading\n"
      # A terminal's Ctrl-C goes to all of them, kill -9 to one.
      if signum == signal.SIGINT:
        os.killpg(training.pid, signum)
      else:
        training.kill()
      # Ends when all who hold the pipe have ended.
      _, told = training.communicate(timeout=60)
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(training.pid, signal.SIGKILL)
  if signum == signal.SIGINT:  # One traceback, the training's own.
    assert told.count("Traceback") == 1
    assert told.rstrip().endswith("KeyboardInterrupt")


def test_weights_say_how_often_a_set_is_drawn_from(tmp_path):
  small = make_set(tmp_path / "small", [40] * 2, "ab")
  large = make_set(tmp_path / "large", [40, 100] * 10, "cd" * 10)

  def shares(*weights):
    paths = (small, large)
    pairs = zip(paths, weights, strict=True)
    found = mix(*(mixture.Source(*pair) for pair in pairs), rendered_share=0)
    drawn = collections.Counter()
    for step in range(150):
      batch = found.batch(step, seed=0)
      drawn.update(ALPHABET.decode(ids) for ids in batch.label)
    total = sum(drawn.values())
    return {text: n / total for text, n in drawn.items()}

  # Tolerances: 150 steps choose the width, so that `d` varies most.
  even = shares(None, None)
  assert even["a"] == pytest.approx(1 / 22, abs=0.03)
  assert even["d"] == pytest.approx(10 / 22, abs=0.1)
  heavy = shares(3.0, 1.0)
  assert heavy["a"] + heavy["b"] == pytest.approx(3 / 4, abs=0.07)
  assert heavy["d"] == pytest.approx(1 / 8, abs=0.07)


def test_what_is_not_used_is_counted(tmp_path):
  widths = [40, 40, 300, 60, 40]
  labels = ["a", "ax\u00e9x", "b", "a" * 9, "d"]
  path = make_set(tmp_path / "s", widths, labels)
  (tmp_path / "s" / "4.png").write_bytes(b"no image")
  found = mix(mixture.Source(path))
  told, lacks = found.notes
  assert told.startswith("train_data s/labels.tsv: 5 read, 1 kept, 4 dropped: ")
  for reason in (
    mixture.OUTSIDE,
    mixture.TOO_WIDE,
    mixture.TOO_LONG,
    mixture.UNREADABLE,
  ):
    assert f"1 {reason} (first: " in told
  assert lacks.endswith("lacks 2 characters of it: 'x' 2, '\u00e9' 1")
  only = make_set(tmp_path / "only", [40], ["x"])
  with pytest.raises(ValueError, match="no usable line"):
    mix(mixture.Source(only))


def test_a_broken_image_is_replaced_and_told(tmp_path):
  path = make_set(tmp_path / "s", [40] * 3, "abc")
  found = mix(mixture.Source(path))
  whole = (tmp_path / "s" / "1.png").read_bytes()
  (tmp_path / "s" / "1.png").write_bytes(whole[:50])  # Its header is there.
  assert found.told_broken() == []
  for step in range(5):
    batch = found.batch(step, seed=0)
    assert set(batch.label[:6, 0].tolist()) <= {1, 3}
  (told,) = found.told_broken()
  assert "1 images could not be read" in told and "s/labels.tsv: 1.png" in told


@pytest.fixture(scope="module", name="change")
def fixture_change():
  """Compiled once, for eight lines of 96 px and strengths as they come."""

  def augmented(keys, image, width, fields):
    strengths = render.RenderStrengths(**fields)
    return augment.augment_lines(keys, image, width, strengths)

  compiled = jax.jit(augmented)

  def change(keys, image, width, strengths):
    fields = dataclasses.asdict(strengths)
    return np.asarray(compiled(keys, image, width, fields))

  return change


def test_without_strength_real_lines_stay_as_they_are(change):
  rng = np.random.default_rng(0)
  image = rng.random((8, 32, 96), np.float32)
  keys = jax.random.split(jax.random.key(0), 8)
  found = change(keys, image, np.full(8, 96, np.int32), OFF)[..., 0]
  np.testing.assert_allclose(found, image, atol=0.02)


def test_strengths_bend_and_light_lines_each_in_its_way(change):
  line = np.full((32, 96), 0.9, np.float32)
  line[10:22, 8:60:6] = 0.1
  image = np.stack([line] * 8)
  width = np.full(8, 64, np.int32)
  keys = jax.random.split(jax.random.key(1), 8)
  found = change(keys, image, width, augment.REAL_STRENGTHS)
  assert found.shape == (8, 32, 96, 1)
  assert found.min() >= 0 and found.max() <= 1
  assert len({x.tobytes() for x in found}) == 8
  # Readable still: what was dark is darker than what was light, or inverted.
  dark = found[:, 10:22, 8:60:6, 0].mean(axis=(1, 2))
  light = found[:, 2:6, 8:60, 0].mean(axis=(1, 2))
  assert (np.abs(dark - light) > 0.2).all()
  # By its own key, whatever the batch.
  again = change(keys[::-1], image, width, augment.REAL_STRENGTHS)
  np.testing.assert_allclose(again[::-1], found, atol=1e-5)
