"""Stages as data: where each starts, how it hardens, what it minimises."""

import jax.numpy as jnp
import pytest

from jaxocr.compress import distil
from jaxocr.train import objective
from jaxocr.train import stages
from tests.train import test_objective


def make(name="s", steps=100, **more):
  return stages.Stage(name, steps, **{"learning_rate": 0.1, **more})


@pytest.mark.parametrize(
  "share, at",
  [
    (0.4, {0: 0.0, 10: 0.25, 40: 1.0, 41: 1.0, 99: 1.0}),
    (1.0, {0: 0.0, 50: 0.5, 99: 0.99, 100: 1.0}),
    (0.0, {0: 1.0, 50: 1.0}),
    (0.004, {0: 1.0}),  # Less than half a step.
  ],
)
def test_hardness_rises_in_its_share_of_the_steps(share, at):
  hardness = make().hardness(share)
  for step, expected in at.items():
    found = float(hardness(jnp.array(step)))
    assert found == pytest.approx(expected, abs=1e-6), step
    if expected == 1:
      assert found == 1  # Signs, not nearly signs.


@pytest.mark.parametrize("steps, warm", [(100, 10), (40, 4), (5, 0), (1, 0)])
def test_the_warm_up_is_a_tenth_of_a_short_stage_at_most(steps, warm):
  schedule = make(steps=steps).schedule(10)
  rates = [float(schedule(step)) for step in range(steps)]
  if warm:
    expected = [0.1 * (i + 1) / warm for i in range(warm)]
    assert rates[:warm] == pytest.approx(expected)
  assert rates[warm] == pytest.approx(0.1)
  assert rates[warm:] == sorted(rates[warm:], reverse=True)
  assert float(schedule(steps)) == pytest.approx(0, abs=1e-9)


def said(value):
  logits = jnp.array([[[0.0, value], [value, 0.0]]])
  return objective.Outputs(logits, {})


def loss(stage, step):
  batch = test_objective.make_batch([[1]])
  value, _ = stage.objective()(said(1.0), batch, jnp.array(step), said(3.0))
  return float(value)


def test_objectives():
  taught = distil.Distillation(logit=1.0)
  ctc = loss(make(), 0)
  whole = loss(make(distillation=taught), 0)
  assert make().objective() is objective.ctc_objective
  assert whole > ctc + 0.01
  # The same throughout, or falling to nothing at the end.
  assert loss(make(distillation=taught), 100) == whole
  fading = make(distillation=taught, fade_teacher=True)
  found = [loss(fading, step) for step in (0, 50, 100)]
  assert found == pytest.approx([whole, (whole + ctc) / 2, ctc], rel=1e-5)
  # The teacher alone.
  alone = loss(make(distillation=taught, task=0.0), 0)
  assert alone == pytest.approx(whole - ctc, rel=1e-4)
