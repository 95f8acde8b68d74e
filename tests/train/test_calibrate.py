"""Ranges that are seen before training, against the features themselves."""

import jax
import numpy as np
import pytest

from jaxocr.models import crnn
from jaxocr.train import calibrate
from jaxocr.train import ship
from tests.export import tiny


def test_ranges_are_means_of_what_batches_hold():
  weights = tiny.weights("float")
  batches = [tiny.images(64, 4, seed=seed) for seed in (1, 2)]
  wanted = {**tiny.SIZES, "binary_activations": False, "activation_bits": 8}
  found = calibrate.calibrate(
    weights, crnn.CRNN(**wanted, folded=True), batches
  )
  assert found.params is weights.params
  ranges = found.collections["ranges"]
  assert {int(r["count"]) for r in (ranges["frames_range"],)} == {2}
  # What enters the first convolution, computed by the float network.
  network = crnn.CRNN(**{**tiny.SIZES, "binary_activations": False})
  look = jax.jit(
    lambda image: network.apply(
      ship.variables(weights),
      image,
      capture_intermediates=lambda module, _: module.name == "threshold",
      mutable=["intermediates"],
    )[1]
  )
  block = [
    look(image)["intermediates"]["backbone"]["block0"] for image in batches
  ]
  entering = [
    np.asarray(b["spatial"]["threshold"]["__call__"][0]) for b in block
  ]
  first = ranges["backbone"]["block0"]["spatial"]["in_range"]
  for end, of in (("low", np.min), ("high", np.max)):
    mean = np.mean([of(features) for features in entering])
    np.testing.assert_allclose(first[end], mean, rtol=1e-4)


def test_without_anything_to_see():
  weights = tiny.weights("float")
  plain = {**tiny.SIZES, "binary_activations": False}
  with pytest.raises(ValueError, match="0 batches"):
    rounded = crnn.CRNN(**plain, activation_bits=8, folded=True)
    calibrate.calibrate(weights, rounded, [])
  with pytest.raises(ValueError, match="activation_bits=None"):
    network = crnn.CRNN(**plain, folded=True)
    calibrate.calibrate(weights, network, [tiny.images(64, 1)])
