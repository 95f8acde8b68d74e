import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.data import batch as batch_lib
from jaxocr.train import objective


def make_batch(labels, *, mask=None, size=3):
  label = np.zeros((len(labels), size), np.int32)
  for row, ids in zip(label, labels, strict=True):
    row[: len(ids)] = ids
  return batch_lib.Batch(
    image=jnp.zeros((len(labels), 1, 1, 1)),
    label=jnp.asarray(label),
    length=jnp.array([len(ids) for ids in labels]),
    mask=jnp.ones(len(labels)) if mask is None else jnp.asarray(mask, float),
  )


def collapsed(path):
  return [k for k, _ in itertools.groupby(path) if k != 0]


def brute_force(logits, ids):
  """-log of the summed probability of every path that reads `ids`."""
  frames, classes = logits.shape
  odds = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  total = 0.0
  for path in itertools.product(range(classes), repeat=frames):
    if collapsed(path) == list(ids):
      total += np.prod([odds[t, k] for t, k in enumerate(path)])
  return -math.log(total)


@pytest.mark.parametrize(
  "frames, ids, expected",
  [
    (2, [1], math.log(3)),  # 1-, -1, 11 of nine paths.
    (3, [1, 1], math.log(27)),  # Only 1-1.
    (2, [], math.log(9)),  # Only --.
  ],
)
def test_uniform_logits_by_hand(frames, ids, expected):
  loss, metrics = objective.ctc_objective(
    jnp.zeros((1, frames, 3)), make_batch([ids])
  )
  assert float(loss) == pytest.approx(expected, abs=1e-5)
  assert [float(v) for v in metrics["loss"]] == pytest.approx([expected, 1])


@pytest.mark.parametrize("ids", [[], [2], [1, 2], [1, 1], [2, 1, 2]])
def test_equals_the_sum_over_all_paths(ids):
  logits = np.random.default_rng(0).normal(size=(5, 3)) * 2
  loss, _ = objective.ctc_objective(
    jnp.asarray(logits)[None], make_batch([ids])
  )
  assert float(loss) == pytest.approx(brute_force(logits, ids), abs=1e-4)


def test_masked_lines_count_nowhere():
  logits = jax.random.normal(jax.random.key(0), (3, 6, 4))
  labels = [[1, 2], [3], [2, 2]]
  whole = [
    float(objective.ctc_objective(logits[i : i + 1], make_batch([ids]))[0])
    for i, ids in enumerate(labels)
  ]
  batch = make_batch(labels, mask=[1, 0, 1])
  loss, metrics = objective.ctc_objective(logits, batch)
  assert float(loss) == pytest.approx((whole[0] + whole[2]) / 2, rel=1e-5)
  assert float(metrics["loss"][1]) == 2
  grads = jax.grad(lambda x: objective.ctc_objective(x, batch)[0])(logits)
  assert not grads[1].any() and grads[0].any()


def test_bfloat16_logits_give_a_float32_loss():
  logits = jax.random.normal(jax.random.key(0), (1, 6, 4)).astype(jnp.bfloat16)
  batch = make_batch([[1, 2]])
  loss, _ = objective.ctc_objective(logits, batch)
  exact, _ = objective.ctc_objective(logits.astype(jnp.float32), batch)
  assert loss.dtype == jnp.float32
  assert float(loss) == float(exact)
