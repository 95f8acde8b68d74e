import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxocr.models import crnn
from jaxocr.train import optimiser


def test_schedule_by_hand():
  schedule = optimiser.make_schedule(
    learning_rate=0.8, warmup_steps=4, steps=12
  )
  rates = [float(schedule(done)) for done in range(13)]
  assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
  # Half a cosine over the other eight steps.
  cosine = [0.4 * (1 + np.cos(np.pi * i / 8)) for i in range(9)]
  assert rates[4:] == pytest.approx(cosine, abs=1e-6)


def test_schedule_without_warm_up_starts_at_the_peak():
  schedule = optimiser.make_schedule(learning_rate=0.5, warmup_steps=0, steps=2)
  assert [float(schedule(i)) for i in range(3)] == pytest.approx([0.5, 0.25, 0])


def test_warm_up_must_leave_steps():
  with pytest.raises(ValueError, match=r"warmup_steps=100 .* try 5"):
    optimiser.make_schedule(learning_rate=1.0, warmup_steps=100, steps=100)


def test_each_parameter_of_the_network_has_its_group():
  model = crnn.CRNN(22)
  params = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 64, 1)))
  )["params"]
  groups = optimiser.group_of(params)
  assert groups["backbone"]["block0"]["spatial"]["conv"] == {
    "binary_kernel": "latent"
  }
  assert groups["backbone"]["stem"]["kernel"] == "decay"
  assert groups["bilstm"] == {
    f"{direction}_{name}": group
    for direction in ("forward", "backward")
    for name, group in {
      "bias": "plain",
      "input_kernel": "decay",
      "recurrent_kernel": "decay",
    }.items()
  }
  assert set(jax.tree.leaves(groups["backbone"]["stem_norm"])) == {"plain"}
  assert groups["head"] == {"bias": "plain", "kernel": "decay"}


def tiny_params():
  return {
    "conv": {"binary_kernel": jnp.array([0.9, -0.2])},
    "dense": {"kernel": jnp.array([2.0]), "bias": jnp.array([3.0])},
  }


def update(grads, **kwargs):
  params = tiny_params()
  options = {"weight_decay": 0.1, "clip_norm": 1e6} | kwargs
  tx = optimiser.make_optimiser(optax.constant_schedule(0.5), **options)
  updates, _ = tx.update(grads, tx.init(params), params)
  return optax.apply_updates(params, updates)


def test_only_kernels_decay():
  zeros = jax.tree.map(jnp.zeros_like, tiny_params())
  new = update(zeros)
  assert new["conv"]["binary_kernel"].tolist() == pytest.approx([0.9, -0.2])
  assert float(new["dense"]["bias"][0]) == 3.0
  # 2 - rate * decay * 2.
  assert float(new["dense"]["kernel"][0]) == pytest.approx(2 - 0.5 * 0.1 * 2)


def test_latent_kernels_stay_within_one():
  grads = jax.tree.map(lambda p: -jnp.ones_like(p), tiny_params())
  new = update(grads)
  # Adam's first step is the rate, 0.5, against the gradient.
  assert new["conv"]["binary_kernel"].tolist() == pytest.approx(
    [1.0, 0.3], rel=1e-4
  )
  assert float(new["dense"]["bias"][0]) == pytest.approx(3.5, rel=1e-4)


def test_steps_change_by_a_share_of_themselves():
  params = {"head": {"kernel": jnp.ones(2), "kernel_step": jnp.array([1e-4])}}
  groups = optimiser.group_of(params)
  assert groups["head"] == {"kernel": "decay", "kernel_step": "step"}
  tx = optimiser.make_optimiser(
    optax.constant_schedule(0.1), weight_decay=0.1, clip_norm=1e6
  )
  grads = jax.tree.map(jnp.ones_like, params)
  updates, _ = tx.update(grads, tx.init(params), params)
  new = optax.apply_updates(params, updates)
  assert float(new["head"]["kernel_step"][0]) == pytest.approx(0.9e-4, rel=1e-3)


@pytest.mark.parametrize(
  "rule, expected",
  [
    # Two weights; the gradient is -1, then 1, for both.
    (optimiser.CLIPPED_ADAM, [1.0, 0.3]),
    # The first is beyond the limit and may not grow.
    (optimiser.GatedAdam(limit=0.5), [0.9, 0.3]),
    # m = -0.5 g flips what has its sign: the second.
    (optimiser.Bop(gamma=0.5, threshold=0.05), [1.0, 1.0]),
    (optimiser.Bop(gamma=0.5, threshold=0.15), [1.0, -1.0]),
    # m / sqrt(v) = 0.5 / sqrt(0.25), times abs(w).
    (optimiser.Bop2nd(gamma=0.5, sigma=0.25, threshold=0.19), [1.0, 1.0]),
    (optimiser.Bop2nd(gamma=0.5, sigma=0.25, threshold=0.21), [1.0, -1.0]),
  ],
)
def test_rules_of_latent_kernels(rule, expected):
  grads = jax.tree.map(lambda p: -jnp.ones_like(p), tiny_params())
  new = update(grads, latent=rule)
  found = new["conv"]["binary_kernel"].tolist()
  assert found == pytest.approx(expected, rel=1e-4)
  # The others learn as ever.
  assert float(new["dense"]["bias"][0]) == pytest.approx(3.5, rel=1e-4)


def test_gradients_are_clipped_together_first():
  # Two steps: Adam ignores a constant scale, but not one that changes.
  params = tiny_params()
  tx = optimiser.make_optimiser(
    optax.constant_schedule(0.1), weight_decay=0.0, clip_norm=1.0
  )
  state = tx.init(params)
  ones = jax.tree.map(jnp.ones_like, params)
  huge = jax.tree.map(lambda p: 1e6 * p, ones)
  _, after_huge = tx.update(huge, state, params)
  _, after_ones = tx.update(ones, state, params)
  # Both gradients have a norm above one, so both are the same when clipped.
  for a, b in zip(
    jax.tree.leaves(after_huge), jax.tree.leaves(after_ones), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5)
