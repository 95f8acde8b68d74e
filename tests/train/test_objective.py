import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import distil
from jaxocr.data import batch as batch_lib
from jaxocr.train import objective


def said(logits, **taps):
  return objective.Outputs(jnp.asarray(logits), taps)


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
    said(jnp.zeros((1, frames, 3))), make_batch([ids])
  )
  assert float(loss) == pytest.approx(expected, abs=1e-5)
  assert [float(v) for v in metrics["loss"]] == pytest.approx([expected, 1])


@pytest.mark.parametrize("ids", [[], [2], [1, 2], [1, 1], [2, 1, 2]])
def test_equals_the_sum_over_all_paths(ids):
  logits = np.random.default_rng(0).normal(size=(5, 3)) * 2
  loss, _ = objective.ctc_objective(said(logits[None]), make_batch([ids]))
  assert float(loss) == pytest.approx(brute_force(logits, ids), abs=1e-4)


def test_equals_torch_in_value_and_gradient():
  torch = pytest.importorskip("torch")
  frames, classes = 12, 5
  rng = np.random.default_rng(0)
  labels = [
    [],
    [1, 2, 3],
    [2, 2, 2, 2],
    [4, 4, 1, 1, 3, 3],
    [1] * 6,  # Eleven frames at least.
    [1, 2, 3, 4, 1, 2, 3, 4, 3, 2, 1],
    [1, 2, 3, 4, 1, 2, 3, 4, 3, 2, 1, 4],  # One way only.
  ]
  logits = 3 * rng.normal(size=(len(labels), frames, classes)).astype("f4")
  batch = make_batch(labels, size=frames)

  def ours(x):
    return objective.ctc_objective(said(x), batch)[0]

  peer = torch.tensor(logits, requires_grad=True)
  theirs = torch.nn.functional.ctc_loss(
    peer.log_softmax(-1).transpose(0, 1),
    torch.tensor([k for ids in labels for k in ids]),
    torch.full((len(labels),), frames),
    torch.tensor([len(ids) for ids in labels]),
    reduction="sum",
  ) / len(labels)
  theirs.backward()
  value, gradient = jax.value_and_grad(ours)(jnp.asarray(logits))
  assert float(value) == pytest.approx(theirs.item(), abs=1e-4)
  np.testing.assert_allclose(gradient, peer.grad.numpy(), atol=1e-5)


def test_masked_lines_count_nowhere():
  logits = jax.random.normal(jax.random.key(0), (3, 6, 4))
  labels = [[1, 2], [3], [2, 2]]
  whole = [
    float(
      objective.ctc_objective(said(logits[i : i + 1]), make_batch([ids]))[0]
    )
    for i, ids in enumerate(labels)
  ]
  batch = make_batch(labels, mask=[1, 0, 1])
  loss, metrics = objective.ctc_objective(said(logits), batch)
  assert float(loss) == pytest.approx((whole[0] + whole[2]) / 2, rel=1e-5)
  assert float(metrics["loss"][1]) == 2
  grads = jax.grad(lambda x: objective.ctc_objective(said(x), batch)[0])(logits)
  assert not grads[1].any() and grads[0].any()


def test_bfloat16_logits_give_a_float32_loss():
  logits = jax.random.normal(jax.random.key(0), (1, 6, 4)).astype(jnp.bfloat16)
  batch = make_batch([[1, 2]])
  loss, _ = objective.ctc_objective(said(logits), batch)
  exact, _ = objective.ctc_objective(said(logits.astype(jnp.float32)), batch)
  assert loss.dtype == jnp.float32
  assert float(loss) == float(exact)


def test_taps_go_by_their_own_names():
  logits = jnp.zeros((1, 2, 3))
  block, frames = jnp.ones((1, 2, 2, 4)), jnp.ones((1, 1, 2, 5))
  found = objective.outputs(
    logits,
    {
      "taps": {"frames_tap": frames, "backbone": {"block0_tap": block}},
      "batch_stats": {"norm": {"mean": jnp.zeros(3)}},
    },
  )
  assert found.logits is logits
  assert found.taps == {"frames": frames, "block0": block}
  assert objective.outputs(logits, {}).taps == {}


def pair(seed=0):
  """What a student and its teacher say of two lines, one of which counts."""
  keys = jax.random.split(jax.random.key(seed), 6)
  student, teacher = (
    said(
      3 * jax.random.normal(a, (2, 5, 4)),
      first=jax.random.normal(b, (2, 2, 4, 3)),
      last=jax.random.normal(c, (2, 1, 4, 2)),
    )
    for a, b, c in (keys[:3], keys[3:])
  )
  return student, teacher, make_batch([[1, 2], [3]], mask=[1, 0])


BOTH = distil.Distillation(
  logit=2.0, fsp=0.5, temperature=3.0, pairs=(("first", "last"),)
)


def terms(student, teacher, mask):
  """The losses that `BOTH` weighs, each by itself."""
  logit = distil.ctc_logit_kl(
    student.logits, teacher.logits, mask=mask, temperature=3.0
  )
  fsp = distil.relative_fsp_loss(
    student.taps, teacher.taps, pairs=BOTH.pairs, mask=mask
  )
  return float(logit), float(fsp)


@pytest.mark.parametrize("task", [1.0, 0.0, 0.25])
def test_a_teacher_adds_its_weighted_terms(task):
  student, teacher, batch = pair()
  ctc, _ = objective.ctc_objective(student, batch)
  logit, fsp = terms(student, teacher, batch.mask)
  assert min(float(ctc), logit, fsp) > 0.1
  loss, metrics = objective.make_distilled(BOTH, task=task)(
    student, batch, jnp.array(0), teacher
  )
  expected = task * float(ctc) + 2 * logit + 0.5 * fsp
  assert float(loss) == pytest.approx(expected, rel=1e-5)
  # `loss` is CTC's whatever the weights, so that runs can be compared.
  means = {
    name: float(total / count) for name, (total, count) in metrics.items()
  }
  assert means == pytest.approx(
    {"loss": float(ctc), "distil_logit": logit, "distil_fsp": fsp}, rel=1e-5
  )
  assert {float(count) for _, count in metrics.values()} == {1}


def test_a_schedule_scales_all_that_the_teacher_says():
  student, teacher, batch = pair()
  ctc, _ = objective.ctc_objective(student, batch)
  logit, fsp = terms(student, teacher, batch.mask)
  taught = objective.make_distilled(BOTH, scale=lambda step: 1 - step / 10)
  for step, factor in ((0, 1.0), (4, 0.6), (10, 0.0)):
    loss, metrics = taught(student, batch, jnp.array(step), teacher)
    expected = float(ctc) + factor * (2 * logit + 0.5 * fsp)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["distil_fsp"][0]) == pytest.approx(fsp, rel=1e-5)


def test_no_gradient_reaches_the_teacher_or_lines_that_do_not_count():
  student, teacher, batch = pair()
  taught = objective.make_distilled(BOTH)

  def loss(student, teacher):
    return taught(student, batch, jnp.array(0), teacher)[0]

  ours, theirs = jax.grad(loss, (0, 1))(student, teacher)
  assert not any(leaf.any() for leaf in jax.tree.leaves(theirs))
  for leaf in jax.tree.leaves(ours):
    assert leaf[0].any() and not leaf[1].any()


def test_weights_that_cannot_work_are_refused_when_it_is_made():
  with pytest.raises(ValueError, match=r"pairs=\(\) with fsp=1"):
    objective.make_distilled(distil.Distillation(fsp=1.0))


def test_class_objective_by_hand():
  logits = jnp.array([[0.0, 0.0], [jnp.log(3.0), 0.0], [5.0, -5.0]])
  batch = batch_lib.Batch(
    image=jnp.zeros((3, 1, 1, 1)),
    label=jnp.array([[1], [0], [1]]),
    length=jnp.ones(3, jnp.int32),
    mask=jnp.array([1.0, 1.0, 0.0]),
  )
  outputs = objective.Outputs(logits, {})
  loss, metrics = objective.class_objective(outputs, batch, 0, None)
  total = np.log(2) + np.log(4 / 3)
  assert float(loss) == pytest.approx(total / 2, rel=1e-6)
  assert [float(x) for x in metrics["loss"]] == pytest.approx([total, 2])
