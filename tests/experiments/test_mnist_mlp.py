"""The MNIST experiment on a handful of digits."""

import dataclasses
import json
import os
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import mnist_mlp
from jaxocr.data import idx
from jaxocr.models import mlp
from jaxocr.train import interrupt
from jaxocr.train import sharding
from jaxocr.train import state as state_lib
from jaxocr.train import writers
from tests.data import test_idx

TINY = mnist_mlp.Config(hidden="8,6", epochs=2, batch_size=8)
SHAPE = (8, 4, 6)  # Of the training images: one step an epoch.


@pytest.fixture(name="config")
def make_config(tmp_path):
  folder = tmp_path / "mnist"
  folder.mkdir()
  test_idx.write_mnist(folder, train=SHAPE[0], test=11, size=SHAPE[1:])
  return dataclasses.replace(TINY, mnist_dir=str(folder))


@pytest.mark.slow
def test_two_steps_leave_all_that_a_run_leaves(config, tmp_path):
  config.validate()
  figures = mnist_mlp.run(config, tmp_path / "run")
  stored = json.loads((tmp_path / "run" / "report.json").read_text())
  assert stored == figures
  assert stored["finished"] and stored["steps"] == stored["epochs"] == 2
  assert stored["config"]["hidden"] == "8,6"
  # 24 x 8, 8 x 6 and 6 x 10 weights; a gain and an offset a unit, which are
  # stored in 2 and 4 bytes.
  assert stored["parameters"] == 192 + 48 + 60 + 2 * 24
  assert stored["bytes"] == 24 + 6 + 10 + (2 + 4) * 24
  assert stored["test_images"] == 11
  assert (stored["test_accuracy"] * 11) % 1 == pytest.approx(0, abs=1e-6)
  history = writers.read_history(tmp_path / "run")
  evaluations = [e for e in history if "eval/line_accuracy" in e]
  assert [e["step"] for e in evaluations] == [1, 2]
  assert evaluations[-1]["eval/line_accuracy"] == stored["test_accuracy"]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_end(
  config, tmp_path, monkeypatch
):
  ends = []
  fit = mnist_mlp.loop.fit

  def watched(state, train_step, *args, **kwargs):
    def step_and_stop(state, done):
      if not ends and not (tmp_path / "b" / "checkpoints" / "1").exists():
        os.kill(os.getpid(), signal.SIGINT)
      return train_step(state, done)

    end = fit(state, step_and_stop, *args, **kwargs)
    ends.append(jax.device_get(end))
    return end

  monkeypatch.setattr(mnist_mlp.loop, "fit", watched)
  with pytest.raises(interrupt.Interrupted, match=r"Ctrl-C.* step 1"):
    mnist_mlp.run(config, tmp_path / "b")
  assert not (tmp_path / "b" / "report.json").exists()
  resumed = mnist_mlp.run(config, tmp_path / "b")
  whole = mnist_mlp.run(config, tmp_path / "a")
  assert resumed["test_accuracy"] == whole["test_accuracy"]
  assert int(ends[0].step) == 2
  chex.assert_trees_all_equal(*ends)


def draw(shift_px, count=400):
  """Drawn images, their labels, and those that they were drawn from."""
  images = np.arange(np.prod(SHAPE), dtype=np.uint8).reshape(SHAPE) + 1
  labels = np.arange(SHAPE[0], dtype=np.uint8)
  around = (shift_px, shift_px)
  padded = np.pad(images, ((0, 0), around, around))
  sample = mnist_mlp.make_sample(SHAPE, shift_px)
  keys = jax.random.split(jax.random.key(0), count)
  batch = sample((jnp.array(padded), jnp.array(labels)), keys)
  chex.assert_trees_all_equal(
    batch, jax.jit(sample)((jnp.array(padded), jnp.array(labels)), keys)
  )
  drawn = np.round(np.asarray(batch.image[..., 0]) * 255).astype(np.uint8)
  assert batch.image.shape == (count, *SHAPE[1:], 1)
  assert batch.image.max() <= 1 and batch.mask.all()
  return drawn, batch.label[:, 0].tolist(), images


def test_images_come_with_their_labels():
  drawn, labels, images = draw(0)
  for image, label in zip(drawn, labels, strict=True):
    np.testing.assert_array_equal(image, images[label])
  assert set(labels) == set(range(SHAPE[0]))


def test_shifts_reach_each_neighbour_and_bring_zeros():
  drawn, labels, images = draw(1)
  _, height, width = SHAPE
  seen = set()
  for image, label in zip(drawn, labels, strict=True):
    padded = np.pad(images[label], 1)
    (place,) = [
      (y, x)
      for y in range(3)
      for x in range(3)
      if (padded[y : y + height, x : x + width] == image).all()
    ]
    seen.add(place)
  assert len(seen) == 9


def test_every_test_image_is_read_once_with_averaged_one_bit_weights(config):
  _, test = idx.load_mnist(config.mnist_dir)
  mesh = sharding.make_mesh()
  model = mlp.BinaryMLP((5,))
  image = jnp.asarray(test.images[..., None] / 255, jnp.float32)
  variables = model.init(jax.random.key(0), image)
  one_bit = dict(variables["params"])
  for name in ("hidden0", "logits"):
    latent = np.asarray(one_bit[name]["binary_kernel"])
    signs = np.where(latent >= 0, 1, -1)
    # Before a sign the scale is lost; without it sums of 0 are exact.
    scale = np.abs(latent).mean(0) if name == "logits" else 1.0
    one_bit[name] = {"binary_kernel": jnp.float32(scale * signs)}
  logits = model.apply({**variables, "params": one_bit}, image)
  state = state_lib.TrainState(
    step=jnp.zeros((), jnp.int32),
    params=None,
    collections=None,
    opt_state=None,
    ema_params=variables["params"],
    ema_collections={"batch_stats": variables["batch_stats"]},
  )
  lines = mnist_mlp.make_read(config, model, test, mesh)(state)
  assert [line.truth for line in lines] == [str(d) for d in test.labels]
  assert [line.reading.text for line in lines] == [
    str(d) for d in jnp.argmax(logits, -1)
  ]
  np.testing.assert_allclose(
    [line.reading.confidence for line in lines],
    jnp.max(jax.nn.softmax(logits), -1),
    rtol=5e-3,  # Scales are stored in half precision.
  )


@pytest.mark.parametrize(
  "change, text",
  [
    ({"mnist_dir": ""}, ", ".join(idx.TRAIN + idx.TEST)),
    ({"mnist_dir": "nowhere"}, f"nowhere lacks {idx.TRAIN[0]}"),
    ({"hidden": "256,x"}, "hidden='256,x'; it must be positive numbers"),
    ({"hidden": "256,0"}, "hidden='256,0'; it must be"),
    ({"hidden": ""}, "hidden=''; it must be"),
    ({"batch_size": 12}, "batch_size=12 must be a positive multiple of 8"),
    ({"dropout": 1.0}, r"dropout=1.0; it must be in \[0, 1\)"),
    ({"ema_decay": -0.1}, r"ema_decay=-0.1; it must be in"),
    ({"epochs": 0}, "epochs=0; it must be 1 or more"),
    ({"learning_rate": 0.0}, "learning_rate=0.0; it must be above 0"),
    ({"shift_px": -1}, "shift_px=-1; it must be 0 or more"),
  ],
)
def test_what_cannot_work_is_told(config, change, text):
  with pytest.raises(ValueError, match=text):
    dataclasses.replace(config, **change).validate()
