"""optax transforms for latent and binary weights."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxocr.compress import binarise
from jaxocr.compress import transforms


def test_clip_keeps_the_updated_weight_inside():
  tx = transforms.clip_latent(1.0)
  params = {"w": jnp.array([0.9, -0.9, 0.0, 1.0])}
  updates = {"w": jnp.array([0.5, -0.5, 0.25, -0.5])}
  updates, _ = tx.update(updates, tx.init(params), params)
  new = optax.apply_updates(params, updates)
  np.testing.assert_allclose(new["w"], [1.0, -1.0, 0.25, 0.5], atol=1e-7)


@pytest.mark.parametrize(
  "tx",
  [
    transforms.clip_latent(),
    transforms.gate_gradient(),
    transforms.bop(),
    transforms.bop2nd(0.5, 0.5, 0.0),
  ],
)
def test_params_are_needed(tx):
  params = {"w": jnp.ones(1)}
  with pytest.raises(ValueError, match=r"needs params: tx\.update"):
    tx.update(params, tx.init(params))


@pytest.mark.parametrize(
  "make, text",
  [
    (lambda: transforms.clip_latent(0), "limit=0; must be positive"),
    (lambda: transforms.gate_gradient(-1.0), "limit=-1.0; must be positive"),
    (lambda: transforms.bop(gamma=0.0), r"gamma=0.0; must lie in \(0, 1\]"),
    (lambda: transforms.bop(threshold=-1.0), "threshold=-1.0; must be 0"),
    (lambda: transforms.bop2nd(0.5, 2.0, 0.0), "sigma=2.0; must lie"),
    (lambda: transforms.bop2nd(2.0, 0.5, 0.0), "gamma=2.0; must lie"),
    (lambda: transforms.bop2nd(0.5, 0.5, -0.1), "threshold=-0.1; must be 0"),
    (lambda: transforms.bop2nd(0.5, 0.5, 0.0, epsilon=0), "epsilon=0; must"),
  ],
)
def test_numbers_out_of_range_are_named(make, text):
  with pytest.raises(ValueError, match=text):
    make()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gate_stops_outward_gradients_beyond_the_limit_only(dtype):
  #           out,  back, at,  in,  at,   out,  back
  w = jnp.array([1.5, 1.5, 1.0, 0.5, -1.0, -1.5, -1.5], dtype)
  g = jnp.array([-2.0, 2.0, -2.0, -2.0, 2.0, 2.0, -2.0], dtype)
  tx = transforms.gate_gradient(1.0)
  gated, _ = tx.update({"w": g}, tx.init({"w": w}), {"w": w})
  assert gated["w"].dtype == dtype
  expected = [0.0, 2.0, -2.0, -2.0, 2.0, 0.0, -2.0]
  np.testing.assert_array_equal(gated["w"], jnp.array(expected, dtype))


def test_gate_bounds_what_descent_reaches_and_lets_it_return():
  tx = optax.chain(transforms.gate_gradient(1.0), optax.sgd(0.25))
  params = jnp.array([0.9])
  state = tx.init(params)
  seen = []
  for g in (-1.0, -1.0, -1.0, 1.0, 1.0):
    updates, state = tx.update(jnp.array([g]), state, params)
    params = optax.apply_updates(params, updates)
    seen.append(float(params[0]))
  assert seen == pytest.approx([1.15, 1.15, 1.15, 0.9, 0.65])


# Four weights over three steps; gamma and threshold are powers of two, so every
# number below is exact.
WEIGHTS = [1.0, -1.0, 1.0, -1.0]
GRADIENTS = [[4, 4, 1, -2], [4, -8, 1, -2], [-4, -8, 0, 6]]


def run(tx, dtype=jnp.float32, jit=False):
  """Weights, after each of the three steps, and the last state."""
  params = {"w": jnp.array(WEIGHTS, dtype)}
  state = tx.init(params)
  update = jax.jit(tx.update) if jit else tx.update
  seen = []
  for g in GRADIENTS:
    updates, state = update({"w": jnp.array(g, dtype)}, state, params)
    assert updates["w"].dtype == dtype
    params = optax.apply_updates(params, updates)
    seen.append(params["w"].astype(jnp.float32).tolist())
  return seen, state


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_bop_by_hand(dtype, jit):
  seen, state = run(transforms.bop(gamma=0.5, threshold=0.5), dtype, jit)
  # m: [2, 2, .5, -1] -> [3, -3, .75, -1.5] -> [-.5, -5.5, .375, 2.25]
  assert seen == [
    [-1, -1, 1, 1],  # 2 > .5; -2; .5 is not above .5; 1 > .5.
    [-1, 1, -1, 1],  # -3; 3 > .5; .75 > .5; -1.5.
    [-1, 1, -1, -1],  # .5 is not above .5; -5.5; -.375; 2.25 > .5.
  ]
  assert state.count == 3
  assert state.momentum["w"].dtype == jnp.float32
  assert state.momentum["w"].tolist() == [-0.5, -5.5, 0.375, 2.25]


def test_bop_agrees_with_numpy_over_many_steps():
  rng = np.random.default_rng(0)
  w = np.where(rng.random(64) < 0.5, -1, 1).astype(np.float32)
  tx = transforms.bop(gamma=2**-6, threshold=2**-4)
  params = jnp.array(w)
  state = tx.init(params)
  m = np.zeros_like(w)
  flipped = 0
  for _ in range(50):
    g = rng.normal(size=64).astype(np.float32)
    m += np.float32(2**-6) * (g - m)
    flip = m * w > np.float32(2**-4)
    w[flip] *= -1
    flipped += flip.sum()
    updates, state = tx.update(jnp.array(g), state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params, w)
  assert flipped > 20
  np.testing.assert_allclose(state.momentum, m, rtol=1e-6, atol=1e-7)


def test_bop_defaults_move_in_bfloat16():
  # In bfloat16 an average with gamma 1e-4 would stand still.
  tx = transforms.bop()
  params = jnp.ones(1, jnp.bfloat16)
  state = tx.init(params)
  for _ in range(2):
    _, state = tx.update(params, state, params)
  np.testing.assert_allclose(state.momentum, [1e-4 + 1e-4 * (1 - 1e-4)])


def test_bop_follows_schedules_by_updates_done():
  tx = transforms.bop(
    gamma=lambda count: jnp.where(count == 1, 0.5, 0.25),
    threshold=lambda count: jnp.where(count == 2, 0.0, 1e6),
  )
  seen, state = run(tx)
  # m: [1, 1, .25, -.5] -> [2.5, -3.5, .625, -1.25] -> a quarter of the way.
  assert seen[0] == seen[1] == WEIGHTS
  assert state.momentum["w"].tolist() == [0.875, -4.625, 0.46875, 0.5625]
  assert seen[2] == [-1, 1, -1, -1]


@pytest.mark.parametrize("jit", [False, True])
def test_bop2nd_by_hand(jit):
  tx = transforms.bop2nd(0.5, 0.25, 1.0, epsilon=1e-10)
  seen, state = run(tx, jit=jit)
  # m as in Bop. v: [4, 4, .25, 1] -> [7, 19, .4375, 1.75]
  #   -> [9.25, 30.25, .328125, 10.3125]
  # m / sqrt v: [1, 1, 1, -1] - epsilon -> [1.13, -.69, 1.13, -1.13]
  #   -> [-.16, -1, .65, .70]
  assert seen == [[1, -1, 1, -1], [-1, -1, -1, 1], [-1, -1, -1, 1]]
  assert state.count == 3
  assert state.momentum["w"].tolist() == [-0.5, -5.5, 0.375, 2.25]
  assert state.variance["w"].tolist() == [9.25, 30.25, 0.328125, 10.3125]


def test_bop2nd_weighs_evidence_against_epsilon():
  # m / (sqrt v + epsilon) = 2 / (2 + 2) and 6 / (6 + 2).
  tx = transforms.bop2nd(1.0, 1.0, 0.5, epsilon=2.0)
  params = jnp.ones(2)
  updates, _ = tx.update(jnp.array([2.0, 6.0]), tx.init(params), params)
  assert updates.tolist() == [0.0, -2.0]


@pytest.mark.parametrize(
  "tx", [transforms.bop(), transforms.bop2nd(0.5, 0.5, 0.0)]
)
def test_state_keeps_its_types_as_a_scan_demands(tx):
  params = {"w": jnp.ones(2, jnp.bfloat16)}
  state = tx.init(params)
  _, after = tx.update(params, state, params)
  chex.assert_trees_all_equal_shapes_and_dtypes(state, after)


def test_bop2nd_does_not_see_the_gradients_scale_and_rests_without_one():
  tx = transforms.bop2nd(0.5, 0.5, 0.1)
  for scale, flips in ((1e-6, True), (1e6, True), (0.0, False)):
    params = jnp.ones(3)
    updates, _ = tx.update(scale * params, tx.init(params), params)
    assert (updates == -2).all() if flips else (updates == 0).all()


def mixed_params():
  return {
    "conv": {"binary_kernel": jnp.array([[1.0, -1.0], [1.0, -1.0]])},
    "norm": {"scale": jnp.array([1.0, 1.0])},
  }


def by_name(params):
  return {
    "conv": {"binary_kernel": "binary"},
    "norm": jax.tree.map(lambda _: "float", params["norm"]),
  }


@pytest.mark.parametrize(
  "binary",
  [
    transforms.bop(gamma=1.0, threshold=0.5),
    transforms.bop2nd(1.0, 1.0, 0.5),
    optax.chain(optax.clip(1.0), transforms.bop(gamma=1.0, threshold=0.5)),
  ],
)
def test_flips_beside_another_optimiser(binary):
  params = mixed_params()
  tx = optax.partition({"binary": binary, "float": optax.sgd(0.5)}, by_name)
  grads = jax.tree.map(jnp.ones_like, params)
  updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
  new = optax.apply_updates(params, updates)
  assert new["conv"]["binary_kernel"].tolist() == [[-1, -1], [-1, -1]]
  assert new["norm"]["scale"].tolist() == [0.5, 0.5]


def test_gate_and_clip_around_adam_in_a_partition():
  params = {
    "conv": {"binary_kernel": jnp.array([[1.5, -0.5], [1.5, 0.95]])},
    "norm": {"scale": jnp.array([3.0])},
  }
  grads = {
    "conv": {"binary_kernel": jnp.array([[-1.0, -1.0], [1.0, -1.0]])},
    "norm": {"scale": jnp.array([-1.0])},
  }
  latent = optax.chain(
    transforms.gate_gradient(1.0), optax.adam(0.1), transforms.clip_latent(2.0)
  )
  tx = optax.partition({"binary": latent, "float": optax.adam(0.1)}, by_name)
  updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
  new = optax.apply_updates(params, updates)
  # Adam's first step is its rate against the gradient, 0 for none.
  np.testing.assert_allclose(
    new["conv"]["binary_kernel"], [[1.5, -0.4], [1.4, 1.05]], rtol=1e-5
  )
  np.testing.assert_allclose(new["norm"]["scale"], [3.1], rtol=1e-5)


def test_flip_ratio_by_hand_with_absent_leaves():
  old = {"a": jnp.array([1.0, -1.0, 0.5]), "b": None, "c": optax.MaskedNode()}
  new = {"a": jnp.array([0.0, 1.0, -0.1]), "b": None, "c": optax.MaskedNode()}
  # Zero is +1, so the first stays.
  pair = transforms.flip_ratio(old, new)
  chex.assert_trees_all_equal(pair, (jnp.float32(2), jnp.float32(3)))
  chex.assert_trees_all_equal(jax.jit(transforms.flip_ratio)(old, new), pair)


def test_starved_share_by_hand_with_absent_leaves():
  gradients = {
    # Channels: none at all, one weight, all, -0 and 0.
    "dense": jnp.array([[0.0, 0.0, 1.0, -0.0], [0.0, -1e-30, 2.0, 0.0]]),
    "conv": jnp.full((3, 3, 2, 5), 0.5).at[..., 1].set(0.0),
    "b": None,
    "c": optax.MaskedNode(),
  }
  pair = transforms.starved_share(gradients)
  chex.assert_trees_all_equal(pair, (jnp.float32(3), jnp.float32(9)))
  compiled = jax.jit(transforms.starved_share)(gradients)
  chex.assert_trees_all_equal(compiled, pair)


def test_without_a_clip_weights_starve():
  """What larq warns of: weights that have left the estimator's bound."""
  kernel = jnp.array([[1.5, 1.5], [-1.2, 0.5]])
  gradient = jax.grad(lambda k: jnp.sum(binarise.binarise_kernel(k)))(kernel)
  assert transforms.starved_share(gradient) == (1, 2)
  clipped = jnp.clip(kernel, -1, 1)
  gradient = jax.grad(lambda k: jnp.sum(binarise.binarise_kernel(k)))(clipped)
  assert transforms.starved_share(gradient) == (0, 2)


def test_signs_after_an_update():
  params = {"a": jnp.array([0.3, -0.2, 0.5, -1.0]), "b": optax.MaskedNode()}
  updates = {"a": jnp.array([0.0, 0.2, -1.0, 2.0]), "b": optax.MaskedNode()}
  tx = transforms.to_signs()
  found, _ = jax.jit(tx.update)(updates, tx.init(params), params)
  new = optax.apply_updates(params, found)
  np.testing.assert_allclose(new["a"], [1, 1, -1, 1], rtol=1e-6)  # 0 is +1.
  with pytest.raises(ValueError, match="to_signs needs params"):
    tx.update(updates, tx.init(params))


def test_bop_from_latent_weights_flips_signs():
  params = jnp.array([0.3, 0.3, -0.7, -0.7])
  tx = optax.chain(transforms.bop(1.0, 0.1), transforms.to_signs())
  state = tx.init(params)
  gradient = jnp.array([1.0, -1.0, 1.0, -1.0])  # Along w: first and last.
  expected = ([-1, 1, -1, 1], [-1, 1, -1, 1], [1, 1, -1, 1])
  for sign, wanted in zip((1, 1, -1), expected, strict=True):
    flips = jnp.array([1.0, 1.0, 1.0, 1.0])
    if sign < 0:  # Now only the first has evidence along it.
      flips = jnp.array([1.0, 0.0, 0.0, 0.0])
    updates, state = tx.update(gradient * flips * sign, state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, wanted, rtol=1e-6)
  np.testing.assert_array_equal(params, expected[-1])  # To the last bit.


def test_nothing_latent_counts_nothing():
  chex.assert_trees_all_equal(
    transforms.flip_ratio({}, {}), (jnp.float32(0), jnp.float32(0))
  )
  chex.assert_trees_all_equal(
    transforms.starved_share({"a": None}), (jnp.float32(0), jnp.float32(0))
  )
