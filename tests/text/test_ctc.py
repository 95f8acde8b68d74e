import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import ctc

ALPHABET = alphabet_lib.Alphabet("01 ")


def _collapse(classes, probabilities=None, **kwargs):
  if probabilities is None:
    probabilities = np.full(len(classes), 0.5, np.float32)
  return ctc.collapse(np.array(classes), probabilities, ALPHABET, **kwargs)


@pytest.mark.parametrize(
  ("classes", "text"),
  [
    ([], ""),
    ([0, 0, 0], ""),
    ([1, 1, 1], "0"),
    ([1, 0, 1], "00"),
    ([1, 1, 0, 0, 1, 2, 2], "001"),
    ([1, 2, 1], "010"),
    ([3, 0, 3, 1, 3], "  0 "),
    ([0, 2, 3, 3, 2, 0], "1 1"),
  ],
)
def test_collapse_text(classes, text):
  reading = _collapse(classes)
  assert reading.text == text
  assert "".join(c.char for c in reading.characters) == text


def test_collapse_confidence():
  probabilities = np.array([0.9, 0.5, 0.25, 0.1, 0.75], np.float32)
  reading = _collapse([0, 1, 2, 2, 2], probabilities)
  # Highest of each run; the blank's 0.9 does not count.
  assert [c.confidence for c in reading.characters] == [0.5, 0.75]
  assert reading.confidence == 0.375
  # Of nothing: as sure as the frame that is least surely blank.
  assert _collapse([0, 0, 0], probabilities[:3]).confidence == 0.25
  assert _collapse([]).confidence == 1.0
  assert isinstance(reading.confidence, float)


def test_collapse_places():
  classes = [0, 1, 1, 0, 2, 2, 2]
  places = [(c.x0, c.x1) for c in _collapse(classes).characters]
  assert places == [(4.0, 12.0), (16.0, 28.0)]
  # An image half as high as the network's input: half the pixels a frame.
  reading = _collapse(classes, x_scale=0.5, width_px=13)
  assert [(c.x0, c.x1) for c in reading.characters] == [(2.0, 6.0), (8.0, 13.0)]
  # A character seen in the padding only.
  reading = _collapse(classes, width_px=14, frame_px=8)
  assert [(c.x0, c.x1) for c in reading.characters] == [
    (8.0, 14.0),
    (14.0, 14.0),
  ]


def test_best_path_by_hand():
  logits = jnp.log(jnp.array([[[0.2, 0.7, 0.05, 0.05], [0.5, 0.1, 0.3, 0.1]]]))
  classes, probabilities = ctc.best_path(logits + 3.0)
  assert classes.dtype == jnp.int32 and probabilities.dtype == jnp.float32
  np.testing.assert_array_equal(classes, [[1, 0]])
  np.testing.assert_allclose(probabilities, [[0.7, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_best_path_in_low_precision_and_jit(scale):
  logits = scale * jax.random.normal(jax.random.key(0), (2, 5, 4))
  logits = logits.astype(jnp.bfloat16)
  classes, probabilities = jax.jit(ctc.best_path)(logits)
  exact = np.asarray(logits, np.float64)
  exact = np.exp(exact - exact.max(-1, keepdims=True))
  exact /= exact.sum(-1, keepdims=True)
  np.testing.assert_array_equal(classes, exact.argmax(-1))
  np.testing.assert_allclose(probabilities, exact.max(-1), rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_best_path_against_every_path(frames, seed):
  """Of all K^T paths the most probable one, collapsed as CTC defines it."""
  rng = np.random.default_rng(seed)
  probabilities = rng.dirichlet(np.ones(4), size=frames)
  best, best_path = 0.0, ()
  for path in itertools.product(range(4), repeat=frames):
    probability = np.prod(
      [p[k] for p, k in zip(probabilities, path, strict=True)]
    )
    if probability > best:
      best, best_path = probability, path
  merged = [k for k, _ in itertools.groupby(best_path)]
  expected = "".join(ALPHABET.characters[k - 1] for k in merged if k)

  logits = jnp.log(jnp.asarray(probabilities, jnp.float32))[None]
  _, top = ctc.best_path(logits)
  np.testing.assert_allclose(np.prod(top), best, rtol=1e-5)
  assert ctc.greedy_decode(logits, ALPHABET)[0].text == expected


def test_greedy_decode_batch():
  classes = jnp.array([[1, 1, 0, 1], [0, 3, 2, 0]])
  logits = 20.0 * jax.nn.one_hot(classes, 4)
  first, second = ctc.greedy_decode(
    logits, ALPHABET, x_scales=[1.0, 2.0], widths_px=[100, 20]
  )
  assert (first.text, second.text) == ("00", " 1")
  assert [(c.x0, c.x1) for c in first.characters] == [(0, 8), (12, 16)]
  assert [(c.x0, c.x1) for c in second.characters] == [(8, 16), (16, 20)]
  assert first.confidence == pytest.approx(1.0, abs=1e-5)


def test_greedy_decode_refuses_another_alphabet():
  with pytest.raises(AssertionError):
    ctc.greedy_decode(jnp.zeros((1, 2, 5)), ALPHABET)
